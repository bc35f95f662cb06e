"""Packed tokens on disk, mapped into memory, so that a corpus may be larger than it.

A shard is a file of little-endian uint16 (uint32 for more than 65,536 tokens). Beside it stands its document
index: for each document where its tokens begin, with a `<|bos|>`, and which row of the documents it was.
`index.json` names the shards of both sides of the split and the tokenizer.
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

INDEX = "index.json"
ENTRY = np.dtype([("start", "<u8"), ("row", "<u8")])
"""Of a document index."""
SIDES = ("train", "val")


def fingerprint(tokenizer_file: Path) -> str:
    """Which tokenizer a `tokenizer.json` is, however it is laid out."""
    content = json.loads(tokenizer_file.read_text(encoding="utf-8"))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / INDEX).read_text())


class Tokens:
    """The packed tokens of one side of the split."""

    def __init__(self, folder: Path, side: str) -> None:
        index = read_index(folder)
        self._files = [folder / shard["file"] for shard in index[side]["shards"]]
        self.shards = [np.memmap(file, dtype=index["dtype"], mode="r") for file in self._files]
        self.n_tokens = sum(len(shard) for shard in self.shards)
        self.n_documents: int = index[side]["n_documents"]
        self.n_bytes: int = index[side]["n_bytes"]
        self.split_by: str = index["split_by"]
        self.val_share: float = index["val_share"]
        self.tokenizer: dict[str, Any] = index["tokenizer"]

    @cached_property
    def documents(self) -> list[np.ndarray]:
        """Of each shard its document index, of `ENTRY`."""
        return [np.memmap(file.with_suffix(".idx"), dtype=ENTRY, mode="r") for file in self._files]

    def spread(self, seq_len: int, n_tokens: int) -> np.ndarray:
        """(n, seq_len + 1) windows, spread evenly over the shards, that hold about `n_tokens` targets."""
        windows = [len(range(0, len(shard) - seq_len, seq_len)) for shard in self.shards]
        n_windows = sum(windows)
        if not n_windows:
            return np.asarray(self.shards[0][None], dtype=np.int64)
        wanted = min(n_windows, max(1, n_tokens // seq_len))
        found = np.empty((wanted, seq_len + 1), dtype=np.int64)
        begins = np.cumsum([0, *windows])
        for k in range(wanted):
            window = k * n_windows // wanted
            i = int(np.searchsorted(begins, window, side="right")) - 1
            at = int(window - begins[i]) * seq_len
            found[k] = self.shards[i][at : at + seq_len + 1]
        return found
