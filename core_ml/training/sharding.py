"""A network that is too large for one rank: each keeps one share of every block (FSDP2).

Weights, gradients and optimizer state of the blocks are cut along their first dimension; a block's whole weights
come together only while it computes. Embedding and heads stay whole on every rank, as the loss reads them in its
own way. Source: Zhao et al. 2023, arXiv:2304.11277.
"""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from core_ml import ranks
from core_ml.model.gpt import GPT


def shard(model: GPT) -> None:
    """Cut the blocks into shares. Call it on all ranks, before the optimizers are made."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    ranks.join()
    mesh = init_device_mesh(model.device.type, (ranks.count(),))
    for block in model.blocks:
        # Given up right after each use: outside of a pass, a parameter is always its share.
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
        # Each rank's loss is divided by the whole batch already, so that gradients are to be summed, not averaged.
        block.set_gradient_divide_factor(1.0)  # type: ignore[operator]
        block.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]


def is_sharded(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor. All ranks must ask for the same ones in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share_like(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's share of a whole tensor, cut as `like` is; nothing is sent."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def whole(model: GPT) -> GPT:
    """The model itself, or a copy in one piece where it is sharded. For all ranks at once."""
    if not any(is_sharded(param) for param in model.parameters()):
        return model
    found = GPT(model.config).to(model.device)
    for param, own in zip(model.parameters(), found.parameters(), strict=True):
        own.copy_(full(param.detach()))
    return found.eval()


def total_norm(model: nn.Module) -> Tensor:
    """The norm of all gradients together, shares of other ranks included."""
    whole_grads, shares = [], []
    for param in model.parameters():
        if isinstance(param.grad, DTensor):
            shares.append(param.grad.to_local())
        elif param.grad is not None:
            whole_grads.append(param.grad)
    norm = nn.utils.get_total_norm(whole_grads)
    if not shares:
        return norm
    squares = nn.utils.get_total_norm(shares).square().reshape(1)
    return (norm.square() + ranks.reduce(squares)[0]).sqrt()


def scale_grads(model: nn.Module, max_norm: float, norm: Tensor) -> None:
    """Shorten all gradients to `max_norm` where they are longer together."""
    share = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    for param in model.parameters():
        if param.grad is not None:
            grad = param.grad.to_local() if isinstance(param.grad, DTensor) else param.grad
            grad.mul_(share)
