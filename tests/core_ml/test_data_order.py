"""The order in which training text is read: shuffled without being held, mixed by weight, the same on any ranks."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from core_ml.training.batches import Batches
from core_ml.training.permutation import Permutation, key, share

SEQ_LEN = 8


class Counted:
    """A shard of so many tokens, token i being i, that no memory could hold: it makes what is asked for."""

    def __init__(self, n: int) -> None:
        self.n, self.read = n, 0

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, span: slice) -> np.ndarray:
        found = np.arange(*span.indices(self.n))
        self.read += len(found)
        return found


class Dataset:
    """Stands in for `Tokens`, whose shards are files."""

    def __init__(self, *sizes: int) -> None:
        self.shards: Any = [Counted(size) for size in sizes]
        self.n_tokens = sum(sizes)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 1000, 10_007])
def test_an_order_holds_everything_once(n: int) -> None:
    order = Permutation(n, key(7, n))(np.arange(n))
    assert sorted(order.tolist()) == list(range(n))
    places = np.arange(n)[:: max(1, n // 10)]
    assert Permutation(n, key(7, n))(places).tolist() == order[places].tolist()


def test_every_order_of_four_things_is_drawn_about_equally_often() -> None:
    drawn = Counter(tuple(Permutation(4, key(seed))(np.arange(4)).tolist()) for seed in range(4800))
    # 24 orders, 200 of each expected with a deviation of 14.
    assert len(drawn) == 24 and min(drawn.values()) > 140 and max(drawn.values()) < 260


def test_a_long_order_shows_no_trace_of_the_one_before() -> None:
    n = 100_000
    order = Permutation(n, key(0))(np.arange(n))
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 0.015
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.015
    # Neighbours that stay within a hundredth of each other: a fiftieth of all, as by chance.
    assert np.mean(np.abs(np.diff(order)) < n / 100) == pytest.approx(0.02, abs=0.003)


def test_numbers_from_several_numbers_depend_on_each_and_on_their_order() -> None:
    assert len({key(1, 2), key(2, 1), key(1, 3), key(1), key(0, 1, 2), key(1, 2, 0)}) == 6
    assert np.mean([share(n) for n in range(2000)]) == pytest.approx(0.5, abs=0.02)


def test_the_same_seed_gives_the_same_order_and_another_another() -> None:
    first, again, other = (Batches([Dataset(5000, 3000)], SEQ_LEN, 16, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(first.batch(step), again.batch(step)) for step in (1, 2, 99))
    assert not np.array_equal(first.batch(1), other.batch(1))


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 20])
def test_the_ranks_together_read_the_batch_of_one(ranks: int) -> None:
    datasets = [Dataset(5000), Dataset(900, 400)]
    whole = Batches(datasets, SEQ_LEN, 16, 0).batch(37)
    shares = [Batches(datasets, SEQ_LEN, 16, 0).batch(37, rank, ranks) for rank in range(ranks)]
    put_back = np.empty_like(whole)
    for rank, rows in enumerate(shares):
        put_back[rank::ranks] = rows
    assert np.array_equal(put_back, whole)


def test_a_late_step_of_an_endless_corpus_touches_its_own_rows_only() -> None:
    datasets = [Dataset(10**12, 10**11), Dataset(10**9)]
    batches = Batches(datasets, SEQ_LEN, 16, 0, [2.0, 1.0])
    rows = batches.batch(10**6, rank=1, ranks=4)
    assert rows.shape == (4, SEQ_LEN + 1)
    assert sum(shard.read for dataset in datasets for shard in dataset.shards) == 4 * (SEQ_LEN + 1)
    assert (np.diff(rows) == 1).all()  # windows of what stands there, whole


def test_shares_of_a_mixture_are_the_weights_from_the_first_rows_on() -> None:
    batches = Batches([Dataset(5000), Dataset(5000), Dataset(5000)], SEQ_LEN, 10, 0, [5, 3, 2])
    drawn = [batches.draw(number) for number in range(3000)]
    taken = Counter[int]()
    for number, (dataset, place) in enumerate(drawn, 1):
        assert place == taken[dataset]  # counted without having counted
        taken[dataset] += 1
        assert all(abs(taken[k] - number * weight / 10) < 2 for k, weight in enumerate((5, 3, 2)))
    assert taken == {0: 1500, 1: 900, 2: 600}


def test_without_weights_all_epochs_of_a_mixture_end_together() -> None:
    datasets = [Dataset(8 * 102), Dataset(8 * 302)]
    batches = Batches(datasets, SEQ_LEN, 4, 0)
    assert batches.totals == [100, 300]
    assert batches.epochs(100) == [1.0, 1.0]
    seen = Counter(batches.draw(number)[0] for number in range(400))
    assert seen == {0: 100, 1: 300}


def test_each_dataset_counts_its_own_epochs_and_reads_each_window_once_in_each() -> None:
    datasets = [Dataset(8 * 22), Dataset(8 * 62)]
    batches = Batches(datasets, SEQ_LEN, 4, 0, [1, 1])
    assert batches.totals == [20, 60]
    assert batches.epochs(30) == [3.0, 1.0]
    small = [batches.rows(np.array([n]))[0] for n in range(120) if batches.draw(n)[0] == 0]
    for epoch in (small[:20], small[20:40], small[40:]):
        begins = sorted(int(row[0]) for row in epoch)
        assert np.diff(begins).tolist() == [SEQ_LEN] * 19
    assert [row.tolist() for row in small[:20]] != [row.tolist() for row in small[20:40]]


def test_two_datasets_of_one_size_are_read_in_orders_of_their_own() -> None:
    batches = Batches([Dataset(8000), Dataset(8000)], SEQ_LEN, 4, 0, [1, 1])
    orders: list[list[int]] = [[], []]
    for number in range(400):
        orders[batches.draw(number)[0]].append(int(batches.rows(np.array([number]))[0, 0]) // SEQ_LEN)
    assert orders[0] != orders[1]
