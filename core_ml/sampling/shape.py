"""What one row's logits go through before a token is drawn: bias, penalties, and a grammar's mask."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core_ml.sampling.grammar import Constraint
from core_ml.sampling.settings import Sampling


class Shape:
    """The state of one row's penalties and grammar; `changed` before each draw, `feed` after it.

    Sources: repetition, Keskar et al. 2019, arXiv:1909.05858; presence and frequency, OpenAI's API reference.
    """

    def __init__(
        self,
        how: Sampling,
        prompt: Sequence[int],
        vocab_size: int,
        device: torch.device,
        constraint: Constraint | None = None,
    ) -> None:
        self.how, self.constraint = how, constraint
        self._counts = torch.zeros(vocab_size, device=device)
        self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._seen[torch.as_tensor(prompt, device=device)] = True
        # A bias for a token that this network lacks says nothing.
        bias = [(id, value) for id, value in how.logit_bias if 0 <= id < vocab_size]
        self._biased = torch.tensor([id for id, _ in bias], dtype=torch.long, device=device)
        self._bias = torch.tensor([value for _, value in bias], device=device)

    def changed(self, logits: Tensor) -> Tensor:
        """(vocab_size,) logits to new ones; -inf where the grammar allows no token."""
        how = self.how
        logits = logits.index_add(0, self._biased, self._bias)
        if how.repetition_penalty != 1:
            repeated = torch.where(
                logits > 0, logits / how.repetition_penalty, logits * how.repetition_penalty
            )
            logits = torch.where(self._seen, repeated, logits)
        if how.presence_penalty or how.frequency_penalty:
            logits = logits - how.frequency_penalty * self._counts
            logits = logits - how.presence_penalty * (self._counts > 0)
        if self.constraint is not None:
            allowed = self.constraint.allowed(logits.size(0)).to(logits.device)
            logits = logits.masked_fill(~allowed, float("-inf"))
        return logits

    def feed(self, id: int) -> None:
        self._counts[id] += 1
        self._seen[id] = True
        if self.constraint is not None:
            self.constraint.feed(id)

    @property
    def finished(self) -> bool:
        """Whether the grammar allows nothing more."""
        return self.constraint is not None and self.constraint.finished
