"""A network that is too large for one rank: each keeps one share of every block (FSDP2).

Weights, gradients and optimizer state of the blocks are cut along their first dimension; a block's whole weights
come together only while it computes. Embedding and heads stay whole on every rank, as the loss reads them in its
own way. Source: Zhao et al. 2023, arXiv:2304.11277.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from core_ml import ranks
from core_ml.model.gpt import GPT


def shard(model: GPT, device: torch.device) -> None:
    """Cut the blocks into shares, which `device` keeps. Call it on all ranks, before the optimizers are made.

    A model that is still in the processor's memory goes to the device block by block, never in one piece.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    ranks.join()
    mesh = init_device_mesh(device.type, (ranks.count(),))
    for block in model.blocks:
        # Given up right after each use: outside of a pass, a parameter is always its share.
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
        # Each rank's loss is divided by the whole batch already, so that gradients are to be summed, not averaged.
        block.set_gradient_divide_factor(1.0)  # type: ignore[operator]
        block.set_force_sum_reduction_for_comms(True)  # type: ignore[operator]
    model.to(device)


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
def gathered(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Copies in the first rank's own memory, whole; nothing on the others. For all ranks at once.

    One tensor after the other comes together on the device, so that none needs room for all of them.
    """
    found = {}
    for name, tensor in tensors:
        one = full(tensor.detach())
        if ranks.is_first():
            found[name] = one.to("cpu", copy=True).contiguous()
    return found


def whole(model: GPT) -> GPT | None:
    """The model itself, or where it is sharded a copy in one piece: on the first rank's processor, None elsewhere.

    For all ranks at once.
    """
    if not any(is_sharded(param) for param in model.parameters()):
        return model
    weights = gathered(model.named_parameters())
    if not ranks.is_first():
        return None
    found = GPT(model.config)
    found.load_state_dict(weights, assign=True)
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
