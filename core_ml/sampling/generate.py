"""Completions of many prompts at once: rows that end make room for the next, equal prompts are read once."""

import random
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from core_ml.errors import UserError
from core_ml.model.device import precision
from core_ml.model.gpt import GPT
from core_ml.sampling.products import full
from core_ml.sampling.sampler import Row, Sampler
from core_ml.sampling.settings import Sampling
from core_ml.sampling.stops import Stops

MAX_ROWS = 256
CACHE_BYTES = 1 << 30
"""Keys and values of the rows that are sampled together."""
REPORT_EVERY = 32


@dataclass(slots=True)
class Completion:
    """`ids` with their `logprobs` under the model itself, at temperature 1 and untruncated; a stop token is part of it.

    `ended` is true when it came to a stop token or a stop string, false when it ran out of room.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False

    def take(self, row: Row, stop_ids: Collection[int]) -> None:
        """The token that a row has just drawn."""
        assert row.last is not None
        self.ids.append(row.last.id)
        self.logprobs.append(row.last.logprob)
        self.ended = row.last.id in stop_ids or row.finished


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    stops: Stops | None = None,
    seed: int,
    **how: Any,
) -> list[Completion]:
    """One completion for each prompt, in their order. The same for the same seed and place in the list.

    Args:
        stops: texts that end a completion as well; the tokens that complete one are part of it.
        how: fields of `Sampling`.

    A completion also ends, with `ended` false, where `max_seq_len` leaves no room.
    Raises: UserError for a prompt that is empty or leaves no room at all.
    """
    completions = [Completion() for _ in prompts]
    for batch in generate_in_batches(
        model,
        prompts,
        completions,
        max_new_tokens=max_new_tokens,
        stop_ids=stop_ids,
        stops=stops,
        seed=seed,
        **how,
    ):
        del batch
    return completions


def generate_in_batches(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    completions: list[Completion],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    stops: Stops | None = None,
    seed: int,
    **how: Any,
) -> Iterator[list[int]]:
    """As `generate`, filling `completions`; yields the indices of those that are done, now and then, for reports."""
    rows = rows_of(model, prompts, Sampling(**how), max_new_tokens, seed)
    for row in rows:
        row.stops = stops
    index_of = {row: index for index, row in enumerate(rows)}
    done: list[int] = []
    for row in complete(model, rows if max_new_tokens else [], stop_ids):
        completions[index_of[row]].take(row, stop_ids)
        if is_done(row, stop_ids):
            done.append(index_of[row])
            if len(done) >= REPORT_EVERY:
                yield done
                done = []
    yield done


def rows_of(
    model: GPT, prompts: Sequence[Sequence[int]], how: Sampling, max_new_tokens: int, seed: int
) -> list[Row]:
    """A row for each prompt, whose numbers come from the seed and its place.

    Raises: UserError for a prompt that is empty or leaves no room at all.
    """
    context = model.config.max_seq_len
    for prompt in prompts:
        if not 0 < len(prompt) < context:
            raise UserError(
                f"a prompt has {len(prompt)} tokens: this model reads at least 1 and at most "
                f"{context - 1} before it writes"
            )
    return [
        Row(
            prompt=prompt,
            how=how,
            draws=random.Random(f"{seed}:{index}"),
            max_new_tokens=min(max_new_tokens, context - len(prompt)),
        )
        for index, prompt in enumerate(prompts)
    ]


def complete(
    model: GPT,
    rows: Sequence[Row],
    stop_ids: Collection[int],
    sampler: Sampler[Row] | None = None,
    stepped: Callable[[list[Row]], None] | None = None,
) -> Iterator[Row]:
    """Sample all rows to their ends; yields a row each time it has drawn a token.

    Args:
        sampler: a fresh one that is set up already. stepped: is told of the rows of each step, right after it.
    """
    sampler = sampler or Sampler(model, precision(model.device))
    # Prompts of one length are read together, and equal ones once; the shortest first.
    waiting = deque(sorted(rows, key=lambda row: (len(row.prompt), tuple(row.prompt))))
    longest = max((len(row.prompt) + row.max_new_tokens for row in rows), default=0)
    limit = max_rows(model, longest)
    if rows:
        sampler.expect(*expected(model, rows))
    while waiting or sampler.rows:
        drawn = list(sampler.rows)
        if drawn:
            sampler.step()
            if stepped:
                stepped(drawn)
        # New rows join when a share of the places is free, so that their prompts are read together.
        n_free = limit - len(sampler.rows)
        if waiting and n_free >= min(len(waiting), max(1, limit // 8)):
            joining = [waiting.popleft() for _ in range(min(len(waiting), n_free))]
            sampler.join(joining)
            drawn = drawn + joining
        yield from drawn
        for place in reversed(range(len(sampler.rows))):
            if is_done(sampler.rows[place], stop_ids):
                sampler.leave(place)


def is_done(row: Row, stop_ids: Collection[int]) -> bool:
    return row.ids[-1] in stop_ids or len(row.ids) == row.max_new_tokens or row.finished


def expected(model: GPT, rows: Sequence[Row]) -> tuple[int, int, int]:
    """How many rows `complete` takes at once, in how many steps at most, and how many rows have one prompt."""
    longest = max(len(row.prompt) + row.max_new_tokens for row in rows)
    n_rows = min(max_rows(model, longest), len(rows))
    n_of_a_prompt = len(rows) // len({tuple(row.prompt) for row in rows})
    return n_rows, sum(row.max_new_tokens for row in rows) // n_rows, min(n_rows, n_of_a_prompt)


def max_rows(model: GPT, n_places: int, most: int = MAX_ROWS) -> int:
    """How many rows of `n_places` tokens find room together."""
    config = model.config
    size = precision(model.device).itemsize
    row_bytes = 2 * size * config.n_layer * config.n_kv_head * config.d_head * max(1, n_places)
    return full(max(1, min(most, CACHE_BYTES // row_bytes)))
