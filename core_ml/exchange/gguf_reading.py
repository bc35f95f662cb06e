"""What a GGUF file says of itself, read without its weights and believed in nothing: every length is bounded.

Source: the GGUF specification, version 3 (ggml-org/ggml, docs/gguf.md).
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core_ml.errors import UserError

MAGIC, VERSIONS = b"GGUF", (2, 3)
MAX_ENTRIES = 1 << 16
MAX_ITEMS = 1 << 21
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}  # fmt: skip
STRING, ARRAY = 8, 9
KEPT = ("general.", "tokenizer.huggingface.json", "tokenizer.chat_template", "move37.")
PRECISIONS = {0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 12: "q3_K_M", 14: "q4_K_S",
              15: "q4_K_M", 16: "q5_K_S", 17: "q5_K_M", 18: "q6_K", 32: "bf16"}  # fmt: skip
"""Names of the commoner kinds of file by `general.file_type`."""


@dataclass(frozen=True)
class Described:
    architecture: str
    name: str
    precision: str
    context: int
    n_parameters: int
    n_vocab: int
    cache_bytes_per_token: int
    """Keys and values of one token in all layers, in f16."""
    tokenizer_json: str | None
    """The whole `tokenizer.json`, which our own files carry."""
    protocol: str | None
    """How it writes conversations, where that is not our way."""
    chat_template: str | None
    size: int


def describe(path: Path | str) -> Described:
    """Raises: UserError for what is no GGUF file, is cut off, or lacks what every model has."""
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            values, n_parameters = _Reader(data).read()
        return _described(values, n_parameters, size, path)
    except OSError as error:
        raise UserError(f"{path.name} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise UserError(f"{path.name} is no whole GGUF file: {str(error)[:160]}") from None


def _described(values: dict[str, Any], n_parameters: int, size: int, path: Path) -> Described:
    architecture = str(values["general.architecture"])[:40]

    def of(key: str, default: int | None = None) -> int:
        value = values.get(f"{architecture}.{key}", default)
        value = max(value) if isinstance(value, list) and value else value
        if not isinstance(value, int) or not 0 <= value < 1 << 31:
            raise ValueError(f"{architecture}.{key} is {str(value)[:40]}")
        return value

    n_head = of("attention.head_count", 1)
    width = of("embedding_length") // max(1, n_head)
    heads = of("attention.head_count_kv", n_head)
    widths = of("attention.key_length", width) + of("attention.value_length", width)
    return Described(
        architecture=architecture,
        name=str(values.get("general.name") or path.stem)[:200],
        precision=PRECISIONS.get(values.get("general.file_type", -1), "quantised"),
        context=of("context_length"),
        n_parameters=n_parameters,
        n_vocab=int(values.get("n_vocab", 0)),
        cache_bytes_per_token=2 * of("block_count") * heads * widths,
        tokenizer_json=values.get("tokenizer.huggingface.json"),
        protocol=values.get("move37.chat"),
        chat_template=values.get("tokenizer.chat_template"),
        size=size,
    )


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def read(self) -> tuple[dict[str, Any], int]:
        """The values that are kept, and how many weights there are."""
        if self.data[:4] != MAGIC:
            raise ValueError("it does not begin with GGUF")
        self.at = 4
        version, n_tensors, n_values = self._take("<I"), self._take("<Q"), self._take("<Q")
        if version not in VERSIONS:
            raise ValueError(f"it is of version {version}")
        if n_tensors > MAX_ENTRIES or n_values > MAX_ENTRIES:
            raise ValueError(f"it claims {n_tensors:,} tensors and {n_values:,} values")
        values: dict[str, Any] = {}
        for _ in range(n_values):
            key = self._string().decode()
            value = self._value(
                self._take("<I"), keep=not key.startswith("tokenizer.") or key.startswith(KEPT)
            )
            if key == "tokenizer.ggml.tokens":
                values["n_vocab"] = value
            elif value is not None:
                values[key] = value
        return values, sum(self._tensor() for _ in range(n_tensors))

    def _take(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def _string(self) -> bytes:
        length = self._take("<Q")
        if length > len(self.data) - self.at:
            raise ValueError(f"a text claims {length:,} bytes")
        self.at += length
        return self.data[self.at - length : self.at]

    def _value(self, kind: int, keep: bool) -> Any:
        """A value; of an array that is not kept, its length."""
        if kind == STRING:
            text = self._string()
            return text.decode("utf-8", "replace") if keep else None
        if kind in SCALARS:
            return self._take(SCALARS[kind])
        if kind != ARRAY:
            raise ValueError(f"a value is of the unknown type {kind}")
        inner, n = self._take("<I"), self._take("<Q")
        if n > MAX_ITEMS:
            raise ValueError(f"an array claims {n:,} items")
        if inner in SCALARS and not keep:
            self.at += n * struct.calcsize(SCALARS[inner])
            return n
        if inner == ARRAY:
            raise ValueError("an array of arrays")
        items = [self._value(inner, keep) for _ in range(n)]
        return items if keep else n

    def _tensor(self) -> int:
        self._string()
        n_dims = self._take("<I")
        if n_dims > 4:
            raise ValueError(f"a tensor of {n_dims} dimensions")
        shape = [self._take("<Q") for _ in range(n_dims)]
        self.at += struct.calcsize("<IQ")
        return math.prod(shape)
