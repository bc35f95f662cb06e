"""One completion, token by token, each with the rivals it beat: what the playground shows."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch

from core_ml.errors import UserError
from core_ml.model.device import autocast
from core_ml.model.gpt import GPT, Cache
from core_ml.sampling.choose import choose


@dataclass(frozen=True, slots=True)
class Token:
    """A token with its log-probability under the model (temperature 1, untruncated) and the most probable ones."""

    id: int
    logprob: float
    top: list[tuple[int, float]]


class Sampler:
    """Streams from one network; it keeps nothing between calls."""

    def __init__(self, model: GPT) -> None:
        self.model = model

    def stream(
        self,
        prompt_ids: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        stop_ids: Collection[int] = (),
        seed: int = 0,
        top_logprobs: int = 0,
    ) -> Iterator[Token]:
        """Tokens up to and with a stop token, `max_new_tokens`, or the end of the context.

        Args:
            top_logprobs: how many of the most probable tokens to name for each step.
        Raises: UserError for a prompt that is empty or leaves no room.
        """
        room = self._room(prompt_ids, max_new_tokens)
        draws = torch.Generator().manual_seed(seed % 2**63)
        ids = torch.tensor([list(prompt_ids)], device=self.model.device)
        cache: Cache | None = None
        for _ in range(room):
            # The contexts are left before each yield, since a generator's caller runs in between.
            with torch.no_grad(), autocast(self.model.device):
                cache = cache or Cache(self.model, 1, len(prompt_ids) + room - 1)
                logits = self.model.logits(self.model.hidden(ids, cache=cache)[:, -1])
            uniform = torch.rand(1, generator=draws).to(logits.device)
            ids = choose(logits, uniform, temperature, top_k, top_p)[:, None]
            token = self._token(logits[0], int(ids), top_logprobs)
            yield token
            if token.id in stop_ids:
                return

    def score(self, ids: Sequence[int], top_logprobs: int = 0) -> list[Token]:
        """Each token after the first with its log-probability given those before it, in one pass."""
        self._room(ids[:-1], 1)
        tokens = torch.tensor([list(ids)], device=self.model.device)
        with torch.no_grad(), autocast(self.model.device):
            logits = self.model.logits(self.model.hidden(tokens[:, :-1]))[0]
        return [self._token(row, id, top_logprobs) for row, id in zip(logits, ids[1:], strict=True)]

    def _room(self, prompt_ids: Sequence[int], max_new_tokens: int) -> int:
        limit = self.model.config.max_seq_len
        if not 0 < len(prompt_ids) < limit:
            raise UserError(
                f"the prompt has {len(prompt_ids)} tokens: this model reads at least 1 and at most {limit - 1} "
                "before it writes"
            )
        return min(max_new_tokens, limit - len(prompt_ids))

    def _token(self, logits: torch.Tensor, id: int, top_logprobs: int) -> Token:
        logprobs = logits.log_softmax(-1)
        values, ids = logprobs.topk(min(top_logprobs, logprobs.numel()))
        return Token(id, logprobs[id].item(), list(zip(ids.tolist(), values.tolist(), strict=True)))
