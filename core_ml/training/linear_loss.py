"""The loss of the last layer, some rows at a time: the logits of a whole batch never exist.

A vocabulary is wider than any other layer, so its logits are the largest thing in training. Here each chunk of
rows makes its logits, its losses and its gradients, and only the gradients stay; those of the head are added
up in float32. The textbook's way is `F.cross_entropy(F.linear(hidden, weight), targets)`.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function

from core_ml.model.attention import capped

CHUNK = 512  # rows; more leave a processor's cache, fewer make small products

Rows = Callable[[Tensor, Tensor, Tensor, float | None], tuple[Tensor, Tensor, Tensor]]


def linear_nll(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    softcap: float | None = None,
    rows: Rows | None = None,
) -> Tensor:
    """Sum over rows of `weights` times the negative log-likelihood, in nats, of `targets` under hidden @ weight.T.

    Args:
        hidden: (N, d); weight: (V, d); targets: (N,) int64.
        weights: (N,) float32, by default one for each row. No gradient flows to them.
        softcap: bound of the logits, approached by tanh.
        rows: `nll_and_grads`, or that compiled.
    Returns: () float32.
    """
    weights = hidden.new_ones(len(targets), dtype=torch.float32) if weights is None else weights
    return _LinearNll.apply(hidden, weight, targets, weights, softcap, rows or nll_and_grads)


def nll(hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None = None) -> Tensor:
    """(N,) negative log-likelihoods, without gradients; arguments as `linear_nll`."""
    found = hidden.new_empty(len(targets), dtype=torch.float32)
    with torch.no_grad():
        for part in _chunks(len(targets)):
            logits = capped((hidden[part] @ weight.T.to(hidden.dtype)).float(), softcap)
            target = logits.gather(1, targets[part, None])[:, 0]
            found[part] = logits.logsumexp(-1) - target
    return found


def nll_and_grads(
    logits: Tensor, targets: Tensor, weights: Tensor, softcap: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted sum of the rows' negative log-likelihoods, and its gradient by the logits, from one pass.

    Args:
        logits: (N, V) as the product gave them, before any softcap; targets: (N,) int64; weights: (N,) float32.
    Returns: () float32; (N, V) the gradient, but for the targets; and (N,) what belongs there: to write that in
        between would part the pass in two when it is compiled. Both in the type of the logits.
    """
    z = capped(logits.float(), softcap)
    highest = z.amax(-1, keepdim=True)
    e = torch.exp(z - highest)
    total = e.sum(-1, keepdim=True)
    target = z.gather(1, targets[:, None])
    by = weights[:, None]
    grad, at_target = e * (by / total), (torch.exp(target - highest) / total - 1) * by
    if softcap is not None:
        grad, at_target = (g * (1 - (of / softcap).square()) for g, of in ((grad, z), (at_target, target)))
    loss = ((total.log() + highest - target) * by).sum()
    return loss, grad.to(logits.dtype), at_target[:, 0].to(logits.dtype)


class _LinearNll(Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, weights, softcap, rows):  # type: ignore[no-untyped-def]
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            x, low = hidden.to(dtype), weight.to(dtype)
            grad_hidden = torch.empty_like(x)
            # A frozen head needs none, and it costs a third of the products here.
            grad_weight = torch.zeros_like(weight, dtype=torch.float32) if weight.requires_grad else None
            total = torch.zeros((), device=hidden.device)
            for part in _chunks(len(targets)):
                loss, grad, at_target = rows(x[part] @ low.T, targets[part], weights[part], softcap)
                # Not `scatter_`, which copies the whole.
                grad[torch.arange(len(grad), device=grad.device), targets[part]] = at_target
                total += loss
                torch.mm(grad, low, out=grad_hidden[part])
                if grad_weight is not None:
                    _add_product(grad_weight, grad.T, x[part])
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        grad_hidden, grad_weight = ctx.saved_tensors
        # In place: nobody else holds them, and the backward pass runs once.
        return (
            grad_hidden.mul_(grad).to(ctx.dtypes[0]),
            None if grad_weight is None else grad_weight.mul_(grad).to(ctx.dtypes[1]),
            *(None,) * 4,
        )


def _add_product(into: Tensor, a: Tensor, b: Tensor) -> None:
    """into += a @ b, summed in the type of `into`."""
    if into.dtype == a.dtype:
        into.addmm_(a, b)
    else:
        into.add_(a @ b)


def _chunks(n: int) -> list[slice]:
    return [slice(begin, begin + CHUNK) for begin in range(0, n, CHUNK)]
