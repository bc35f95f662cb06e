"""Sampling whose arithmetic is kept: it is the forward pass of the first update, so nobody need make that again.

Each step of sampling multiplies one token of every row with all matrices. What comes out is kept, and the first
update looks it up (`core_ml.feedback.shared`): only norms, rotations, attention and activations are made anew.
Source of the idea: the policy that samples and the policy of the first update are the same one, its ratio is 1.
"""

import random
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core_ml.errors import UserError
from core_ml.feedback.batches import Row
from core_ml.feedback.shared import Known, Layout, Name, lay_out
from core_ml.model.device import precision
from core_ml.model.gpt import GPT
from core_ml.sampling.generate import Completion, is_done, max_rows
from core_ml.sampling.sampler import Row as Running
from core_ml.sampling.sampler import Sampler
from core_ml.sampling.settings import Sampling

MAX_BYTES = 1 << 30
"""Of outputs that are kept; a round that would keep more is computed again instead."""


@dataclass(slots=True)
class Recording:
    """What sampling computed: after each distinct prompt, and at each token that was read, in the order of reading."""

    first: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    order: list[tuple[int, int]] = field(default_factory=list)
    outputs: dict[Name, list[Tensor]] = field(default_factory=dict)

    def of(
        self, rows: Sequence[Row], numbers: Sequence[int], k: int, device: torch.device
    ) -> tuple[Layout, Known]:
        """The layout of some answers, whole groups of `k`, and what is known of their tokens.

        Args:
            rows: of all answers; numbers: which ones.
        """
        new = {number: place for place, number in enumerate(numbers)}
        chosen = [place for place, (row, _) in enumerate(self.order) if row in new]
        order = [(new[self.order[place][0]], self.order[place][1]) for place in chosen]
        layout = lay_out(
            [rows[number][0] for number in numbers[::k]],
            [rows[number][1] for number in numbers],
            device,
            order,
        )
        known = {name: torch.cat(parts) for name, parts in self.outputs.items() if parts}
        if len(chosen) < len(self.order):
            index = torch.tensor(chosen, device=device)
            known = {name: values[index] for name, values in known.items()}
        return layout, known

    def logits(self, model: GPT, rows: Sequence[Row], k: int, known: Known) -> Tensor:
        """(len(read), vocab_size) as `shared.logits` of the whole layout, without a pass through the network."""
        first = torch.stack([self.first[tuple(prompt)] for prompt, _ in rows[::k]])
        if (-1, "head") not in known:
            return first
        raw, cap = known[-1, "head"].float(), model.config.logit_softcap
        return torch.cat((first, raw if cap is None else cap * torch.tanh(raw / cap)))


def sample(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    stop_ids: Collection[int],
    seed: int,
    remember: bool = False,
) -> tuple[list[Completion], Recording | None]:
    """One completion for each prompt, drawn as `core_ml.sampling.generate` draws; with what sampling computed.

    Raises: UserError for a prompt that is empty or leaves no room at all.
    """
    context = model.config.max_seq_len
    for prompt in prompts:
        if not 0 < len(prompt) < context:
            raise UserError(
                f"a prompt has {len(prompt)} tokens: this model reads at least 1 and at most {context - 1} before it "
                "writes"
            )
    how = Sampling(temperature=temperature)
    rows = [
        Running(
            prompt=prompt,
            how=how,
            draws=random.Random(f"{seed}:{index}"),
            max_new_tokens=min(max_new_tokens, context - len(prompt)),
        )
        for index, prompt in enumerate(prompts)
    ]
    number = {row: index for index, row in enumerate(rows)}
    completions = [Completion() for _ in rows]
    sampler: Sampler[Running] = Sampler(model, precision(model.device))
    recording = Recording() if remember and _fits(model, rows) else None
    matrices = sampler.keep() if recording else {}
    longest = max(len(row.prompt) + row.max_new_tokens for row in rows)
    limit = max_rows(model, longest)
    if recording is None:
        sampler.expect(min(limit, len(rows)), longest, max_new_tokens)
    else:  # a compiled step would keep nothing
        with torch.inference_mode():
            sampler.slots.reserve(min(limit, len(rows)), longest)
    waiting = deque(sorted(rows, key=lambda row: (len(row.prompt), tuple(row.prompt))))
    while waiting or sampler.rows:
        drawn = list(sampler.rows)
        if drawn:
            sampler.step()
            if recording:
                # Each row read the token before the one that it has drawn.
                recording.order += [(number[row], len(row.ids) - 2) for row in drawn]
                for name, linear in matrices.items():
                    recording.outputs.setdefault(name, []).append(linear.last[: len(drawn)])
        n_free = limit - len(sampler.rows)
        if waiting and n_free >= min(len(waiting), max(1, limit // 8)):
            joining = [waiting.popleft() for _ in range(min(len(waiting), n_free))]
            sampler.join(joining)
            drawn += joining
        for row in drawn:
            assert row.last is not None
            completion = completions[number[row]]
            completion.ids.append(row.last.id)
            completion.logprobs.append(row.last.logprob)
            completion.ended = row.last.id in stop_ids
        for place in reversed(range(len(sampler.rows))):
            if is_done(sampler.rows[place], stop_ids):
                sampler.leave(place)
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
