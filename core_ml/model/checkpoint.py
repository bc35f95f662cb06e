"""A network on disk: `model.safetensors`, `config.json` and `tokenizer.json`.

Nothing of a file is believed: its header must name exactly the tensors that the config implies, with their
shapes and types, before memory is set aside for them, and every number must be finite. Functions that pages
call import no torch, which is why it is imported inside the others.
"""

import json
import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from pydantic import ValidationError

from core_ml.artifact import write_atomically
from core_ml.errors import UserError
from core_ml.model.config import GPTConfig
from core_ml.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from core_ml.model.gpt import GPT

WEIGHTS, CONFIG = "model.safetensors", "config.json"
ARCHITECTURE = "move37-gpt"
MAX_HEADER_BYTES = 1 << 20
BYTES_OF = {"F32": 4, "BF16": 2, "F16": 2}


class TensorInfo(TypedDict):
    name: str
    shape: list[int]
    dtype: str
    n_parameters: int


def save(model: "GPT", tokenizer: Tokenizer, path: Path) -> None:
    """Write the three files into a folder, in float32 and the same bytes for the same weights."""
    from safetensors.torch import save as to_bytes

    assert tokenizer.vocab_size <= model.config.vocab_size
    tensors = {
        name: tensor.detach().float().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    write_atomically(path / WEIGHTS, to_bytes(tensors))
    config = {"architecture": ARCHITECTURE, **model.config.model_dump()}
    write_atomically(path / CONFIG, json.dumps(config, indent=1))
    tokenizer.save(path / "tokenizer.json")


def load(path: Path | str, device: "torch.device | str | None" = None) -> tuple["GPT", Tokenizer]:
    """The network, on the best device of the machine by default, and its tokenizer.

    Raises: UserError when a file is missing, damaged, or does not fit the others.
    """
    import torch
    from safetensors.torch import load_file

    from core_ml.model.device import choose
    from core_ml.model.gpt import GPT

    path = Path(path)
    config, tokenizer = read_config(path), Tokenizer.load(path / "tokenizer.json")
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{path.name} is damaged: its tokenizer has {tokenizer.vocab_size} tokens and its network {config.vocab_size}"
        )
    infos = {info["name"]: info for info in tensors(path)}
    with torch.device("meta"):
        wanted = {name: list(tensor.shape) for name, tensor in GPT(config).state_dict().items()}
    for name in sorted(wanted.keys() | infos.keys()):
        if name not in infos or name not in wanted:
            side = "lacks" if name in wanted else "has an unexpected"
            raise UserError(
                f"{path.name}/{WEIGHTS} {side} tensor {name[:80]!r}: it does not belong to its {CONFIG}"
            )
        if infos[name]["shape"] != wanted[name]:
            raise UserError(
                f"{path.name}/{WEIGHTS}: {name} is {infos[name]['shape']} and must be {wanted[name]}"
            )
    weights = load_file(path / WEIGHTS)
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"{path.name}/{WEIGHTS}: {name} holds numbers that are not finite: training had diverged"
            )
    model = GPT(config)
    model.load_state_dict(weights)
    return model.to(device or choose()).eval(), tokenizer


def read_config(path: Path | str) -> GPTConfig:
    """The shape of the network in a folder. Raises UserError. Imports no torch."""
    file = Path(path) / CONFIG
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        if fields.pop("architecture") != ARCHITECTURE:
            raise ValueError("it is of another architecture")
        return GPTConfig(**fields)
    except FileNotFoundError:
        raise UserError(f"{Path(path).name} is no checkpoint: it has no {CONFIG}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "config"
        raise UserError(f"{Path(path).name}/{CONFIG} is damaged: {field}: {first['msg']}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{Path(path).name}/{CONFIG} is damaged: {error}") from None


def tensors(path: Path | str) -> list[TensorInfo]:
    """Name, shape, type and size of each tensor, in the file's order. Raises UserError. Imports no torch."""
    return read_header(Path(path) / WEIGHTS, BYTES_OF)


def read_header(file: Path, bytes_of: dict[str, int]) -> list[TensorInfo]:
    """As `tensors` for any safetensors file; `bytes_of` names the types that it may hold."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > MAX_HEADER_BYTES:
                raise ValueError(f"its header claims {length:,} bytes")
            header = json.loads(stream.read(length), object_pairs_hook=_no_doubles)
        header.pop("__metadata__", None)
        infos = [_info(name, entry, bytes_of) for name, entry in header.items()]
        if size != 8 + length + sum(info["n_parameters"] * bytes_of[info["dtype"]] for info in infos):
            raise ValueError(f"its {size:,} bytes are not what its header says")
    except FileNotFoundError:
        raise UserError(f"{file.parent.name} is no checkpoint: it has no {file.name}") from None
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UserError(f"{file.parent.name}/{file.name} is damaged: {error}") from None
    return infos


def _info(name: str, entry: dict[str, Any], bytes_of: dict[str, int]) -> TensorInfo:
    shape, dtype = [int(n) for n in entry["shape"]], str(entry["dtype"])
    begin, end = entry["data_offsets"]
    n = math.prod(shape)
    if dtype not in bytes_of or min(shape, default=1) < 0 or end - begin != n * bytes_of[dtype]:
        raise ValueError(f"tensor {name[:80]!r} of type {dtype[:20]} does not fill its place")
    return {"name": name, "shape": shape, "dtype": dtype, "n_parameters": n}


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("its header names a tensor twice")
    return dict(pairs)
