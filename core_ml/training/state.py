"""What a training run needs to go on: weights, optimizer state, notes, without pickle.

A loop whose data follow from (seed, step) has no other state, so on a processor a resumed run repeats an
undisturbed one to the bit, the number of threads being the same. Kernels of a GPU may add in another order.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core_ml.errors import UserError
from core_ml.model.device import precision, use_precision

TENSORS, NOTES = "state.safetensors", "state.json"


def write(
    path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], notes: dict[str, Any]
) -> None:
    """Write the state of a run into a folder; `notes` is whatever JSON the loop wants back."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors["rng/cpu"] = torch.get_rng_state()
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                tensors[f"optimizer/{number}/{index}/{key}"] = value
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path / TENSORS)
    dtype = str(precision(next(model.parameters()).device)).removeprefix("torch.")
    state = {"threads": torch.get_num_threads(), "precision": dtype, "notes": notes}
    (path / NOTES).write_text(json.dumps(state))


def read(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """Restore what `write` wrote, in place, with the number of threads and the precision; returns the notes.

    Raises: UserError when the state is of another network.
    """
    tensors = load_file(path / TENSORS)
    state = json.loads((path / NOTES).read_text())
    weights = {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"the saved state does not fit this config: {str(error).splitlines()[-1].strip()}"
        ) from None
    for number, optimizer in enumerate(optimizers):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": _optimizer_state(tensors, number)})
    torch.set_rng_state(tensors["rng/cpu"])
    torch.set_num_threads(state["threads"])
    use_precision(state["precision"])
    return state["notes"]


def _optimizer_state(tensors: dict[str, Tensor], number: int) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"optimizer/{number}/"):
            _, _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = tensor
    return state
