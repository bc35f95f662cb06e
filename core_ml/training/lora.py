"""Low-rank adapters: a network is tuned by small matrices beside its own, which stay as they are.

Source: Hu et al. 2021, arXiv:2106.09685. Optimizer state is kept for the adapters only, so tuning takes a
fraction of the memory; merged, they leave a network of the same shape, as quick as before.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core_ml.errors import UserError
from core_ml.model.gpt import GPT

LAYERS = ("qkv", "out", "up", "down")


class Adapted(nn.Module):
    """A linear layer W plus (alpha / rank) · B A, with A (rank, in) random and B (out, rank) zero at first."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.scale = alpha / rank
        rows, columns = linear.weight.shape
        self.a = nn.Parameter(torch.randn(rank, columns, device=self.weight.device) * columns**-0.5)
        self.b = nn.Parameter(torch.zeros(rows, rank, device=self.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(F.linear(x, self.a), self.b)

    def merged(self) -> nn.Linear:
        rows, columns = self.weight.shape
        linear = nn.Linear(columns, rows, bias=self.bias is not None, device="meta")
        linear.weight = nn.Parameter(self.weight.detach() + self.scale * (self.b @ self.a).detach())
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach())
        return linear


def adapt(model: GPT, rank: int, alpha: float) -> list[nn.Parameter]:
    """Freeze the network, put adapters beside the matrices of its blocks, and return them.

    Raises: UserError when the rank is not below the smallest side of a matrix, where nothing would be saved.
    """
    smallest = min(model.config.d_model, model.config.d_ff, model.config.n_head * model.config.d_head)
    if rank >= smallest:
        raise UserError(
            f"lora_rank is {rank}, and the narrowest matrix of this network has {smallest} rows or columns: choose "
            f"a rank of at most {smallest // 2}, or none to train all weights",
            field="lora_rank",
        )
    model.requires_grad_(False)
    for block in model.blocks:
        for name in LAYERS:
            setattr(block, name, Adapted(getattr(block, name), rank, alpha))
    return [param for param in model.parameters() if param.requires_grad]


def sharing(model: GPT) -> GPT:
    """A second network of the very same tensors: adapters that are put into one of them do not reach the other."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def merged(model: GPT) -> GPT:
    """A network of the first shape with the adapters added, while the one that learns stays as it is."""
    found = sharing(model)
    merge(found)
    return found


def merge(model: GPT) -> None:
    """Add the adapters to the matrices; the network has its first shape again."""
    for block in model.blocks:
        for name in LAYERS:
            layer = getattr(block, name)
            if isinstance(layer, Adapted):
                setattr(block, name, layer.merged())
