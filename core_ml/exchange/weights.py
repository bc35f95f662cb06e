"""Tensors of a Hugging Face folder, checked against its settings before any is read, joined to ours and split.

As in `core_ml.model.checkpoint`, nothing of a file is believed. Only safetensors: other formats can run code.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core_ml.errors import UserError
from core_ml.model.checkpoint import BYTES_OF, WEIGHTS, read_header
from core_ml.model.config import GPTConfig
from core_ml.model.families import Family
from core_ml.model.family_tensors import POSITIONAL, Piece

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
FILE_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,200}\.safetensors")
MAX_INDEX_BYTES = 16 << 20
BYTES_OF_ANY = {**BYTES_OF, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Buffers beside the weights may be of any type; weights may not."""


def locate(folder: Path, family: Family, config: GPTConfig) -> dict[str, tuple[Path, str]]:
    """In which file each tensor of the family lies, and under which name there.

    Raises: UserError when one is missing, of another shape or type, or none of the family's.
    """
    pieces = {piece.name: piece for parts in family.layout(config).values() for piece in parts}
    found: dict[str, tuple[Path, str]] = {}
    for file, info in _infos(folder):
        name = info["name"]
        if name not in pieces and family.prefix + name in pieces:
            name = family.prefix + name  # saved as a network without its head
        if name.endswith(POSITIONAL) or (name == "lm_head.weight" and config.tie_embeddings):
            continue
        if name not in pieces:
            raise UserError(
                f"{file.name} has the tensor {name[:80]!r}, which no {family.name} of its config.json has"
            )
        if info["dtype"] not in BYTES_OF:
            raise UserError(
                f"{file.name}: {name} is of type {info['dtype']}: {', '.join(BYTES_OF)} can be read"
            )
        if info["shape"] != pieces[name].shape:
            raise UserError(f"{file.name}: {name} is {info['shape']} and must be {pieces[name].shape}")
        if name in found:
            raise UserError(f"{file.name} holds {name} a second time")
        found[name] = file, info["name"]
    missing = sorted(pieces.keys() - found.keys())
    if missing:
        raise UserError(
            f"{folder.name} lacks the tensor {missing[0]} of its config.json ({len(missing)} in all)"
        )
    return found


def _infos(folder: Path) -> Iterator[tuple[Path, Any]]:
    for name in _file_names(folder):
        for info in read_header(folder / name, BYTES_OF_ANY):
            yield folder / name, info


def _file_names(folder: Path) -> list[str]:
    if not (folder / INDEX).is_file():
        if not (folder / WEIGHTS).is_file():
            raise UserError(f"{folder.name} has no {WEIGHTS}: only weights in safetensors are read")
        return [WEIGHTS]
    try:
        if (folder / INDEX).stat().st_size > MAX_INDEX_BYTES:
            raise ValueError(f"it is larger than {MAX_INDEX_BYTES >> 20} MB")
        names = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
        wrong = [name for name in names if not FILE_NAME.fullmatch(name)]
        if wrong:
            raise ValueError(f"it names the file {wrong[0][:80]!r}")
        return names
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder.name}/{INDEX} is damaged: {str(error)[:200]}") from None


def read_all(folder: Path, family: Family, config: GPTConfig) -> "dict[str, torch.Tensor]":
    """Our tensors in float32, which holds every number of the smaller types. Raises UserError."""
    import torch
    from safetensors import SafetensorError, safe_open

    places, state = locate(folder, family, config), {}
    try:
        files = {file: safe_open(file, "pt") for file, _ in places.values()}
        for ours, pieces in family.layout(config).items():
            parts = []
            for piece in pieces:
                file, name = places[piece.name]
                parts.append(_swap(files[file].get_tensor(name).float(), piece))
                if not parts[-1].isfinite().all():
                    raise UserError(f"{file.name}: {name} holds numbers that are not finite")
            state[ours] = torch.cat(
                [part.T if p.transposed else part for part, p in zip(parts, pieces, strict=True)]
            )
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder.name} cannot be read: {str(error)[:200]}") from None
    return state


def split(state: "dict[str, torch.Tensor]", family: Family, config: GPTConfig) -> "dict[str, torch.Tensor]":
    """Our tensors as the family's."""
    out = {}
    for ours, pieces in family.layout(config).items():
        parts = state[ours].split([piece.rows for piece in pieces])
        for part, piece in zip(parts, pieces, strict=True):
            out[piece.name] = _swap(part.T if piece.transposed else part, piece).contiguous()
    return out


def _swap(tensor: "torch.Tensor", piece: Piece) -> "torch.Tensor":
    """Exchange the halves of each head, which turns its planes the other way round. Its own inverse."""
    if piece.swapped is None:
        return tensor
    halves = tensor.unflatten(0, (-1, 2, piece.swapped // 2))
    return halves.flip(1).flatten(0, 2)
