"""A prompt and its answers in one pass that reads the prompt once.

The textbook repeats the prompt for each of its answers and fills all rows up to the longest. Here all tokens lie flat,
one after another, without padding: first every prompt once, then the answers. Only attention sees grids: an answer's
queries meet the keys of its prompt, shared with its siblings, and the answer's own. The product over a group sums the
siblings' gradients by itself. Of the last layer only what is read goes past attention. Source: the split of attention as in Juravsky et al. 2024, arXiv:2402.05099.
"""

import torch
from torch import Tensor, nn
from torch.autograd import Function

from core_ml.feedback.computed import Known, adapted_product, linear_product
from core_ml.feedback.layout import Chunk, Layout
from core_ml.feedback.losses import CACHED, by_rows
from core_ml.model.attention import attend, capped
from core_ml.model.gpt import ACTIVATIONS, GPT, Block, Norm, Rotation
from core_ml.training.lora import Adapted

HIDDEN = -1e30  # finite, so that an empty place of a grid stays finite too


def hidden(model: GPT, layout: Layout, known: Known | None = None) -> Tensor:
    """(len(read), d_model) hidden states, normalized, where answers are written from."""
    config = model.config
    x = model.embed(layout.ids[None], layout.positions[None])[0]
    rotation = model.rotation(layout.positions[None])
    rotation = None if rotation is None else _flat(rotation)
    biases: dict[int | None, Masks] = {}
    for block in model.blocks:
        window = config.window_of(block.layer)
        if window not in biases:
            biases[window] = _masks(layout, window, config.n_head // config.n_kv_head)
        turned = rotation if config.rotates(block.layer) else None
        last = block.layer == config.n_layer - 1
        x = _block(block, x, turned, layout, biases[window], known or {}, last)
    return _normed(model.norm, x, x.dtype)


def logits(model: GPT, states: Tensor, known: Known | None = None) -> Tensor:
    """(len(read), vocab_size) from `hidden`, in the products' type where there is no softcap."""
    raw = linear_product(states, model.head_weight, None, (known or {}).get((-1, "head")))
    return bounded(raw, model.config.logit_softcap)


def bounded(raw: Tensor, softcap: float | None) -> Tensor:
    return raw if softcap is None else capped(raw.float(), softcap)


def head_of_rows(known: Known, rows: slice, n_read: int) -> Known:
    """What is known of the logits of some of the rows that are read."""
    outputs = known.get((-1, "head"))
    if outputs is None:
        return {}
    first = n_read - len(outputs)  # the last rows are the known ones
    own = outputs.rows(max(0, rows.start - first), max(0, rows.stop - first))
    return {(-1, "head"): own} if len(own) else {}


def token_logprobs(logits: Tensor, written: Layout | Chunk) -> Tensor:
    """(number of the answers' tokens,) log-probability of each, one answer after another."""
    return _TokenLogprobs.apply(logits, written.source, written.targets)


def _flat(rotation: Rotation) -> Rotation:
    """(1, 1, M, d_head / 2) to (M, 1, d_head / 2)."""
    return rotation[0][0, 0][:, None], rotation[1][0, 0][:, None]


Masks = tuple[Tensor | None, Tensor | None]
"""For the prompts' own attention, true where a query may look; for answers, added to the scores."""


def _masks(layout: Layout, window: int | None, g: int) -> Masks:
    device, P, N = layout.ids.device, layout.P, layout.N
    for_prompts = None
    if window is not None and window < P:
        for_prompts = torch.ones(P, P, dtype=torch.bool, device=device).tril().triu(1 - window)
    if not N:
        return for_prompts, None
    own, shared = torch.arange(N, device=device), torch.arange(P, device=device)
    hides_shared = (shared >= layout.prompt_lengths[:, None])[:, None]  # (R, 1, P)
    hides_own = (own > own[:, None])[None]  # (1, N, N)
    if window is not None and window < P + N:
        at = layout.prompt_lengths[:, None] + own  # (R, N)
        hides_shared = hides_shared | (at[:, :, None] - shared >= window)
        hides_own = hides_own | (own[:, None] - own >= window)
    R = len(layout.lengths)
    hides = torch.cat((hides_shared.expand(R, N, P), hides_own.expand(R, N, N)), -1)
    bias = torch.zeros(R, 1, N, P + N, device=device).masked_fill_(hides[:, None], HIDDEN)
    return for_prompts, bias.repeat(1, 1, g, 1)


def _block(
    block: Block,
    x: Tensor,
    rotation: Rotation | None,
    layout: Layout,
    masks: Masks,
    known: Known,
    last: bool,
) -> Tensor:
    """`Block.forward` for flat tokens (M, d_model)."""
    config = block.config

    def product(name: str, x: Tensor) -> Tensor:
        layer, computed = getattr(block, name), known.get((block.layer, name))
        if isinstance(layer, Adapted) and computed is not None:
            return adapted_product(x, layer, computed)
        if type(layer) is not nn.Linear:
            return layer(x)
        return linear_product(x, layer.weight, layer.bias, computed)

    taken = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    heads = product("qkv", _normed(block.norm1, x, taken)).view(x.size(0), -1, config.d_head)
    q, k, v = heads.split((config.n_head, config.n_kv_head, config.n_kv_head), dim=1)
    q, k = block.q_norm(q), block.k_norm(k)
    if rotation is not None:
        q, k = _Turned.apply(q, *rotation, v.dtype), _Turned.apply(k, *rotation, v.dtype)
    y = _attend(q.to(v.dtype), k.to(v.dtype), v, layout, masks, config.scale, config.attention_softcap)
    if last:
        x, y = x[layout.read], y[layout.read]
    x = x + block.post_norm1(product("out", y))
    inner, activate = product("up", _normed(block.norm2, x, taken)), ACTIVATIONS[config.activation]
    if config.gated:
        gate, inner = inner.chunk(2, dim=-1)
        inner = activate(gate) * inner
    else:
        inner = activate(inner)
    return x + block.post_norm2(product("down", inner))


def _normed(norm: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Of flat tokens (M, d_model), in the type that is read next where the norm gives that."""
    if not isinstance(norm, Norm) or norm.kind != "rms" or x.device.type != "cpu":
        return norm(x)
    return _Normed.apply(x, norm.scale, norm.eps, dtype)


class _Normed(Function):
    """`F.rms_norm` for flat tokens (M, d_model), some rows at a time: the library makes ten passes over all of them."""

    @staticmethod
    def forward(ctx, x, weight, eps, dtype):  # type: ignore[no-untyped-def]
        out, inverse = torch.empty(x.shape, dtype=dtype), torch.empty(x.size(0), 1)
        n = max(1, CACHED // 2 // x.size(1))
        for rows, into, inv in zip(x.split(n), out.split(n), inverse.split(n), strict=True):
            torch.linalg.vector_norm(rows, dim=-1, keepdim=True, dtype=torch.float32, out=inv)
            inv.square_().div_(x.size(1)).add_(eps).rsqrt_()
            into.copy_(rows * inv if weight is None else (rows * inv).mul_(weight))
        ctx.save_for_backward(x, weight, inverse)
        return out

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, weight, inverse = ctx.saved_tensors
        grad_x = torch.empty(x.shape, dtype=x.dtype)
        grad_weight = None if weight is None else torch.zeros_like(weight)
        n = max(1, CACHED // 2 // x.size(1))
        parts = (x.split(n), grad.split(n), inverse.split(n), grad_x.split(n))
        for rows, of_rows, inv, into in zip(*parts, strict=True):
            normed, of_rows = rows * inv, of_rows.float()
            if weight is not None:
                grad_weight += (of_rows * normed).sum(0)
                of_rows = of_rows * weight
            along = (of_rows * normed).sum(-1, keepdim=True).div_(x.size(1))
            into.copy_(torch.addcmul(of_rows, normed, along, value=-1).mul_(inv))
        return grad_x, grad_weight, None, None


class _Turned(Function):
    """`rotate` for flat tokens (M, heads, d_head), some rows at a time, straight into the type that attention takes."""

    @staticmethod
    def forward(ctx, x, cos, sin, dtype):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _turned(x, cos, sin, dtype)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, -sin, ctx.dtype), None, None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    n = max(1, CACHED // x[0].numel()) if x.device.type == "cpu" else len(x)
    for rows, into, c, s in zip(x.split(n), out.split(n), cos.split(n), sin.split(n), strict=True):
        (a, b), (first, second) = rows.float().chunk(2, -1), into.chunk(2, -1)
        first.copy_((a * c).addcmul_(b, s, value=-1))
        second.copy_((a * s).addcmul_(b, c))
    return out


def _attend(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, masks: Masks, scale: float, softcap: float | None
) -> Tensor:
    """q (M, n_head, d_head), k and v (M, n_kv_head, d_head) to (M, n_head · d_head)."""
    M0, G, P, N = layout.n_prompt_tokens, layout.G, layout.P, layout.N
    qp, kp, vp = (_grid(z[:M0], layout.prompt_cells, G, P) for z in (q, k, v))
    of_prompts = _cells(attend(qp, kp, vp, masks[0], scale, softcap), layout.prompt_cells)
    if not N:
        return of_prompts
    R, h, D, g = layout.G * layout.k, k.size(1), q.size(2), q.size(1) // k.size(1)
    qa, ka, va = (_grid(z[M0:], layout.answer_cells, R, N) for z in (q, k, v))
    qa = qa.reshape(R, h, g * N, D)  # query heads that share a key head are rows of one product
    shared = _ungrouped(_grouped(qa, layout.k) @ kp.mT, layout.k)
    scores = torch.cat((shared, qa @ ka.mT), -1) * scale
    scores = capped(scores, softcap)
    assert masks[1] is not None
    weights = (scores.float() + masks[1]).softmax(-1).to(v.dtype)
    of_shared, of_own = weights.split((P, N), -1)
    y = _ungrouped(_grouped(of_shared, layout.k) @ vp, layout.k) + of_own @ va
    return torch.cat((of_prompts, _cells(y.reshape(R, h * g, N, D), layout.answer_cells)))


def _grid(x: Tensor, cells: Tensor | None, rows: int, columns: int) -> Tensor:
    """Flat (m, heads, d_head) to (rows, heads, columns, d_head); empty cells are zero, and a full grid is a view."""
    if cells is not None:
        x = x.new_zeros(rows * columns, *x.shape[1:]).index_copy(0, cells, x)
    return x.view(rows, columns, *x.shape[1:]).transpose(1, 2)


def _cells(y: Tensor, cells: Tensor | None) -> Tensor:
    """(rows, heads, columns, d_head) to flat (m, heads · d_head)."""
    flat = y.transpose(1, 2).flatten(0, 1).flatten(1)
    return flat if cells is None else flat[cells]


def _grouped(x: Tensor, k: int) -> Tensor:
    """(R, h, n, d) to (G, h, k · n, d): a prompt's answers side by side."""
    return x.unflatten(0, (-1, k)).transpose(1, 2).flatten(2, 3)


def _ungrouped(x: Tensor, k: int) -> Tensor:
    return x.unflatten(2, (k, -1)).transpose(1, 2).flatten(0, 1)


class _TokenLogprobs(Function):
    """Log-softmax read at some tokens; several may be written by one row. Some rows at a time, as `by_rows`."""

    @staticmethod
    def forward(ctx, logits, source, targets):  # type: ignore[no-untyped-def]
        total = by_rows(lambda rows: rows.float().logsumexp(-1), logits)
        ctx.save_for_backward(logits, total, source, targets)
        return logits[source, targets].float() - total[source]

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        logits, total, source, targets = ctx.saved_tensors
        of_row = torch.zeros_like(total).index_add_(0, source, grad)
        order = source.argsort(stable=True)
        n, grads, begin, token = max(1, CACHED // logits.size(1)), torch.empty_like(logits), 0, 0
        n_tokens = torch.bincount(source, minlength=len(total)).cpu()
        for rows, into, n_of in zip(logits.split(n), grads.split(n), n_tokens.split(n), strict=True):
            end, last = begin + len(rows), token + int(n_of.sum())
            own = order[token:last]
            part = torch.exp(rows.float() - total[begin:end, None]).mul_(-of_row[begin:end, None])
            # Summed in float32: where a token is nearly certain, little is left of the two.
            part.index_put_((source[own] - begin, targets[own]), grad[own], accumulate=True)
            into.copy_(part)
            begin, token = end, last
        return grads, None, None
