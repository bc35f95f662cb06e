"""What a training run needs to go on: weights, optimizer state, notes, without pickle.

A loop whose data follow from (seed, step) has no other state, so on a processor a resumed run repeats an
undisturbed one to the bit, the number of threads being the same. Kernels of a GPU may add in another order.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from core_ml.errors import UserError
from core_ml.model.device import precision, use_precision
from core_ml.training.sharding import gathered, share_like

TENSORS, NOTES = "state.safetensors", "state.json"


def capture(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    notes: dict[str, Any],
    average: dict[str, Tensor] | None = None,
) -> Callable[[Path], None]:
    """Copy the state of a run as it is now; the function that is returned writes it into a folder, at any time.

    Where shares are to be put together, all ranks call it, and only the first keeps the copy and may write it.

    Args:
        notes: whatever JSON the loop wants back.
        average: a running average of the weights, by name.
    """
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average/{name}": tensor for name, tensor in (average or {}).items()}
    tensors["rng/cpu"] = torch.get_rng_state()
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                tensors[f"optimizer/{number}/{index}/{key}"] = value
    copies = gathered(tensors.items())
    dtype = str(precision(next(model.parameters()).device)).removeprefix("torch.")
    state = json.dumps({"threads": torch.get_num_threads(), "precision": dtype, "notes": notes})

    def write(path: Path) -> None:
        save_file(copies, path / TENSORS)
        (path / NOTES).write_text(state)

    return write


def read(
    path: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    average: dict[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Restore what was captured, in place, with the number of threads and the precision; returns the notes.

    Raises: UserError when the state is of another network.
    """
    state = json.loads((path / NOTES).read_text())
    # One tensor at a time: a rank that keeps a share has no room for the whole.
    with safe_open(path / TENSORS, "pt") as file:
        _restore(file, "model/", model.state_dict())
        if average:
            _restore(file, "average/", average)
        for number, optimizer in enumerate(optimizers):
            optimizer.load_state_dict(
                {**optimizer.state_dict(), "state": _optimizer_state(file, number, optimizer)}
            )
        torch.set_rng_state(file.get_tensor("rng/cpu"))
    torch.set_num_threads(state["threads"])
    use_precision(state["precision"])
    return state["notes"]


@torch.no_grad()
def _restore(file: Any, prefix: str, into: dict[str, Tensor]) -> None:
    saved = _below(prefix, file)
    for name in sorted(saved.keys() | into.keys()):
        tensor = file.get_tensor(saved[name]) if name in saved else None
        if tensor is None or name not in into or tensor.shape != into[name].shape:
            raise UserError(
                f"the saved state does not fit this config: {name} is missing or of another shape"
            )
        into[name].copy_(share_like(tensor.to(into[name].dtype), into[name]))


def _below(prefix: str, file: Any) -> dict[str, str]:
    """Names in the file by what follows the prefix."""
    names: list[str] = file.keys()
    return {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}


def _optimizer_state(
    file: Any, number: int, optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, saved in _below(f"optimizer/{number}/", file).items():
        index, key = name.split("/")
        param, tensor = params[int(index)], file.get_tensor(saved)
        # A count of steps has no shape to cut.
        value = share_like(tensor, param) if tensor.shape == param.shape else tensor
        state.setdefault(int(index), {})[key] = value
    return state
