"""Products that sampling has computed and learning looks up: they are not computed again, and have gradients all the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from core_ml.training.lora import Adapted

Name = tuple[int, str]
"""A matrix: the number of its layer and what it is there; the head is (-1, "head")."""


@dataclass(frozen=True, slots=True)
class Computed:
    """What a matrix gave at the answers' tokens, in the layout's order, and the matrix in the type of the product."""

    parts: Sequence[Tensor]  # (…, d_out) each
    weight: Tensor  # of an adapted layer it is that of the merged one

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def rows(self, begin: int, end: int) -> "Computed":
        """Of what lies in one part."""
        return Computed([self.parts[0][begin:end]], self.weight)


Known = dict[Name, Computed]


def linear_product(x: Tensor, weight: Tensor, bias: Tensor | None, computed: Computed | None) -> Tensor:
    """x @ weight.T + bias, whose last rows may be known."""
    return F.linear(x, weight, bias) if computed is None else _Linear.apply(x, weight, bias, computed)


def adapted_product(x: Tensor, layer: Adapted, computed: Computed) -> Tensor:
    """The same of a matrix beside which an adapter learns: sampling has multiplied with the two as one."""
    return _Adapted.apply(x, layer.weight, layer.bias, layer.a, layer.b, layer.scale, computed.parts)


class _Linear(Function):
    @staticmethod
    def forward(ctx, x, weight, bias, computed):  # type: ignore[no-untyped-def]
        low = computed.weight
        x_low, n_new = x.to(low.dtype), x.size(0) - len(computed)
        ctx.save_for_backward(x_low)
        ctx.low = low  # was made in inference mode, and could not be saved
        ctx.types = x.dtype, weight.dtype, bias is not None
        new = F.linear(x_low[:n_new], low, None if bias is None else bias.to(low.dtype))
        return torch.cat((new, *computed.parts))

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (x,), weight = ctx.saved_tensors, ctx.low
        grad_weight = (grad.T @ x).to(ctx.types[1]) if ctx.needs_input_grad[1] else None
        grad_bias = grad.sum(0, dtype=torch.float32) if ctx.types[2] else None
        return (grad @ weight).to(ctx.types[0]), grad_weight, grad_bias, None


class _Adapted(Function):
    """The adapter's gradients go through its own narrow matrices, so none of the matrix's size is made."""

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale, parts):  # type: ignore[no-untyped-def]
        dtype = parts[0].dtype
        x_low, low, a_low, b_low = (tensor.to(dtype) for tensor in (x, weight, a, b))
        n_new, inner = x.size(0) - sum(map(len, parts)), F.linear(x_low, a_low)
        ctx.save_for_backward(x_low, low, a_low, b_low, inner)
        ctx.scale, ctx.types = scale, (x.dtype, a.dtype, b.dtype)
        new = F.linear(x_low[:n_new], low, None if bias is None else bias.to(dtype))
        return torch.cat((new + scale * F.linear(inner[:n_new], b_low), *parts))

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, weight, a, b, inner = ctx.saved_tensors
        narrow = ctx.scale * (grad @ b)
        grads = grad @ weight + narrow @ a, narrow.T @ x, ctx.scale * (grad.T @ inner)
        grad_x, grad_a, grad_b = (one.to(dtype) for one, dtype in zip(grads, ctx.types, strict=True))
        return grad_x, None, None, grad_a, grad_b, None, None
