"""The loss of the last layer, a few rows at a time: the logits of a whole batch never exist.

A vocabulary is wider than any other layer, so its logits are the largest thing in training. Here each chunk of
rows makes its logits, its loss and its gradients, and only the gradients stay.
"""

import torch
from torch import Tensor
from torch.autograd import Function

CHUNK = 512  # rows; more do not fit in a processor's cache, fewer make small products


def nll_and_grads(logits: Tensor, targets: Tensor, cap: float | None) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of each row (N,) and its gradient by the logits (N, V), from one pass over them.

    Args:
        logits: (N, V) as the product gave them, before any softcap.
        targets: (N,) int64.
    """
    z = logits.float()
    if cap is not None:
        z = cap * torch.tanh(z / cap)
    highest = z.amax(-1, keepdim=True)
    e = torch.exp(z - highest)
    total = e.sum(-1, keepdim=True)
    target = z.gather(1, targets[:, None])
    grad = (e / total).scatter_add(1, targets[:, None], torch.full_like(target, -1.0))
    if cap is not None:
        grad = grad * (1 - (z / cap).square())
    return (total.log() + highest - target)[:, 0], grad.to(logits.dtype)


class LinearNll(Function):
    """Weighted sum of the negative log-likelihoods of `targets` under `hidden @ weight.T`."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, weights, cap, rows):  # type: ignore[no-untyped-def]
        """hidden (N, d), weight (V, d), targets (N,), weights (N,) float32; returns the sum and the (N,) parts."""
        dtype = torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else hidden.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            low = weight.to(dtype)
            x = hidden.to(dtype)
            grad_hidden = torch.empty_like(x)
            grad_weight = torch.zeros_like(weight, dtype=torch.float32)
            nll = torch.empty(len(targets), device=hidden.device)
            for begin in range(0, len(targets), CHUNK):
                part = slice(begin, begin + CHUNK)
                nll[part], grad = rows(x[part] @ low.T, targets[part], cap)
                grad = grad * weights[part, None].to(grad.dtype)
                torch.mm(grad, low, out=grad_hidden[part])
                grad_weight += grad.T @ x[part]
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    def backward(ctx, grad, _):  # type: ignore[no-untyped-def]
        grad_hidden, grad_weight = ctx.saved_tensors
        return (grad_hidden * grad).to(ctx.dtypes[0]), grad_weight * grad, None, None, None, None
