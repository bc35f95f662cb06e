"""Conversations to rows: which side they stand on, batches of like length, and rows that hold several."""

from pathlib import Path

import numpy as np
import pytest
import torch

from core_ml.artifact import Folder
from core_ml.errors import UserError
from core_ml.tasks.rows import read_rows
from core_ml.training.conversations import ByLength, Conversations, Packed, best_fit, cut, encode
from core_ml.training.loss import masked_backward, masked_logprobs
from core_ml.training.segments import separated
from tests.core_ml import small
from tests.core_ml.models import small_model


def encoded(folder: Path, max_seq_len: int = 64) -> Conversations:
    dataset = Folder(small.conversations(folder / "data"))
    rows = read_rows(dataset, ["messages"], input="conversations")
    list(encode([("talks", rows)], small.tokenizer(), folder / "rows", max_seq_len, 0.1))
    return Conversations(folder / "rows")


def test_no_question_stands_on_both_sides(tmp_path: Path) -> None:
    found = encoded(tmp_path)
    assert found.n == 120 and 3 < len(found.val) < 30
    decode = small.tokenizer().decode
    questions = [{decode(found.row(i)[0]) for i in side} for side in (found.train, found.val)]
    assert len(found.train) + len(found.val) == 120 and not questions[0] & questions[1]


def test_a_padded_batch_learns_what_its_rows_learn(tmp_path: Path) -> None:
    found = encoded(tmp_path)
    ids, mask = found.pad(found.train[:5])
    for place, number in enumerate(found.train[:5]):
        row_ids, row_mask = found.row(number)
        assert ids[place, : len(row_ids)].tolist() == row_ids.tolist()
        assert mask[place].tolist() == [
            *row_mask.astype(bool).tolist(),
            *[False] * (ids.size(1) - len(row_ids)),
        ]


def test_an_epoch_of_conversations_holds_each_once_within_the_budget(tmp_path: Path) -> None:
    found = encoded(tmp_path)
    batches = ByLength(found, 200, epochs=2, seed=0)
    sizes = [batches.batch(step).ids for step in range(1, batches.steps + 1)]
    assert all(ids.numel() <= 200 for ids in sizes)
    assert sum(len(ids) for ids in sizes) == 2 * len(found.train)
    again = ByLength(found, 200, epochs=2, seed=0)
    assert again.batch(batches.steps).ids.tolist() == sizes[-1].tolist()


def test_a_row_longer_than_the_budget_stands_alone() -> None:
    assert [b.tolist() for b in cut(np.arange(4), np.array([3, 3, 20, 21]), 10)] == [[0, 1], [2], [3]]


def test_long_conversations_are_cut_and_those_left_without_an_answer_skipped(tmp_path: Path) -> None:
    whole = encoded(tmp_path / "a")
    shorter = encoded(tmp_path / "b", int(whole.lengths.max()) - 3)
    assert shorter.n_cut > 0 and shorter.n_skipped == 0
    with pytest.raises(UserError, match="at least 2 are needed"):
        encoded(tmp_path / "c", 8)


def test_a_thing_goes_where_the_least_room_is_left_over() -> None:
    # Rows of 10: 6 and 5 open one each, with room for 4 and for 5. 4 fits the first to the brim, 3 the second;
    # 3 finds room for 2 only and opens a third, and 2 fills the second although the third has room as well.
    assert best_fit([6, 5, 4, 3, 3, 2], 10) == [[0, 2], [1, 3, 5], [4]]
    assert best_fit([10, 10, 1], 10) == [[0], [1], [2]]


def test_an_epoch_of_packed_rows_holds_each_conversation_once_and_whole(tmp_path: Path) -> None:
    found = encoded(tmp_path)
    batches = Packed(found, 256, epochs=2, seed=0, width=64)
    assert (batches.width, batches.n_at_once) == (64, 4)
    steps_of_epoch = batches.steps // 2
    epochs: list[list[bytes]] = []
    for epoch in range(2):
        talks = []
        for step in range(1, steps_of_epoch + 1):
            batch = batches.batch(epoch * steps_of_epoch + step)
            assert batch.ids.shape[0] <= 4 and batch.ids.shape[1] == 64 and batch.segments is not None
            for ids, segments in zip(batch.ids, batch.segments, strict=True):
                talks += [ids[segments == k].numpy().tobytes() for k in range(1, int(segments.max()) + 1)]
                assert not ids[segments <= 0].any()
        epochs.append(talks)
    wanted = [found.row(i)[0].astype(np.int64).tobytes() for i in found.train]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(wanted)
    assert epochs[0] != epochs[1]
    again, other = Packed(found, 256, 2, seed=0, width=64), Packed(found, 256, 2, seed=1, width=64)
    last = batches.batch(batches.steps)
    assert torch.equal(again.batch(batches.steps).ids, last.ids)
    assert not torch.equal(other.batch(1).ids, batches.batch(1).ids)


@pytest.mark.parametrize("batching", [Packed, ByLength])
def test_a_plan_is_made_once_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batching: type[Packed] | type[ByLength]
) -> None:
    found = encoded(tmp_path)
    first = batching(found, 256, 2, 0)
    wanted = [first.batch(step).ids for step in range(1, first.steps + 1)]
    monkeypatch.setattr(batching, "_plan", None)
    again = batching(Conversations(tmp_path / "rows"), 256, 2, 0)
    assert again.steps == first.steps
    # From anywhere, in any order.
    for step in (first.steps, 1, first.steps // 2 + 1):
        assert torch.equal(again.batch(step).ids, wanted[step - 1])
    with pytest.raises(TypeError):
        batching(found, 256, 2, 1)


def mixed(folder: Path, weights: list[float] | None) -> Conversations:
    """90 sums and 10 other conversations."""
    rows = [
        [{"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "Yes."}]}]
        for i in range(100)
    ]
    datasets = [("many", [row[0] for row in rows[:90]]), ("few", [row[0] for row in rows[90:]])]
    list(encode(datasets, small.tokenizer(), folder, 64, 0.1))
    return Conversations(folder, weights)


@pytest.mark.parametrize("batching", [Packed, ByLength])
def test_datasets_are_mixed_by_weight_and_each_is_read_evenly(
    tmp_path: Path, batching: type[Packed] | type[ByLength]
) -> None:
    plain = mixed(tmp_path, None)
    n = len(plain.train)
    assert [len(own) + len(held) for own, held in zip(plain.of_train, plain.of_val, strict=True)] == [90, 10]
    assert plain.of_epoch(3, 0).tolist() == plain.train.tolist()
    found = mixed(tmp_path, [1, 3])
    assert found.shares == [0.25, 0.75]
    few = set(found.of_train[1].tolist())
    batches = batching(found, 128, 3, 0)
    read = [np.concatenate(batches.lists(step)) for step in range(1, batches.steps + 1)]
    counts = np.bincount(np.concatenate(read), minlength=100)
    quarter, rest = round(n / 4), round(n * 3 / 4)
    assert counts[found.of_train[0]].sum() == 3 * quarter and counts[found.of_train[1]].sum() == 3 * rest
    for own in found.of_train:
        assert counts[own].max() - counts[own].min() <= 1
    assert sum(number in few for number in found.of_epoch(0, 0)) == rest
    assert found.told(3)[1]["epochs"] == pytest.approx(3 * 0.75 * n / len(few), abs=0.01)
    assert len(found.held_out(4)) == 1 + min(3, len(found.of_val[1]))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 weights for 2 datasets") as caught:
        mixed(tmp_path, [1, 2, 3])
    assert caught.value.field == "weights"


def test_the_rows_of_an_update_are_named_as_they_stand_in_their_datasets(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"{i}?"}]}
        if i == 1  # nothing to learn: it is skipped
        else {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "Yes."}]}
        for i in range(4)
    ]
    list(encode([("a", rows), ("b", rows)], small.tokenizer(), tmp_path, 64, 0.1))
    found = Conversations(tmp_path)
    assert found.sizes == [3, 3]
    assert found.named(np.array([1, 5, 0, 1])) == "Conversations 1, 3 of a; 4 of b."
    assert found.named(np.array([2])) == "Conversations 4 of a."


def test_a_row_may_be_wider_than_the_network_can_read(tmp_path: Path) -> None:
    found = encoded(tmp_path)
    batch = found.packed([found.train[:1]], width=300)
    assert separated(batch.segments)[0].max() == found.lengths[found.train[0]] - 1


def test_rows_are_as_wide_as_the_longest_conversation_needs(tmp_path: Path) -> None:
    found = encoded(tmp_path)
    batches = Packed(found, 1, 1, seed=0, width=8)
    assert (batches.width, batches.n_at_once) == (int(found.lengths[found.train].max()), 1)


def test_sequences_of_a_row_begin_at_position_0_and_see_themselves_only() -> None:
    positions, mask = separated(torch.tensor([[1, 1, 2, 2, 2, 0]]))
    assert positions.tolist() == [[0, 1, 0, 1, 2, 0]]
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize(
    "changes", [{}, {"window": 6, "window_pattern": (True, False)}, {"positions": "learned"}]
)
def test_a_packed_row_loses_what_its_conversations_lose_alone(
    tmp_path: Path, in_float32: None, changes: dict
) -> None:
    found, model = encoded(tmp_path), small_model(small.tokenizer().vocab_size, **changes)
    numbers = [found.train[:3], found.train[3:5]]
    batch = found.packed(numbers, int(found.lengths[found.train[:3]].sum()) + 5)
    with torch.no_grad():
        positions, mask = separated(batch.segments)
        hidden = model.hidden(batch.ids, positions, mask=mask)
        logprobs = model.logits(hidden).log_softmax(-1)
        for row, row_numbers in enumerate(numbers):
            for segment, number in enumerate(row_numbers, 1):
                ids, learned = found.pad(np.array([number]))
                alone = masked_logprobs(model, ids, learned)[0]
                here = logprobs[row, batch.segments[row] == segment][:-1]
                together = here.gather(1, ids[0, 1:, None])[:, 0] * learned[0, 1:]
                assert learned.any() and torch.allclose(together, alone, atol=1e-5)


def test_a_packed_batch_is_learned_from_as_its_conversations_one_by_one(
    tmp_path: Path, in_float32: None
) -> None:
    found, model = encoded(tmp_path), small_model(small.tokenizer().vocab_size)
    batch = Packed(found, 256, 1, seed=0, width=64).batch(1)
    loss = masked_backward(model, batch.ids, batch.mask, batch.n_learned, batch.segments)
    together = {
        name: param.grad.clone() for name, param in model.named_parameters() if param.grad is not None
    }
    model.zero_grad()
    alone = torch.zeros(())
    for ids, mask, segments in zip(batch.ids, batch.mask, batch.segments, strict=True):
        for segment in range(1, int(segments.max()) + 1):
            own = segments == segment
            alone += masked_backward(model, ids[own][None], mask[own][None], batch.n_learned)
    assert batch.n_learned > 50 and torch.allclose(loss, alone, atol=1e-5)
    assert len(together) > 5
    for name, param in model.named_parameters():
        if name in together:
            assert torch.allclose(together[name], param.grad, atol=1e-5), name


@pytest.mark.parametrize("batching", [Packed, ByLength])
def test_a_batch_read_in_several_passes_has_the_gradient_of_one(
    tmp_path: Path, in_float32: None, batching: type[Packed] | type[ByLength]
) -> None:
    found, model = encoded(tmp_path), small_model(small.tokenizer().vocab_size)
    batch = batching(found, 1024, 1, 0).batch(1)
    assert len(batch.ids) >= 7
    losses, gradients, sizes = [], [], []
    real = model.hidden

    def hidden(ids: torch.Tensor, *args: object, **named: object) -> torch.Tensor:
        sizes.append(ids.numel())
        return real(ids, *args, **named)

    model.hidden = hidden
    # Three rows at once, so that the last pass has fewer; and fewer tokens than a row has.
    for at_once in (None, 3 * batch.ids.size(1) + 1, 1):
        model.zero_grad()
        losses.append(masked_backward(model, batch.ids, batch.mask, batch.n_learned, batch.segments, at_once))
        gradients.append([param.grad.clone() for param in model.parameters() if param.grad is not None])
    assert sizes.count(batch.ids.size(1) - 1) >= len(batch.ids) and max(sizes[1:]) <= 3 * batch.ids.size(1)
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        assert torch.allclose(loss, losses[0], rtol=1e-6)
        for ours, wanted in zip(gradient, gradients[0], strict=True):
            assert torch.allclose(ours, wanted, atol=1e-6, rtol=1e-4)


def test_ranks_share_the_rows_of_a_batch(tmp_path: Path) -> None:
    batch = Packed(encoded(tmp_path), 256, 1, seed=0, width=64).batch(1)
    parts = [batch.part(rank, 3, torch.device("cpu")) for rank in range(3)]
    assert [len(part.ids) for part in parts] == [2, 1, 1]
    assert torch.equal(parts[1].segments, batch.segments[1:2])
    assert sum(part.n_learned for part in parts) == batch.n_learned
