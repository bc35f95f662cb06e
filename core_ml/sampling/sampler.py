"""Rows that are sampled together, a token for each at a step; they join and leave at any step.

What a row gets depends on its prompt, its settings and its seed alone: its numbers are its own, and no rule of
drawing looks at another row. Sums of another order may still turn a near tie between two tokens.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from core_ml.model.device import tokens_at_once
from core_ml.model.gpt import GPT, Cache
from core_ml.sampling import compiled
from core_ml.sampling.choose import choose
from core_ml.sampling.grammar import Constraint
from core_ml.sampling.prefixes import Prefixes
from core_ml.sampling.products import PACK_AFTER, Linear
from core_ml.sampling.settings import Sampling
from core_ml.sampling.shape import Shape
from core_ml.sampling.slots import Slots
from core_ml.sampling.step import Step
from core_ml.sampling.stops import Stops

Top = list[tuple[int, float]]
SHARING = 4  # rows of one prompt from which on reading it once saves more than the rearranging costs
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(slots=True)
class Draw:
    """A token with its log-probability under the model itself, at temperature 1 and untruncated."""

    id: int
    logprob: float
    top: Top = field(default_factory=list)
    """The most probable tokens here, under the model itself."""


@dataclass(slots=True, eq=False, kw_only=True)
class Row:
    """One completion under way. `draws` gives its random numbers, one for each token."""

    prompt: Sequence[int]
    how: Sampling
    draws: random.Random
    max_new_tokens: int
    """0 for a prompt that is only scored: it is read, and does not join. The caller ends a row that has so many."""
    n_top: int = 0
    scores_prompt: bool = False
    constraint: Constraint | None = None
    ids: list[int] = field(default_factory=list)
    """What it has drawn so far."""
    last: Draw | None = None
    prompt_draws: list[Draw] = field(default_factory=list)
    """Log-probabilities of the prompt's tokens from the second on, if they were asked for."""
    shape: Shape | None = None
    stops: Stops | None = None

    @property
    def finished(self) -> bool:
        """Whether its grammar allows nothing more, or its text has come to a stop string."""
        if self.stops is not None and self.stops.reached(self.ids):
            return True
        return self.shape is not None and self.shape.finished


R = TypeVar("R", bound=Row)


def computing(method: Method) -> Method:
    """Run in inference mode, with products in the sampler's type; a caller between two steps is outside both."""

    def run(self: "Sampler[Any]", *args: Any) -> Any:
        lower = self.dtype != torch.float32
        with torch.inference_mode(), torch.autocast(self.model.device.type, self.dtype, enabled=lower):
            return method(self, *args)

    return run  # type: ignore[return-value]


class Sampler(Generic[R]):
    """A model at work. Weights that change meanwhile need a new one.

    Args:
        dtype: of products, keys and values; float32 gives the log-probabilities that the checkpoint has.
        prefix_bytes: of keys and values of earlier prompts and completions that are kept.
        compiles: whether expected steps run compiled; None finds out. Who learns from them decides by `pays`, for a whole run.
    """

    def __init__(
        self,
        model: GPT,
        dtype: torch.dtype = torch.float32,
        prefix_bytes: int = 0,
        compiles: bool | None = None,
    ) -> None:
        self.model, self.dtype, self.compiles = model, dtype, compiles
        self.rows: list[R] = []
        self.prefixes = Prefixes(model, prefix_bytes) if prefix_bytes else None
        self.kept: dict[tuple[int, ...], Tensor] | None = None
        """By prompt the logits (vocab_size,) that first tokens were drawn from, once `keep` was called."""
        with torch.inference_mode():
            self.slots = Slots(model.config, dtype, model.device)
            self._step = Step(model, dtype)

    @property
    def n_bytes(self) -> int:
        """What it holds beside the weights: keys and values, and matrices laid out."""
        prefixes = self.prefixes.n_bytes if self.prefixes is not None else 0
        return self.slots.n_bytes + prefixes + self._step.products.n_bytes

    @computing
    def join(self, rows: Sequence[R]) -> None:
        """Read the prompts of new rows, equal ones once, and draw each row's first token."""
        for group in self._groups(rows):
            prompts = list({tuple(row.prompt): None for row in group})
            cache, hidden = self._read(prompts, group)
            joining = [row for row in group if row.max_new_tokens]
            if not joining:
                continue
            place = {prompt: number for number, prompt in enumerate(prompts)}
            where = [place[tuple(row.prompt)] for row in joining]
            ends = torch.tensor([len(prompt) - 1 for prompt in prompts], device=hidden.device)
            logits = self.model.logits(hidden[torch.arange(len(prompts), device=hidden.device), ends])
            if self.kept is not None:
                self.kept.update(zip(prompts, logits, strict=True))
            self._draw(joining, logits[where])
            for number in range(len(prompts)):
                self._seat(
                    [row for row, own in zip(joining, where, strict=True) if own == number], cache, number
                )

    def keep(self) -> dict[tuple[int, str], Linear]:
        """Keep what each step computes from here on; returns the matrices that hold it, by layer and name."""
        self.kept = {}
        for linear in self._step.linears.values():
            linear.keeps = True
        return self._step.linears

    @computing
    def step(self) -> None:
        """Draw the next token of each of `rows`."""
        self._draw(self.rows, self._step([row.ids[-1] for row in self.rows], self.slots))

    @computing
    def leave(self, index: int) -> None:
        """The row of this index is done; the last row takes its place."""
        row = self.rows[index]
        if self.prefixes is not None:
            read = [*row.prompt, *row.ids][: self.slots.lengths[index]]
            keys, values = (
                [store[index] for store in stores] for stores in (self.slots.keys, self.slots.values)
            )
            self.prefixes.keep(read, keys, values)
        self.slots.remove(index)
        last = self.rows.pop()
        if index < len(self.rows):
            self.rows[index] = last

    @computing
    def expect(self, n_rows: int, n_steps: int, n_of_a_prompt: int = 1) -> None:
        """Make ready for what is known to come: room, matrices laid out, and a compiled step if that pays.

        Args:
            n_of_a_prompt: how many rows a prompt has.
        """
        self.slots.reserve(n_rows)
        if n_steps > 2 * PACK_AFTER:
            self._step.products.prepare(n_rows)
        shares = self._shares(n_of_a_prompt)
        if self.compiles:
            compiled.use(self._step, n_rows, shares)
        elif self.compiles is None:
            compiled.begin(self._step, n_rows, n_steps, shares)

    @computing
    def pays(self, n_rows: int, n_steps: int, n_of_a_prompt: int = 1) -> bool:
        """Whether compiling saves more than it costs in so many steps of so many rows: timed and remembered."""
        return compiled.pays(self._step, n_rows, n_steps, self._shares(n_of_a_prompt))

    @computing
    def rest(self) -> None:
        """Without rows, keep the weights only, and what is known of earlier prompts."""
        self.slots = Slots(self.model.config, self.dtype, self.model.device)

    def _groups(self, rows: Sequence[R]) -> list[list[R]]:
        """Rows whose prompts are read together: of like length, and not too many tokens at once."""
        room = tokens_at_once(self.model.device)
        groups: list[list[R]] = []
        prompts: set[tuple[int, ...]] = set()
        for row in sorted(rows, key=lambda row: (len(row.prompt), row.scores_prompt, tuple(row.prompt))):
            prompt = tuple(row.prompt)
            alone = self.prefixes is not None or row.scores_prompt
            full = alone or (len(prompts) + 1) * len(prompt) > room
            if not groups or (prompt not in prompts and full):
                groups.append([])
                prompts = set()
            prompts.add(prompt)
            groups[-1].append(row)
        return groups

    def _read(self, prompts: list[tuple[int, ...]], rows: Sequence[Row]) -> tuple[Cache, Tensor]:
        """Prompts (of one length or filled up on the right, where causal rows do not look) to cache and hidden states.

        With one prompt a known beginning is passed over; its hidden states are then those of the last tokens,
        moved to where they belong.
        """
        width = max(map(len, prompts))
        scoring = [row for row in rows if row.scores_prompt]
        cache = None
        if self.prefixes is not None and not scoring:
            cache = self.prefixes.begin(prompts[0], width)
        known = cache.length if cache is not None else 0
        cache = cache or Cache(self.model, len(prompts), width)
        filled = [[*prompt[known:], *[0] * (width - len(prompt))] for prompt in prompts]
        hidden = self.model.hidden(torch.tensor(filled, device=self.model.device), cache=cache)
        if known:
            hidden = torch.nn.functional.pad(hidden, (0, 0, known, 0))
        if scoring:
            self._score(scoring, hidden[0])
        if self.prefixes is not None:
            self.prefixes.keep(prompts[0], [k[0] for k in cache.keys], [v[0] for v in cache.values])
        return cache, hidden

    def _seat(self, rows: list[R], cache: Cache, number: int) -> None:
        """Let rows of one prompt join. What is kept for later needs each row whole, and so does a window."""
        if self._shares(len(rows)):
            self.slots.add_sharing(cache, number, len(rows[0].prompt), len(rows))
        else:
            for row in rows:
                self.slots.add(cache, number, len(row.prompt))
        self.rows += rows

    def _shares(self, n: int) -> bool:
        """Whether n rows of one prompt read it together."""
        return n >= SHARING and self.prefixes is None and self.model.config.window is None

    def _score(self, rows: Sequence[Row], hidden: Tensor) -> None:
        """Log-probabilities and rivals of the tokens of one prompt, from what reading it has made anyway."""
        prompt = rows[0].prompt
        n_top = max(row.n_top for row in rows)
        draws: list[Draw] = []
        room = max(1, (1 << 22) // self.model.config.vocab_size)  # 16 MB of logits at once
        for begin in range(0, len(prompt) - 1, room):
            targets = torch.tensor(prompt[begin + 1 : begin + 1 + room], device=hidden.device)
            logprobs = self.model.logits(hidden[begin : begin + len(targets)]).log_softmax(-1)
            own = logprobs.gather(-1, targets[:, None])[:, 0].tolist()
            tops = rivals(logprobs, n_top)
            draws += map(Draw, targets.tolist(), own, tops)
        for row in rows:
            row.prompt_draws = draws

    def _draw(self, rows: Sequence[Row], logits: Tensor) -> None:
        """Draw one token for each row."""
        alike: dict[Sampling, list[int]] = {}
        for index, row in enumerate(rows):
            alike.setdefault(row.how, []).append(index)
        for how, indices in alike.items():
            part = logits if len(indices) == len(rows) else logits[indices]
            together = [rows[index] for index in indices]
            for row, draw in zip(together, self._choose(together, part, how), strict=True):
                row.last = draw
                row.ids.append(draw.id)
                if row.shape is not None:
                    row.shape.feed(draw.id)

    def _choose(self, rows: Sequence[Row], logits: Tensor, how: Sampling) -> list[Draw]:
        shaped = self._shaped(rows, logits, how)
        uniform = None
        if how.temperature:
            uniform = torch.tensor([row.draws.random() for row in rows], device=logits.device)
        ids, logprobs = choose(shaped, uniform, how)
        n_top = max(row.n_top for row in rows)
        if n_top or shaped is not logits:
            own = logits.log_softmax(-1)
            logprobs = own.gather(-1, ids[:, None])[:, 0]
            tops = rivals(own, n_top)
            return [
                Draw(id, logprob, top[: row.n_top])
                for row, id, logprob, top in zip(rows, ids.tolist(), logprobs.tolist(), tops, strict=True)
            ]
        return list(map(Draw, ids.tolist(), logprobs.tolist()))

    def _shaped(self, rows: Sequence[Row], logits: Tensor, how: Sampling) -> Tensor:
        """The logits that tokens are drawn by: other ones only where a row has penalties or a grammar."""
        if not how.changes_logits and not any(row.constraint for row in rows):
            return logits
        shaped = []
        for row, own in zip(rows, logits, strict=True):
            if row.shape is None and (how.changes_logits or row.constraint):
                row.shape = Shape(how, row.prompt, logits.size(-1), logits.device, row.constraint)
            shaped.append(own if row.shape is None else row.shape.changed(own))
        return torch.stack(shaped)


def rivals(logprobs: Tensor, n: int) -> list[Top]:
    """The n most probable tokens of each row of log-probabilities (B, vocab_size), most probable first."""
    if not n:
        return [[] for _ in range(logprobs.size(0))]
    values, ids = logprobs.topk(min(n, logprobs.size(-1)), dim=-1)
    return [
        list(zip(row_ids, row_values, strict=True))
        for row_ids, row_values in zip(ids.tolist(), values.tolist(), strict=True)
    ]
