"""Completions of many prompts at once: left-padded batches, a key-value cache, rows that end leave."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core_ml.errors import UserError
from core_ml.model.device import autocast
from core_ml.model.gpt import GPT, Cache
from core_ml.sampling.choose import choose

MAX_BATCH = 256
LEAVE_AT = 0.25  # share of ended rows at which copying the others' cache costs less than dragging them along


@dataclass(slots=True)
class Completion:
    """`ids` with their `logprobs` under the model itself, at temperature 1 and untruncated; a stop token is part of it.

    `ended` is true when it came to a stop token, false when it ran out of room.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    stop_ids: Collection[int] = (),
    seed: int,
) -> list[Completion]:
    """One completion for each prompt, in their order; the same for the same seed, whichever rows end first.

    A completion also ends, with `ended` false, where `max_seq_len` leaves no room.
    Raises: UserError for a prompt that is empty or leaves no room at all.
    """
    completions = [Completion() for _ in prompts]
    for batch in generate_in_batches(
        model,
        prompts,
        completions,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_ids=stop_ids,
        seed=seed,
    ):
        del batch
    return completions


def generate_in_batches(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    completions: list[Completion],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    stop_ids: Collection[int] = (),
    seed: int,
) -> Iterator[list[int]]:
    """As `generate`, filling `completions`; yields the indices of each finished batch, so that a run can report."""
    for prompt in prompts:
        if not 0 < len(prompt) < model.config.max_seq_len:
            raise UserError(
                f"a prompt has {len(prompt)} tokens: this model reads at least 1 and at most "
                f"{model.config.max_seq_len - 1} before it writes"
            )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for begin in range(0, len(order), MAX_BATCH):
        indices = order[begin : begin + MAX_BATCH]
        draws = torch.Generator().manual_seed((seed * 1_000_003 + begin) % 2**63)
        # Both contexts are left at each yield: a caller must not find itself inside them.
        with torch.no_grad(), autocast(model.device):
            decoding = _Decoding(model, [prompts[i] for i in indices], max_new_tokens, draws)
            decoding.run([completions[i] for i in indices], frozenset(stop_ids), temperature, top_k, top_p)
        yield indices


class _Decoding:
    """The state of one batch: which rows live, and their cache."""

    def __init__(
        self, model: GPT, prompts: list[Sequence[int]], max_new_tokens: int, draws: torch.Generator
    ) -> None:
        self.model, self.draws = model, draws
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        self.width = int(lengths.max())
        # Rows are padded on the left to the longest, so the longest has the least room.
        room = min(max_new_tokens, model.config.max_seq_len - self.width)
        self.n_rows, self.max_new_tokens = len(prompts), room
        self.pad = (self.width - lengths).to(model.device)  # (B,) empty places before each prompt
        padded = [[0] * (self.width - len(prompt)) + list(prompt) for prompt in prompts]
        self.ids = torch.tensor(padded, device=model.device)
        self.cache = Cache(model, len(prompts), self.width + max(0, room - 1))
        self.live = torch.arange(len(prompts), device=model.device)

    def run(
        self,
        completions: list[Completion],
        stop_ids: frozenset[int],
        temperature: float,
        top_k: int | None,
        top_p: float,
    ) -> None:
        if self.max_new_tokens < 1:
            return
        hidden = self._read_prompts()
        done = torch.zeros(self.n_rows, dtype=torch.bool)
        for step in range(self.max_new_tokens):
            logits = self.model.logits(hidden)
            # Drawn for every row of the batch, so that rows that left change nothing for those that stay.
            uniform = torch.rand(self.n_rows, generator=self.draws).to(self.model.device)[self.live]
            ids = choose(logits, uniform, temperature, top_k, top_p)
            logprobs = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
            for place, (row, id, logprob) in enumerate(
                zip(self.live.tolist(), ids.tolist(), logprobs.tolist(), strict=True)
            ):
                if not done[place]:
                    completion = completions[row]
                    completion.ids.append(id)
                    completion.logprobs.append(logprob)
                    completion.ended = id in stop_ids
                    done[place] = completion.ended
            if done.all() or step == self.max_new_tokens - 1:
                return
            if done.float().mean() > LEAVE_AT:
                ids, done = self._leave(ids, done)
            hidden = self._read(ids)

    def _read_prompts(self) -> Tensor:
        positions = (torch.arange(self.width, device=self.pad.device) - self.pad[:, None]).clamp(min=0)
        filled = self._filled(self.width)
        square = torch.ones(self.width, self.width, dtype=torch.bool, device=self.pad.device)
        # A padded place looks at itself, since a softmax over nothing is not a number.
        mask = (filled[:, None, None] & square.tril()) | torch.eye(
            self.width, dtype=torch.bool, device=square.device
        )
        return self.model.hidden(self.ids, positions, self.cache, mask)[:, -1]

    def _read(self, ids: Tensor) -> Tensor:
        width = self.cache.length + 1
        positions = (self.cache.length - self.pad)[:, None]
        return self.model.hidden(ids[:, None], positions, self.cache, self._filled(width)[:, None, None])[
            :, -1
        ]

    def _filled(self, width: int) -> Tensor:
        """(B, width): true where a row has a token."""
        return torch.arange(width, device=self.pad.device) >= self.pad[:, None]

    def _leave(self, ids: Tensor, done: Tensor) -> tuple[Tensor, Tensor]:
        stay = (~done).nonzero()[:, 0].to(self.live.device)
        self.live, self.pad = self.live[stay], self.pad[stay]
        self.cache.keep(stay)
        return ids[stay], done[~done]
