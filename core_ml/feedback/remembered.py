"""Sampling whose arithmetic is kept: it is the forward pass of the first update, so nobody need make that again.

Each step of sampling multiplies one token of every row with all matrices. What comes out is kept, and the first
update looks it up (`core_ml.feedback.shared`): only norms, rotations, attention and activations are made anew.
Source of the idea: the policy that samples and the policy of the first update are the same one, its ratio is 1.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core_ml.feedback.batches import Row
from core_ml.feedback.computed import Computed, Known, Name
from core_ml.feedback.layout import Layout, lay_out
from core_ml.feedback.shared import bounded
from core_ml.model.device import precision
from core_ml.model.gpt import GPT
from core_ml.sampling.generate import Completion, complete, rows_of
from core_ml.sampling.sampler import Row as Running
from core_ml.sampling.sampler import Sampler
from core_ml.sampling.settings import Sampling

MAX_BYTES = 1 << 30
"""Of outputs that are kept; a round that would keep more is computed again instead."""


@dataclass(slots=True)
class Recording:
    """What sampling computed: after each distinct prompt, and at each token that was read, in the order of reading."""

    weights: dict[Name, Tensor]
    """What it multiplied with: until the first update the network's own, in the type of the products."""
    first: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    order: list[tuple[int, int]] = field(default_factory=list)
    outputs: dict[Name, list[Tensor]] = field(default_factory=dict)
    _latest: tuple[list[int], tuple[Layout, Known]] | None = None
    """Of which answers `of` was asked last, and what it said: the look back and the first update ask alike."""

    def of(
        self, rows: Sequence[Row], numbers: Sequence[int], k: int, device: torch.device
    ) -> tuple[Layout, Known]:
        """The layout of some answers, whole groups of `k`, and what is known of their tokens.

        Args:
            rows: of all answers; numbers: which ones.
        """
        if self._latest and self._latest[0] == list(numbers):
            return self._latest[1]
        self._latest = None  # not beside what is asked for now
        new = {number: place for place, number in enumerate(numbers)}
        chosen = [place for place, (row, _) in enumerate(self.order) if row in new]
        order = [(new[self.order[place][0]], self.order[place][1]) for place in chosen]
        layout = lay_out(
            [rows[number][0] for number in numbers[::k]],
            [rows[number][1] for number in numbers],
            device,
            order,
        )
        whole = len(chosen) == len(self.order)
        for name, parts in self.outputs.items():
            if len(parts) > 1 and (name == (-1, "head") or not whole):
                self.outputs[name] = [torch.cat(parts)]  # not beside the pieces: a vocabulary's are many
        known = {name: Computed(parts, self.weights[name]) for name, parts in self.outputs.items()}
        if not whole:
            # Typed, since there may be none: each of these answers has ended at once.
            index = torch.tensor(chosen, dtype=torch.long, device=device)
            known = {
                name: Computed([computed.parts[0][index]], computed.weight)
                for name, computed in known.items()
            }
        self._latest = list(numbers), (layout, known)
        return layout, known

    def logits(
        self, model: GPT, rows: Sequence[Row], k: int, known: Known, read: slice = slice(None)
    ) -> Tensor:
        """(len(read), vocab_size) as `shared.logits` of the layout, without a pass through the network.

        Args:
            read: the rows that are wanted, of all that are read.
        """
        prompts = [prompt for prompt, _ in rows[::k]]
        head = known.get((-1, "head"))
        begin, end, _ = read.indices(len(prompts) + (0 if head is None else len(head)))
        first = [self.first[tuple(prompt)] for prompt in prompts[begin:end]]
        if head is None:
            return torch.stack(first)
        rest = head.parts[0][max(0, begin - len(prompts)) : max(0, end - len(prompts))]
        rest = bounded(rest, model.config.logit_softcap)
        return torch.cat((torch.stack(first).to(rest.dtype), rest)) if first else rest


def sample(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    stop_ids: Collection[int],
    seed: int,
    remember: bool = False,
    compiles: bool | None = None,
) -> tuple[list[Completion], Recording | None]:
    """One completion for each prompt, drawn as `core_ml.sampling.generate` draws; with what sampling computed.

    Args:
        compiles: whether in compiled steps; None finds out.

    Raises: UserError for a prompt that is empty or leaves no room at all.
    """
    rows = rows_of(model, prompts, Sampling(temperature=temperature), max_new_tokens, seed)
    number = {row: index for index, row in enumerate(rows)}
    completions = [Completion() for _ in rows]
    sampler: Sampler[Running] = Sampler(model, precision(model.device), compiles=compiles)
    matrices = sampler.keep() if remember and _fits(model, rows) else {}
    weights = {name: linear.weight for name, linear in matrices.items()}
    recording = Recording(weights) if matrices else None

    def stepped(drawn: list[Running]) -> None:
        if recording:
            # Each row read the token before the one that it has drawn.
            recording.order += [(number[row], len(row.ids) - 2) for row in drawn]
            for name, linear in matrices.items():
                recording.outputs.setdefault(name, []).append(linear.last[: len(drawn)])

    for row in complete(model, rows, stop_ids, sampler, stepped):
        completions[number[row]].take(row, stop_ids)
    if recording:
        assert sampler.kept is not None
        recording.first = sampler.kept
    return completions, recording


def _fits(model: GPT, rows: Sequence[Running]) -> bool:
    config = model.config
    up = config.d_ff * (2 if config.gated else 1)
    width = (config.n_head + 2 * config.n_kv_head) * config.d_head + 2 * config.d_model + up
    n_bytes = precision(model.device).itemsize * (config.n_layer * width + config.vocab_size)
    return n_bytes * sum(row.max_new_tokens for row in rows) <= MAX_BYTES
