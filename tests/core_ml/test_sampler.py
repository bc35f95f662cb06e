"""One sampler for every kind of network: its quick step beside the textbook's, and rows that know nothing of others."""

import random
from itertools import pairwise
from typing import Any

import pytest
import torch

from core_ml.model.gpt import GPT
from core_ml.sampling import compiled, generate, products, slots
from core_ml.sampling.products import Products, filled_up
from core_ml.sampling.sampler import Row, Sampler
from core_ml.sampling.settings import Sampling
from core_ml.sampling.shape import Shape
from tests.core_ml.sampled import CONTEXT, NETWORKS, PROMPTS, forward, network, row, run


@pytest.fixture(scope="module")
def model() -> GPT:
    return network()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_quick_step_gives_the_logits_of_the_textbook_pass(name: str) -> None:
    """Rows of very different lengths, step by step, against one pass over each whole sequence."""
    model = network(**NETWORKS[name])
    sampler: Sampler[Row] = Sampler(model)
    rows = [row(prompt, 40) for prompt in PROMPTS]
    sampler.join(rows)
    found: list[list[float]] = [[] for _ in rows]
    for _ in range(40):
        for one in sampler.rows:
            assert one.last is not None
            found[rows.index(one)].append(one.last.logprob)
        sampler.step()
    for one, logprobs in zip(rows, found, strict=True):
        wanted = forward(model, [*one.prompt, *one.ids[:40]])[len(one.prompt) - 1 : -1]
        assert one.ids[:40] == wanted.argmax(-1).tolist()
        assert logprobs == pytest.approx(wanted.amax(-1).tolist(), abs=2e-5)


@pytest.mark.parametrize("way", products.WAYS)
@pytest.mark.parametrize("name", ["our own", "gpt2-like"])
def test_every_way_of_multiplying_gives_the_same(
    name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not products.available(way, torch.float32):
        pytest.skip(f"this torch was built without {way}")
    model = network(**NETWORKS[name])
    plain = [row(prompt, 30, n_top=3) for prompt in PROMPTS[:3]]
    monkeypatch.setattr(products, "PACK_AFTER", 10**9)
    sampler: Sampler[Row] = Sampler(model)
    sampler.join(plain)
    run(sampler)
    used = []
    monkeypatch.setattr(products, "PACK_AFTER", 1)
    monkeypatch.setattr(products.measured, "remembered", lambda what, measure: used.append(what) or way)
    packed = [row(prompt, 30, n_top=3) for prompt in PROMPTS[:3]]
    sampler = Sampler(model)
    sampler.join(packed)
    run(sampler)
    assert used
    for one, other in zip(plain, packed, strict=True):
        assert one.ids == other.ids and one.last is not None and other.last is not None
        assert one.last.logprob == pytest.approx(other.last.logprob, abs=2e-5)


def test_the_quickest_way_is_one_that_this_machine_has(model: GPT) -> None:
    sampler: Sampler[Row] = Sampler(model)
    found = sampler._step.products._quickest(4)
    assert found in products.WAYS and products.available(found, torch.float32)


def test_matrices_are_laid_out_for_a_number_of_rows_that_stays(
    model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [filled_up(n) for n in (1, 2, 3, 5, 9, 16, 17, 40, 64)] == [1, 2, 4, 8, 16, 16, 32, 48, 64]
    monkeypatch.setattr(products.measured, "remembered", lambda what, measure: "plain")
    held = Products(Sampler(model)._step.products._linears)
    # Five rows are computed as they come until they have stayed a while; then as eight, and so are fewer.
    assert [held.rows(5) for _ in range(5)] == [5, 5, 5, 8, 8]
    assert [held.rows(n) for n in (6, 3, 4)] == [8, 8, 8]
    assert held.rows(9) == 9
    assert [held.rows(2) for _ in range(16)][-2:] == [8, 2]


def test_bfloat16_stays_near_float32(model: GPT) -> None:
    exact, rounded = row(PROMPTS[2], 1), row(PROMPTS[2], 1)
    Sampler(model).join([exact])
    Sampler(model, torch.bfloat16).join([rounded])
    assert exact.last is not None and rounded.last is not None
    assert rounded.last.logprob == pytest.approx(exact.last.logprob, abs=0.1)
    sampler: Sampler[Row] = Sampler(model, torch.bfloat16)
    sampler.join([row(prompt, 20) for prompt in PROMPTS[:3]])
    run(sampler)


SETTINGS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.0},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 1.3, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.3},
    {"temperature": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.4},
    {"temperature": 0.9, "logit_bias": ((3, 4.0), (4, -100.0))},
]


def test_a_row_gets_the_same_alone_and_in_a_full_batch_that_changes(model: GPT) -> None:
    def rows() -> list[Row]:
        return [
            row(PROMPTS[number % 4], 14 + number % 13, number, how=SETTINGS[number % 8], n_top=number % 3)
            for number in range(64)
        ]

    alone = rows()
    for one in alone[::3]:
        sampler: Sampler[Row] = Sampler(model)
        sampler.join([one])
        run(sampler)
    together = rows()
    sampler = Sampler(model)
    for begin in range(0, 64, 16):  # they join in the middle of others' ways
        sampler.join(together[begin : begin + 16])
        for _ in range(3):
            sampler.step()
    run(sampler)
    for one, other in list(zip(alone, together, strict=True))[::3]:
        assert one.ids == other.ids
        assert one.last is not None and other.last is not None
        assert one.last.logprob == pytest.approx(other.last.logprob, abs=1e-4)
        assert [id for id, _ in one.last.top] == [id for id, _ in other.last.top]


def test_rows_of_one_prompt_read_it_once(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    hidden = model.hidden
    monkeypatch.setattr(
        model, "hidden", lambda ids, **more: shapes.append(tuple(ids.shape)) or hidden(ids, **more)
    )
    sampler: Sampler[Row] = Sampler(model)
    group = [row(PROMPTS[1], 8, seed, how={"temperature": 1.0}) for seed in range(16)]
    sampler.join([*group, row(PROMPTS[2])])
    run(sampler)
    assert shapes == [(2, 18)]
    assert len({tuple(one.ids) for one in group}) > 8


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_that_share_a_prompt_get_what_they_would_get_alone(name: str) -> None:
    """Groups of two lengths and a row of its own, joining and leaving at different steps."""
    model = network(**NETWORKS[name])
    sampler: Sampler[Row] = Sampler(model)
    first = [row(PROMPTS[3], 6 + 3 * n, n, how={"temperature": 1.0}) for n in range(6)]
    second = [row(PROMPTS[1], 9 + 2 * n, n, how={"temperature": 1.0}) for n in range(4)]
    sampler.join([*first, row(PROMPTS[2], 14)])
    shares = NETWORKS[name].get("window") is None
    assert sampler.slots.trunks.lengths == ([0, len(PROMPTS[3])] if shares else [0])
    seen: dict[Row, list[float]] = {}
    for number in range(30):
        for one in sampler.rows:
            assert one.last is not None
            if len(seen.setdefault(one, [])) < len(one.ids):
                seen[one].append(one.last.logprob)
        for done in [one for one in sampler.rows if len(one.ids) == one.max_new_tokens]:
            sampler.leave(sampler.rows.index(done))
        if number == 4:
            sampler.join(second)
        elif sampler.rows:
            sampler.step()
    assert not sampler.rows and sampler.slots.trunks.lengths == [0]
    for one, logprobs in seen.items():
        wanted = forward(model, [*one.prompt, *one.ids])[len(one.prompt) - 1 : -1]
        own = wanted.gather(-1, torch.tensor(one.ids)[:, None])[:, 0].tolist()
        assert logprobs == pytest.approx(own, abs=1e-4)


def test_logprobs_and_rivals_of_prompt_and_completion_come_with_the_first_pass(
    model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = row(PROMPTS[3], 1, n_top=4, scores_prompt=True)
    sampler: Sampler[Row] = Sampler(model)
    calls = []
    hidden = model.hidden
    monkeypatch.setattr(model, "hidden", lambda *a, **more: calls.append(a) or hidden(*a, **more))
    sampler.join([one])
    assert len(calls) == 1 and one.last is not None
    logprobs = forward(model, [*one.prompt, *one.ids])
    for place, draw in enumerate([*one.prompt_draws, one.last]):
        assert draw.id == [*one.prompt, *one.ids][place + 1]
        assert draw.logprob == pytest.approx(float(logprobs[place, draw.id]), abs=1e-5)
        best = logprobs[place].topk(4)
        assert [id for id, _ in draw.top] == best.indices.tolist()
        assert [value for _, value in draw.top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_logprobs_are_the_models_own_whatever_changes_the_draw(model: GPT) -> None:
    for how in SETTINGS:
        one = row(PROMPTS[1], 15, 3, how=how)
        sampler: Sampler[Row] = Sampler(model)
        sampler.join([one])
        run(sampler)
        assert one.last is not None
        wanted = forward(model, [*one.prompt, *one.ids])[-2, one.ids[-1]]
        assert one.last.logprob == pytest.approx(float(wanted), abs=1e-4)


def test_penalties_and_bias_change_logits_as_their_authors_say() -> None:
    how = Sampling(
        repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25, logit_bias=((3, 1.5),)
    )
    shape = Shape(how, [1, 2], 5, torch.device("cpu"))
    for id in (0, 0, 2):
        shape.feed(id)
    # Seen in prompt or completion are 0, 1 and 2: halved above zero, doubled below. Then 0, drawn twice, loses
    # 0.5 + 2 · 0.25, and 2, drawn once, 0.5 + 0.25; 3 gets its bias.
    changed = shape.changed(torch.tensor([4.0, -1.0, 2.0, 1.0, 3.0]))
    assert changed.tolist() == [4.0 / 2 - 1.0, -2.0, 2.0 / 2 - 0.75, 2.5, 3.0]


def test_known_beginnings_are_not_read_again_and_change_nothing(model: GPT) -> None:
    history = PROMPTS[3]
    fresh = row([*history, 3, 1, 4], 10)
    sampler: Sampler[Row] = Sampler(model)
    sampler.join([fresh])
    run(sampler)
    remembering: Sampler[Row] = Sampler(model, prefix_bytes=1 << 20)
    first = row(history, 10)
    remembering.join([first])
    run(remembering)
    again = row([*history, 3, 1, 4], 10)
    remembering.join([again])
    assert remembering.prefixes is not None and remembering.prefixes.n_reused == len(history)
    run(remembering)
    assert again.ids == fresh.ids
    # What a row wrote is known too: the next turn of a chat begins with it.
    turn = row([*history, *first.ids, 9, 9], 5)
    remembering.join([turn])
    assert remembering.prefixes.n_reused == 2 * len(history) + len(first.ids) - 1
    run(remembering)
    plain: Sampler[Row] = Sampler(model)
    plain.join([other := row([*history, *first.ids, 9, 9], 5)])
    run(plain)
    assert turn.ids == other.ids


def test_beginnings_are_kept_within_their_bytes(model: GPT) -> None:
    sampler: Sampler[Row] = Sampler(model, prefix_bytes=200_000)
    assert sampler.prefixes is not None
    for seed in range(30):
        draws = random.Random(seed)
        sampler.join([row([draws.randrange(100) for _ in range(40)], 1)])
        sampler.leave(0)
        # 40 tokens are 2 · 3 layers · 2 heads · 8 · 4 bytes · 40 = 15,360 bytes.
        assert sampler.prefixes.n_bytes == min(seed + 1, 200_000 // 15_360) * 15_360


def test_a_row_may_leave_at_any_step_and_the_others_go_on(model: GPT) -> None:
    rows = [row(prompt, 30) for prompt in PROMPTS]
    sampler: Sampler[Row] = Sampler(model)
    sampler.join(rows)
    for gone in (rows[0], rows[2]):
        for _ in range(4):
            sampler.step()
        sampler.leave(sampler.rows.index(gone))
    run(sampler)
    assert [len(one.ids) for one in rows] == [5, 30, 9, 30]
    for one in (rows[1], rows[3]):
        wanted = forward(model, [*one.prompt, *one.ids])[len(one.prompt) - 1 : -1]
        assert one.ids == wanted.argmax(-1).tolist()


def test_places_grow_with_the_rows_and_never_beyond_the_context(model: GPT) -> None:
    sampler: Sampler[Row] = Sampler(model)
    one = row([1, 2, 3], CONTEXT - 3)
    sampler.join([one])
    assert sampler.slots.keys[0].size(2) == slots.GROW_PLACES
    run(sampler)
    assert len(one.ids) == CONTEXT - 3 and sampler.slots.keys[0].size(2) == CONTEXT


@pytest.mark.parametrize("how", ["plain", "remembering", "compiled"])
@pytest.mark.parametrize("name", ["our own", "gemma-like", "smollm-like"])
def test_places_come_and_go_with_the_longest_row_and_change_nothing(name: str, how: str) -> None:
    """Long rows leave, short ones grow over the border and new ones join: each as in one pass over its text."""
    model = network(**NETWORKS[name] | ({"n_layer": 1} if how == "compiled" else {}))
    draws = random.Random(0)
    waiting = [
        row([draws.randrange(100) for _ in range(length)], n, n, how={"temperature": 1.0})
        for length, n in (
            (130, 3),
            (29, 80),
            (3, 70),
            (31, 36),
            (120, 4),
            (1, 64),
            (64, 33),
            (30, 9),
            (140, 19),
        )
    ]
    rows, seen = list(waiting), {one: list[float]() for one in waiting}
    sampler: Sampler[Row] = Sampler(model, prefix_bytes=1 << 20 if how == "remembering" else 0)
    if how == "compiled":
        compiled.use(sampler._step, 4)
    places = []
    # What is made without a value is NaN, so that a place that nobody wrote to is noticed.
    torch.use_deterministic_algorithms(how != "compiled", warn_only=True)
    try:
        while waiting or sampler.rows:
            sampler.join([waiting.pop(0) for _ in range(min(len(waiting), 4 - len(sampler.rows)))])
            for one in list(sampler.rows):
                assert one.last is not None
                if len(seen[one]) < len(one.ids):
                    seen[one].append(one.last.logprob)
                if len(one.ids) == one.max_new_tokens:
                    sampler.leave(sampler.rows.index(one))
            if sampler.rows:
                sampler.step()
                places.append(sampler.slots.keys[0].size(2))
    finally:
        torch.use_deterministic_algorithms(False)
    moves = {(a, b) for a, b in pairwise(places) if a != b}
    assert {(160, 128), (128, 96), (96, 128), (128, 160)} <= moves
    assert all(a - b <= slots.GROW_PLACES for a, b in moves)
    for one in rows:
        wanted = forward(model, [*one.prompt, *one.ids])[len(one.prompt) - 1 : -1]
        own = wanted.gather(-1, torch.tensor(one.ids)[:, None])[:, 0].tolist()
        assert len(own) == one.max_new_tokens and seen[one] == pytest.approx(own, abs=1e-4)


def test_a_store_has_no_more_rows_than_a_step_computes(model: GPT) -> None:
    sampler: Sampler[Row] = Sampler(model)
    sampler.expect(20, 4)
    sampler.join([row([number], 8, number) for number in range(20)])
    for _ in range(6):  # after some steps matrices are laid out for 32 rows
        sampler.step()
    assert sampler.slots.keys[0].size(0) == filled_up(20) == 32


def test_a_full_batch_fills_nothing_up_and_fits_its_bytes(
    model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One token is 2 · 3 layers · 2 heads · 8 · 4 bytes = 384 bytes in float32, and 100 are 38,400.
    size = 384 // 4 * generate.precision(model.device).itemsize * 100
    for room, n_rows in ((1, 1), (3, 2), (9, 8), (16, 16), (31, 16), (50, 48), (10_000, generate.MAX_ROWS)):
        monkeypatch.setattr(generate, "CACHE_BYTES", room * size + 1)
        assert generate.max_rows(model, 100) == n_rows == filled_up(n_rows)
