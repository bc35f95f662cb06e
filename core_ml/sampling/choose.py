"""From logits to the next token: temperature, truncation, and one uniform number for each row."""

import torch
from torch import Tensor

from core_ml.sampling.settings import Sampling

FEW = 256
"""A nucleus is looked for among so many tokens first: sorting a vocabulary costs ten times as much."""


def choose(logits: Tensor, uniform: Tensor | None, how: Sampling) -> tuple[Tensor, Tensor]:
    """The next token of each row, and its log-probability at temperature 1 and untruncated.

    Args:
        logits: (B, vocab_size) float32.
        uniform: (B,) numbers in [0, 1); None where the most probable token is taken.
        how: temperature, `top_k`, `top_p` (of what `top_k` left) and `min_p`; penalties are not its business.
    Returns: (B,) token ids, (B,) float32.

    The draw inverts the running sum of the probabilities. `torch.multinomial` takes fifty times as long, and
    its draws depend on which other rows are in the batch.
    """
    if how.temperature == 0 or uniform is None:
        highest, ids = logits.max(-1, keepdim=True)
        shifted = logits - highest
        weights = shifted.exp()
    else:
        shifted = logits - logits.amax(-1, keepdim=True)
        weights = shifted.exp()
        tempered = weights if how.temperature == 1 else (shifted / how.temperature).exp()
        sums = truncated(tempered, how).cumsum(-1)
        total = sums[:, -1:]
        # Below the end of the sum also after rounding, so that what is found has a weight of its own.
        target = torch.minimum(uniform[:, None] * total, total.nextafter(torch.zeros_like(total)))
        ids = torch.searchsorted(sums, target, right=True)
    logprobs = shifted.gather(-1, ids) - weights.sum(-1, keepdim=True).log()
    return ids[:, 0], logprobs[:, 0]


def truncated(weights: Tensor, how: Sampling) -> Tensor:
    """(B, vocab_size) weights, the largest of a row being 1, with 0 where a token may not be drawn.

    Tokens that are exactly as probable as the last one that is kept are kept too.
    """
    cutoffs = []
    if how.min_p > 0:
        cutoffs.append(torch.full_like(weights[:, :1], how.min_p))
    if how.top_k is not None and how.top_k < weights.size(-1):
        largest = weights.topk(how.top_k, dim=-1).values
        cutoffs.append(largest[:, -1:])
        if how.top_p < 1:
            cutoffs.append(_nucleus(largest, largest.sum(-1, keepdim=True), how.top_p)[0])
    elif how.top_p < 1:
        total = weights.sum(-1, keepdim=True)
        largest = weights.topk(min(FEW, weights.size(-1)), dim=-1).values
        cutoff, reached = _nucleus(largest, total, how.top_p)
        if not reached.all():
            cutoff = _nucleus(weights.sort(dim=-1, descending=True).values, total, how.top_p)[0]
        cutoffs.append(cutoff)
    if not cutoffs:
        return weights
    # Every rule keeps the most probable token.
    cutoff = torch.cat(cutoffs, dim=-1).amax(-1, keepdim=True).clamp(max=1.0)
    return torch.where(weights >= cutoff, weights, 0.0)


def _nucleus(largest: Tensor, total: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The weight (B, 1) of the token that crosses `top_p`, and whether it is among these, sorted downwards."""
    before = largest.cumsum(-1) - largest
    inside = (before < top_p * total).sum(-1, keepdim=True).clamp(min=1)
    return largest.gather(-1, inside - 1), before[:, -1:] + largest[:, -1:] >= top_p * total
