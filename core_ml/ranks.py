"""This process among those that share a training run: started by torchrun, or alone, the first of one.

Each rank executes the same generator on its share of every batch, so all tell the same events in the same
order; only the first writes them down, and only the first writes files. What must be common is added up once
a step in `total`: the gradients, the loss, and whether a rank wishes to stop, to save or to finish. So all
leave after the same step. The order of the data does not depend on the number of ranks: a run may go on with
another number.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

PATIENCE = timedelta(days=2)
"""How long a rank waits for the others. One that died is noticed by torchrun, which ends the rest."""
LOST_PEER = 5  # exit code

STOP, SAVE, FINISH = "stop", "save", "finish"
WISHES = (STOP, SAVE, FINISH)
_wished: set[str] = set()
_granted: set[str] = set()


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    return rank() == 0


def wish(what: str) -> None:
    """This rank wants something that all must do at the same step; alone, it may at once."""
    _wished.add(what)


def granted(what: str) -> bool:
    """Whether all have heard of it. It stays granted until `done`."""
    return what in (_granted if count() > 1 else _wished)


def done(what: str) -> None:
    _wished.discard(what)
    _granted.discard(what)


def relaunch(processes: int | None, arguments: list[str]) -> None:
    """Become `processes` ranks under torchrun, by default one for each GPU; returns when one is enough.

    Torchrun is told neither `--max-restarts` nor a range of `--nnodes`: a rank that dies ends all of them, and whoever
    started this process starts it again, as the lab's worker does. Torchrun knows exit codes alone: it would start
    a run with a wrong setting again and again, and wait for a GPU that is gone. The worker has read why the run
    ended, counts deaths without progress, and each start counts the GPUs that are there. From a shell, where
    nobody watches, `torchrun --max-restarts … -m core_ml …` starts lost ranks again; see docs/runs.md.

    Args:
        arguments: of `python -m core_ml`. This process becomes torchrun without a change of its pid, which is
            handed to the ranks as their parent.
    """
    if "RANK" in os.environ:
        return
    if processes is None:
        import torch

        processes = torch.cuda.device_count()
    if processes <= 1:
        return
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    # Without "--" torchrun takes our --run for a short form of an option of its own, and ends.
    command = [sys.executable, *torchrun, "-m", "--", "core_ml", *arguments, "--parent", str(os.getpid())]
    sys.stdout.flush()
    os.execv(sys.executable, command)


@contextmanager
def first_alone() -> Iterator[None]:
    """The others enter when the first has left: it has prepared the files that they find ready."""
    join()
    if not is_first():
        summed(0.0)
    yield
    if is_first():
        summed(0.0)


def total(model: "nn.Module", loss: "Tensor") -> "Tensor":
    """Add up gradients and loss over all ranks, in place, and hear what the others wish; returns the loss.

    A rank divides its loss by the size of the whole batch, so that the sum is the gradient of the mean whatever
    the shares. All gradients travel as one tensor, but for those of sharded blocks, which are added up already.
    """
    if count() == 1:
        return loss
    import torch
    from torch.distributed.tensor import DTensor

    params = [p for p in model.parameters() if p.requires_grad and not isinstance(p, DTensor)]
    for param in params:
        if param.grad is None:  # this rank's share of the batch was empty
            param.grad = torch.zeros_like(param)
    grads = [param.grad for param in params if param.grad is not None]
    wishes = loss.new_tensor([float(what in _wished) for what in WISHES], dtype=torch.float32)
    flat = reduce(torch.cat([*(g.reshape(-1) for g in grads), loss.detach().float().reshape(1), wishes]))
    *parts, summed, heard = flat.split([*(grad.numel() for grad in grads), 1, len(WISHES)])
    for grad, part in zip(grads, parts, strict=True):
        grad.copy_(part.view_as(grad))
    _granted.update(what for what, n in zip(WISHES, heard.tolist(), strict=True) if n > 0)
    return summed[0]


def join() -> None:
    """Meet the other ranks."""
    import torch
    import torch.distributed as dist

    if count() > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)


def reduce(tensor: "Tensor") -> "Tensor":
    """The sum over all ranks, in place."""
    import torch.distributed as dist

    if count() > 1:
        join()
        dist.all_reduce(tensor)
    return tensor


def summed(value: float) -> float:
    """The sum of one number of each rank. All must ask at the same time."""
    if count() == 1:
        return value
    import torch

    from core_ml.model.device import choose

    return reduce(torch.tensor([value], dtype=torch.float32, device=choose())).item()


def leave_if_lost(error: Exception) -> None:
    """End this process where the error says that a peer is lost, in an update or while shares come together.

    That is no failure of the run: whoever started it goes on from what was saved.
    """
    if count() == 1:
        return
    import torch.distributed as dist

    # Gloo has no type for its errors, which name the file that they come from.
    if isinstance(error, dist.DistError) or "gloo" in str(error):
        print(f"rank {rank()} lost a peer: {error}", file=sys.stderr, flush=True)
        os._exit(LOST_PEER)
