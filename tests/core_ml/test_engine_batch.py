"""The running batch: rows come and go, and each gets what it would get alone."""

import random
import threading

import pytest
import torch

from core_ml.engine.backend import Piece, Token
from core_ml.engine.batch import Batch
from core_ml.engine.errors import ApiError
from core_ml.engine.loop import Loop
from core_ml.engine.queue import MAX_WAITING, Queue
from core_ml.engine.rows import Row
from core_ml.engine.text import TextStream
from core_ml.model import checkpoint
from core_ml.model.gpt import GPT
from core_ml.sampling.generate import generate
from core_ml.sampling.settings import Sampling
from tests.engines import CONTEXT, write_checkpoint

PROMPTS = [[5, 60, 70, 80], [5, 61], [5, 90, 91, 92, 93, 94, 95, 96]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GPT:
    root = tmp_path_factory.mktemp("batch")
    write_checkpoint(root)
    return checkpoint.load(root / "aaaa1111" / "checkpoint", "cpu")[0]


class Asked:
    """One row and all that came out of it."""

    def __init__(
        self, prompt: list[int], n: int, temperature: float = 0.0, seed: int = 0, **more: object
    ) -> None:
        self.pieces: list[Piece] = []
        self.row = Row(
            choice=0,
            prompt=prompt,
            how=Sampling(temperature),
            max_new_tokens=n,
            draws=random.Random(seed),
            text=TextStream(),
            emit=lambda piece, _: self.pieces.append(piece),
            **{"top_logprobs": 3, **more},  # type: ignore[arg-type]
        )

    @property
    def tokens(self) -> list[Token]:
        return [token for piece in self.pieces for token in piece.tokens]

    @property
    def ended(self) -> str | None:
        return self.pieces[-1].finish_reason if self.pieces else None


def batch_of(model: GPT) -> Batch:
    return Batch(model, [b"x"] * model.config.vocab_size, frozenset())


def run(batch: Batch) -> None:
    while batch.is_busy:
        batch.step()


def forward(model: GPT, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids]))[0].log_softmax(-1)


def test_greedy_tokens_and_their_logprobs_are_those_of_a_plain_forward_pass(model: GPT) -> None:
    asked = Asked(PROMPTS[0], 20)
    batch = batch_of(model)
    batch.add([asked.row])
    run(batch)
    ids = list(PROMPTS[0])
    for token in asked.tokens:
        logprobs = forward(model, ids)[-1]
        assert token.id == int(logprobs.argmax())
        assert token.logprob == pytest.approx(float(logprobs[token.id]), abs=1e-4)
        best = logprobs.topk(3)
        assert [rival.id for rival in token.top] == best.indices.tolist()
        assert [rival.logprob for rival in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        ids.append(token.id)
    assert len(asked.tokens) == 20 and asked.ended == "length"


def test_rows_that_join_and_leave_at_any_step_get_what_they_would_get_alone(model: GPT) -> None:
    settings = [
        (PROMPTS[0], 30, 0.9, 1),
        (PROMPTS[1], 7, 0.7, 2),
        (PROMPTS[2], 19, 0.0, 3),
        (PROMPTS[1], 12, 1.1, 4),
    ]
    alone = [Asked(*setting) for setting in settings]
    for asked in alone:
        batch = batch_of(model)
        batch.add([asked.row])
        run(batch)
    together = [Asked(*setting) for setting in settings]
    batch = batch_of(model)
    for asked in together:
        batch.add([asked.row])
        for _ in range(5):
            batch.step()
    run(batch)
    for one, other in zip(alone, together, strict=True):
        assert [token.id for token in one.tokens] == [token.id for token in other.tokens]
        assert [t.logprob for t in one.tokens] == pytest.approx([t.logprob for t in other.tokens], abs=1e-4)


def test_the_rows_of_one_prompt_read_it_once_and_differ_by_their_seed(
    model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    hidden = model.hidden
    monkeypatch.setattr(
        model, "hidden", lambda ids, *rest, **more: shapes.append(ids.shape) or hidden(ids, *rest, **more)
    )
    prompt = PROMPTS[2]
    rows = [Asked(prompt, 8, 1.0, seed) for seed in range(4)]
    batch = batch_of(model)
    batch.add([asked.row for asked in rows])
    run(batch)
    assert shapes[0] == (1, 8) and all(shape == (4, 1) for shape in shapes[1:])
    assert len({tuple(token.id for token in asked.tokens) for asked in rows}) > 1


def test_a_cancelled_row_leaves_and_the_others_go_on(model: GPT) -> None:
    gone, waiting, stays = Asked(PROMPTS[0], 50), Asked(PROMPTS[1], 50), Asked(PROMPTS[2], 10)
    batch = batch_of(model)
    batch.add([gone.row, stays.row])
    batch.step()
    batch.add([waiting.row])
    gone.row.cancelled = waiting.row.cancelled = True
    run(batch)
    assert gone.ended is None and waiting.pieces == []
    assert stays.ended == "length" and len(stays.tokens) == 10


def test_more_rows_than_fit_wait_for_a_place(model: GPT) -> None:
    batch = batch_of(model)
    batch.max_rows = 2
    asked = [Asked(PROMPTS[1], 5, 1.0, seed) for seed in range(5)]
    batch.add([one.row for one in asked])
    while batch.is_busy:
        batch.step()
        assert len(batch.rows) <= 2
    assert [one.ended for one in asked] == ["length"] * 5


def test_it_counts_what_it_holds_and_what_its_rows_will_come_to_hold(model: GPT) -> None:
    place = 2 * 4 * 2 * 2 * 8  # keys and values, 4 bytes, 2 layers, 2 heads of 8
    batch = batch_of(model)
    assert batch.n_bytes == 4 * 32 * place  # four rows of 32 places, as a batch begins
    asked = [Asked(PROMPTS[0], CONTEXT - 4, 1.0, seed) for seed in range(5)]
    batch.add([one.row for one in asked])
    assert batch.n_bytes == 8 * CONTEXT * place  # five rows are filled up to eight
    for _ in range(50):
        batch.step()
    prefixes = batch.sampler.prefixes
    assert prefixes is not None and prefixes.n_bytes == 0  # shorter than what is worth keeping
    laid_out = batch.sampler._step.products.n_bytes
    assert batch.n_bytes == 8 * CONTEXT * place + laid_out
    assert batch.sampler.slots.n_bytes == 8 * 64 * place
    run(batch)
    # Idle, it keeps what was read, 95 of 96 places of each row: the last token drawn was not read any more.
    assert prefixes.n_bytes == 5 * (CONTEXT - 1) * place
    assert batch.n_bytes == 4 * 32 * place + prefixes.n_bytes + laid_out


def test_an_echoed_prompt_has_the_logprobs_of_a_plain_forward_pass(model: GPT) -> None:
    asked = Asked(PROMPTS[0], 0, echo="abcd")
    batch = batch_of(model)
    batch.add([asked.row])
    run(batch)
    logprobs = forward(model, PROMPTS[0])
    expected = [float(logprobs[place, id]) for place, id in enumerate(PROMPTS[0][1:])]
    assert asked.tokens[0].logprob is None
    assert [token.logprob for token in asked.tokens[1:]] == pytest.approx(expected, abs=1e-4)
    assert asked.ended == "length"


def test_echo_scores_what_a_run_sampled_as_the_run_did(model: GPT) -> None:
    for prompt, completion in zip(PROMPTS, generate(model, PROMPTS, max_new_tokens=12, seed=1), strict=True):
        asked = Asked(prompt + completion.ids, 0, echo="")
        batch = batch_of(model)
        batch.add([asked.row])
        run(batch)
        scored = asked.tokens[len(prompt) :]
        assert [token.id for token in scored] == completion.ids
        # A run multiplies in bfloat16, whose steps are 0.4 %, and the engine in float32.
        assert [token.logprob for token in scored] == pytest.approx(completion.logprobs, abs=0.1)


def test_a_row_may_fill_the_context_to_the_last_place(model: GPT) -> None:
    asked = Asked(PROMPTS[1], CONTEXT - len(PROMPTS[1]))
    batch = batch_of(model)
    batch.add([asked.row])
    run(batch)
    assert len(asked.tokens) == CONTEXT - 2


def test_probabilities_over_the_whole_vocabulary_sum_to_one(model: GPT) -> None:
    asked = Asked(PROMPTS[0], 1, top_logprobs=model.config.vocab_size)
    batch = batch_of(model)
    batch.add([asked.row])
    run(batch)
    probabilities = [torch.tensor(rival.logprob).double().exp() for rival in asked.tokens[0].top]
    assert len(probabilities) == model.config.vocab_size
    assert float(sum(probabilities)) == pytest.approx(1.0, abs=1e-5)


def test_sampled_tokens_come_as_often_as_their_probability_says(model: GPT) -> None:
    n = 4000
    asked = [Asked(PROMPTS[0], 1, 1.0, seed) for seed in range(n)]
    batch = batch_of(model)
    batch.add([one.row for one in asked])
    run(batch)
    logprobs = forward(model, PROMPTS[0])[-1]
    for id in logprobs.topk(3).indices.tolist():
        p = float(logprobs[id].exp())
        share = sum(one.tokens[0].id == id for one in asked) / n
        # Five standard errors: with fixed seeds this either holds for ever or never did.
        assert abs(share - p) < 5 * (p * (1 - p) / n) ** 0.5


def test_after_a_failed_step_every_caller_is_told_and_the_next_request_works(
    model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, batch = Loop(), batch_of(model)
    batch.max_rows = 2
    logits = model.logits
    ended = [threading.Event() for _ in range(4)]

    def ask(who: int) -> Asked:
        asked = Asked(PROMPTS[who % 3], 5)
        keep = asked.row.emit

        def emit(piece: Piece, n: int) -> None:
            keep(piece, n)
            if piece.finish_reason:
                ended[who].set()

        asked.row.emit = emit
        return asked

    def broken(hidden: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of memory")

    try:
        monkeypatch.setattr(model, "logits", broken)
        asked = [ask(who) for who in range(3)]
        batch.add([one.row for one in asked])
        loop.wake(batch)
        assert all(event.wait(20) for event in ended[:3])
        assert [one.ended for one in asked] == ["error"] * 3
        monkeypatch.setattr(model, "logits", logits)
        last = ask(3)
        batch.add([last.row])
        loop.wake(batch)
        assert ended[3].wait(20) and last.ended == "length"
    finally:
        loop.stop()


def asked_by(owner: object, n: int) -> list[Row]:
    rows = [Asked(PROMPTS[1], 4, 1.0, seed).row for seed in range(n)]
    for row in rows:
        row.owner = owner
    return rows


def test_clients_take_turns_whatever_each_has_asked_for() -> None:
    queue = Queue()
    greedy, modest, late = asked_by("greedy", 50), asked_by("modest", 2), asked_by("late", 1)
    for rows in (greedy, modest, late):
        queue.add(rows)
    # Places go to whoever has fewest: one each, then the second of those who still wait, then what is left.
    assert queue.take([], 6, 1000) == [greedy[0], modest[0], late[0], greedy[1], modest[1], greedy[2]]
    # Who holds places already waits until the others have as many.
    queue.add(asked_by("new", 3))
    assert [row.owner for row in queue.take(greedy[:3], 4, 1000)] == ["new", "new", "new", "greedy"]
    assert len(queue) == 46


def test_the_last_places_are_kept_for_who_has_none() -> None:
    queue = Queue()
    greedy, late, later = asked_by("greedy", 9), asked_by("late", 2), asked_by("later", 1)
    queue.add(greedy)
    assert queue.take([], 6, 1000, n_kept=2) == greedy[:4]
    queue.add(late)
    queue.add(later)
    assert queue.take(greedy[:4], 2, 1000, n_kept=2) == [late[0], later[0]]
    assert queue.take([*greedy[:4], late[0], later[0]], 0, 1000, n_kept=2) == []


def test_who_floods_is_refused_before_the_others_are() -> None:
    queue = Queue()
    flood = asked_by("one", 1) * (MAX_WAITING // 2)
    queue.add(flood)
    with pytest.raises(ApiError, match="2048 of your completions are waiting"):
        queue.add(asked_by("one", 1))
    queue.add(asked_by("two", 1))


def test_prompts_that_are_read_at_once_are_bounded_and_equal_ones_count_once() -> None:
    queue = Queue()
    rows = [Asked([5] * 300, 4).row for _ in range(5)]
    for row in rows[1:3]:
        row.prompt = rows[0].prompt
    queue.add(rows)
    assert len(queue.take([], 64, 500)) == 3
    assert len(queue.take([], 64, 100)) == 1  # the first may be longer


def test_what_nobody_waits_for_is_passed_over() -> None:
    queue = Queue()
    rows = asked_by("one", 3)
    queue.add(rows)
    rows[0].cancelled = rows[2].cancelled = True
    assert queue.take([], 64, 1000) == [rows[1]] and len(queue) == 0


def test_too_many_that_wait_are_refused() -> None:
    queue = Queue()
    for owner in ("one", "two"):
        queue.add(asked_by(owner, 1) * (MAX_WAITING // 2))
    with pytest.raises(ApiError, match="4096 completions are waiting"):
        queue.add(asked_by("three", 1))
