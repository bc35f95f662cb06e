"""From logits to the next token: temperature, top-k, nucleus, and one uniform number for each row."""

import torch
from torch import Tensor


def choose(
    logits: Tensor, uniform: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0
) -> Tensor:
    """The next token of each row.

    Args:
        logits: (B, vocab_size) float32.
        uniform: (B,) numbers in [0, 1), of which only those of rows that are sampled matter.
        temperature: 0 takes the most probable token.
        top_k: sample among the k most probable tokens only.
        top_p: sample among the fewest most probable tokens whose probabilities reach p together.
    Returns: (B,) token ids.

    The draw inverts the running sum of the probabilities. `torch.multinomial` takes a hundred times as long,
    and its draws depend on which other rows are in the batch.
    """
    if temperature == 0:
        return logits.argmax(-1)
    scores, order = logits / temperature, None
    if top_p < 1 or (top_k is not None and top_k < logits.size(-1)):
        scores, order = scores.topk(min(top_k or logits.size(-1), logits.size(-1)), dim=-1)
    probs = scores.softmax(-1)
    if top_p < 1:
        # The token that crosses p is the last one inside: what stands before it has not reached p yet.
        probs = probs.masked_fill(probs.cumsum(-1) - probs >= top_p, 0.0)
    sums = probs.cumsum(-1)
    chosen = torch.searchsorted(sums, uniform[:, None] * sums[:, -1:], right=True)
    # Rounding may put the number at the very end of the sum, where nothing with probability follows.
    last = probs.size(-1) - 1 - (probs > 0).flip(-1).int().argmax(-1, keepdim=True)
    chosen = torch.minimum(chosen, last)
    return (chosen if order is None else order.gather(-1, chosen))[:, 0]
