"""Muon for the matrices of the blocks, AdamW for the embedding and the heads."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from core_ml.model.device import precision
from core_ml.model.gpt import GPT
from core_ml.training.sharding import full, is_sharded, scale_grads, share_like, total_norm


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, so that every direction of a matrix moves alike.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; matrices of one shape go through
    the iteration together, since many small products are slower than one batched product.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for param in group["params"]:
                if param.grad is not None:
                    by_shape.setdefault(param.shape, []).append(param)
            for shape, params in by_shape.items():
                # A share of a matrix has other directions than the whole: sharded ones come together for this.
                updates = orthogonal(
                    torch.stack([full(self._nesterov(p, group["momentum"])) for p in params])
                )
                # Tall matrices map few numbers to many: without the factor their outputs would move less.
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for param, update in zip(params, updates, strict=True):
                    param.add_(share_like(update, param), alpha=-group["lr"] * scale)

    def _nesterov(self, param: nn.Parameter, momentum: float) -> Tensor:
        assert param.grad is not None
        state = self.state[param]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(param)
        state["momentum"].lerp_(param.grad, 1 - momentum)
        return param.grad.lerp(state["momentum"], momentum)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """(n, rows, columns) to matrices with the same singular vectors and singular values of about 1 (0.7 to 1.2).

    Newton-Schulz iteration with a quintic whose slope at zero is steep, in the type that is quickest here: even
    bfloat16's rounding is far below the spread that the iteration leaves anyway, and a processor that has to
    emulate it takes fifty times as long.
    """
    tall = matrices.size(1) > matrices.size(2)
    x = (matrices.mT if tall else matrices).to(precision(matrices.device))
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, b, x, beta=3.4445)
    return (x.mT if tall else x).float()


def optimizers(model: GPT, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """One optimizer for the blocks' matrices and one for everything else: embeddings, heads, norms, biases."""
    named = list(model.named_parameters())
    matrices = [param for name, param in named if name.startswith("blocks.") and param.dim() == 2]
    others = [param for name, param in named if not (name.startswith("blocks.") and param.dim() == 2)]
    # One kernel takes all parameters of a group, and cannot take whole ones and shares together.
    groups = [[p for p in others if is_sharded(p) == sharded] for sharded in (False, True)]
    return [
        Muon(matrices, muon_lr),
        *(
            # foreach and fused kernels add in their own order; the fused one is the fastest and as repeatable.
            torch.optim.AdamW(group, adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
            for group in groups
            if group
        ),
    ]


def scale_lr(optimizers: Sequence[torch.optim.Optimizer], share: float) -> float:
    """Set every learning rate to a share of its peak; returns the first one."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("peak_lr", group["lr"]) * share
    return optimizers[0].param_groups[0]["lr"]


def clip(model: nn.Module, max_norm: float | None) -> float:
    """The norm of all gradients together, before they are scaled down to `max_norm` where one is given."""
    norm = total_norm(model)
    if max_norm is not None:
        scale_grads(model, max_norm, norm)
    return norm.item()
