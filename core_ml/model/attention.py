"""Grouped-query attention, as the textbook writes it and as each device does it best.

`attend` chooses. Three ways give the same numbers within rounding: written out; the library's fused kernel; and
`CausalAttention`, which trains on a processor two to five times as fast as that kernel's backward pass.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

WRITTEN_OUT_UP_TO = 512  # keys; beyond that the score matrix costs more memory than the kernel costs time
BLOCKS = 2
HIDDEN = -1e4  # finite, so that a row of a left-padded batch that sees nothing stays finite too


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None = None
) -> Tensor:
    """q (B, n_head, T, d_head), k and v (B, n_kv_head, S, d_head) to q's shape.

    Args:
        mask: bool, true where a query may look, broadcastable to (B, 1, T, S). None is causal, with S = T, which
            the fused kernels know how to skip.
        scale: of the scores.
        softcap: bound of the scores, approached by tanh.
    Source: Ainslie et al. 2023, arXiv:2305.13245; softcap: Gemma Team 2024, arXiv:2408.00118.
    """
    T, S = q.size(2), k.size(2)
    short = q.device.type == "cpu" and S <= WRITTEN_OUT_UP_TO
    if softcap is None and mask is None and short:
        k, v = (repeated(z, q.size(1)) for z in (k, v))
        return CausalAttention.apply(q, k, v, scale)
    if softcap is None and not short:
        # Repeated here: not every fused kernel takes shared heads, and those that do not fall back silently.
        k, v = (repeated(z, q.size(1)) for z in (k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril()
    return written_out(q, k, v, mask, scale, softcap)


def capped(x: Tensor, softcap: float | None) -> Tensor:
    """x where it is small, and never beyond the bound, which tanh approaches. Source: Gemma Team 2024, arXiv:2408.00118."""
    return x if softcap is None else softcap * torch.tanh(x / softcap)


def repeated(z: Tensor, n_head: int) -> Tensor:
    return z if z.size(1) == n_head else z.repeat_interleave(n_head // z.size(1), dim=1)


def written_out(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, softcap: float | None = None
) -> Tensor:
    """Attention as products and a softmax; arguments as `attend`."""
    B, n_head, T, d_head = q.shape
    n_kv_head, S = k.shape[1:3]
    # Query heads that share a key head are stacked along time: no key is copied.
    scores = ((q.reshape(B, n_kv_head, -1, d_head) @ k.mT) * scale).view(B, n_kv_head, -1, T, S)
    scores = capped(scores, softcap)
    mask = mask if mask.dim() < 4 else mask[:, :, None]
    weights = scores.masked_fill(~mask, HIDDEN).softmax(-1).to(v.dtype)
    return (weights.view(B, n_kv_head, -1, S) @ v).view(B, n_head, T, d_head)


class CausalAttention(Function):
    """Causal attention in blocks of rows, each multiplying only with the keys up to its own end.

    q, k and v are (B, n_head, T, d_head). The weights are kept for the backward pass in the products' own type,
    which costs memory of (3/4)·B·n_head·T² and saves the second pass over the scores that fused kernels make.
    """

    @staticmethod
    def forward(ctx, q, k, v, scale):  # type: ignore[no-untyped-def]
        B, n_head, T, D = q.shape
        q, k, v = (z.reshape(B * n_head, T, D) for z in (q, k, v))
        weights, out = [], []
        for begin, end in blocks(T):
            scores = torch.bmm(q[:, begin:end], k[:, :end].mT).float() * scale
            rows, columns = torch.arange(begin, end)[:, None], torch.arange(end)[None]
            scores = torch.where(columns <= rows, scores, HIDDEN * 1e4)
            weights.append(torch.softmax(scores, -1).to(q.dtype))
            out.append(torch.bmm(weights[-1], v[:, :end]))
        ctx.save_for_backward(q, k, v, *weights)
        ctx.scale, ctx.shape = scale, (B, n_head, T, D)
        return torch.cat(out, 1).view(B, n_head, T, D)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        q, k, v, *weights = ctx.saved_tensors
        grad = grad.reshape(q.shape)
        T = q.size(1)
        grad_q: list[Tensor] = []
        # Keys and values of a block are seen by the rows of this block and of all after it.
        grad_k, grad_v = (torch.zeros(z.shape, dtype=torch.float32, device=z.device) for z in (k, v))
        for (begin, end), p in zip(blocks(T), weights, strict=True):
            g, rows = grad[:, begin:end], q[:, begin:end]
            pf = p.float()
            dp = torch.bmm(g, v[:, :end].mT).float()
            ds = (pf * (dp - (pf * dp).sum(-1, keepdim=True)) * ctx.scale).to(q.dtype)
            grad_q.append(torch.bmm(ds, k[:, :end]))
            grad_k[:, :end] += torch.bmm(ds.mT, rows)
            grad_v[:, :end] += torch.bmm(p.mT, g)
        dq, dk, dv = torch.cat(grad_q, 1), grad_k.to(q.dtype), grad_v.to(q.dtype)
        return dq.view(ctx.shape), dk.view(ctx.shape), dv.view(ctx.shape), None


def blocks(T: int) -> list[tuple[int, int]]:
    n = BLOCKS if T >= 64 else 1
    size = -(-T // n)
    return [(begin, min(T, begin + size)) for begin in range(0, T, size)]
