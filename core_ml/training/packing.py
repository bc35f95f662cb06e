"""Documents to token shards, and token shards to batches.

A shard is a file of little-endian uint16 (uint32 for more than 65,536 tokens) beside an index of where its
documents begin; each document follows a `<|bos|>`. Shards are mapped into memory, so a corpus may be larger.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core_ml.artifact import write_atomically
from core_ml.errors import UserError
from core_ml.events import Event, Progress
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.training import split

INDEX = "index.json"
SHARD_TOKENS = 1 << 26
BATCH_ROWS = 64


def pack(files: list[Path], tokenizer: Tokenizer, folder: Path, val_share: float) -> Iterator[Event]:
    """Write train and validation shards below `folder`, its index last; does nothing when that is there.

    Raises: UserError when there is nothing to train on or nothing to validate on.
    """
    if (folder / INDEX).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    n_documents = check(files)
    chosen = split.choose(((url, id, len(text.encode())) for url, id, text in rows(files)), val_share)
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    writers = {name: _ShardWriter(folder, name, dtype) for name in ("train", "val")}
    done = 0
    documents = rows(files)
    while batch := list(islice(documents, BATCH_ROWS)):
        encoded = tokenizer.encode_batch([text for _, _, text in batch])
        for (url, id, text), ids in zip(batch, encoded, strict=True):
            name = "val" if chosen.is_validation(url, id) else "train"
            writers[name].add([tokenizer.bos_id, *ids], len(text.encode()))
        done += len(batch)
        yield Progress(done, n_documents, "documents", "packing tokens")
    index = {name: writer.finish() for name, writer in writers.items()}
    for name, wanted in (("train", "training"), ("val", "validation")):
        if index[name]["n_documents"] == 0:
            raise UserError(
                f"the documents hold {n_documents:,} texts, and none is left for {wanted}: add documents",
                field="documents",
            )
    write_atomically(folder / INDEX, json.dumps({"dtype": dtype.str, "split_by": chosen.level, **index}))


def check(files: list[Path]) -> int:
    """The number of documents in Parquet files. Raises UserError when they are damaged, empty or of other columns."""
    n = 0
    for file in files:
        try:
            metadata = pq.read_schema(file), pq.read_metadata(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{file.name} is damaged: {error}", field="documents") from None
        if "text" not in metadata[0].names:
            raise UserError(
                f"{file.name} has no column 'text': it does not hold documents", field="documents"
            )
        n += metadata[1].num_rows
    if n == 0:
        raise UserError("the documents are empty: choose a dataset that has some", field="documents")
    return n


def rows(files: list[Path]) -> Iterator[tuple[str, str, str]]:
    """(url, id, text) of every document that has text, a few in memory; one without an id is named by its place."""
    for file in files:
        with pq.ParquetFile(file) as parquet:
            columns = [name for name in ("url", "id", "text") if name in parquet.schema_arrow.names]
            number = 0
            for batch in parquet.iter_batches(BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    if row["text"]:
                        yield row.get("url") or "", row.get("id") or f"{file.name}:{number}", row["text"]


class _ShardWriter:
    def __init__(self, folder: Path, name: str, dtype: np.dtype) -> None:
        self.folder, self.name, self.dtype = folder, name, dtype
        self.shards: list[dict[str, Any]] = []
        self.buffer: list[np.ndarray] = []
        self.starts: list[int] = []
        self.length = self.n_documents = self.n_bytes = 0

    def add(self, ids: list[int], n_bytes: int) -> None:
        self.starts.append(self.length)
        self.buffer.append(np.array(ids, dtype=self.dtype))
        self.length += len(ids)
        self.n_documents += 1
        self.n_bytes += n_bytes
        if self.length >= SHARD_TOKENS:
            self._flush()

    def finish(self) -> dict[str, Any]:
        if self.length:
            self._flush()
        return {"shards": self.shards, "n_documents": self.n_documents, "n_bytes": self.n_bytes}

    def _flush(self) -> None:
        name = f"{self.name}-{len(self.shards):05d}"
        np.concatenate(self.buffer).tofile(self.folder / f"{name}.bin")
        np.array(self.starts, dtype="<u8").tofile(self.folder / f"{name}.idx")
        self.shards.append({"file": f"{name}.bin", "n_tokens": self.length})
        self.buffer, self.starts, self.length = [], [], 0


class Tokens:
    """The packed tokens of one side of the split."""

    def __init__(self, folder: Path, side: str) -> None:
        index = json.loads((folder / INDEX).read_text())
        self.shards = [
            np.memmap(folder / shard["file"], dtype=index["dtype"], mode="r")
            for shard in index[side]["shards"]
        ]
        self.n_tokens = sum(len(shard) for shard in self.shards)
        self.n_documents: int = index[side]["n_documents"]
        self.n_bytes: int = index[side]["n_bytes"]
        self.split_by: str = index["split_by"]

    def spread(self, seq_len: int, n_tokens: int) -> np.ndarray:
        """(n, seq_len + 1) windows, spread evenly over the shards, that hold about `n_tokens` targets."""
        starts = [
            (i, at) for i, shard in enumerate(self.shards) for at in range(0, len(shard) - seq_len, seq_len)
        ]
        if not starts:
            return np.asarray(self.shards[0][None], dtype=np.int64)
        wanted = min(len(starts), max(1, n_tokens // seq_len))
        chosen = [starts[k * len(starts) // wanted] for k in range(wanted)]
        return np.stack([self.shards[i][at : at + seq_len + 1] for i, at in chosen]).astype(np.int64)


class Batches:
    """Training windows in an order that follows from the seed alone: every window once in each epoch.

    Windows are the corpus cut at multiples of `seq_len`, from an offset that changes with the epoch.
    """

    def __init__(self, tokens: Tokens, seq_len: int, batch_size: int, seed: int) -> None:
        self.tokens, self.seq_len, self.batch_size, self.seed = tokens, seq_len, batch_size, seed
        # One window fewer than fit leaves room for the offset.
        fitting = [(len(shard) - 1) // seq_len for shard in tokens.shards]
        self.n_windows = [max(1, n - 1) if n else 0 for n in fitting]
        self.total = sum(self.n_windows)
        self.begins = np.cumsum([0, *self.n_windows])
        self._epoch: tuple[int, np.ndarray, float] | None = None
        if self.total == 0:
            raise UserError(
                f"the documents make {tokens.n_tokens:,} training tokens, fewer than one window of {seq_len}: "
                "add documents or choose a smaller seq_len",
                field="seq_len",
            )

    def batch(self, step: int) -> np.ndarray:
        """(batch_size, seq_len + 1) int64 token ids of update `step`, the first of which is 1."""
        first = (step - 1) * self.batch_size
        return np.stack([self._window(*divmod(first + row, self.total)) for row in range(self.batch_size)])

    def _window(self, epoch: int, number: int) -> np.ndarray:
        if self._epoch is None or self._epoch[0] != epoch:
            draws = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self._epoch = epoch, draws.permutation(self.total), draws.random()
        window = self._epoch[1][number]
        i = int(np.searchsorted(self.begins, window, side="right")) - 1
        shard = self.tokens.shards[i]
        slack = len(shard) - 1 - self.n_windows[i] * self.seq_len
        start = int(window - self.begins[i]) * self.seq_len + int(
            self._epoch[2] * min(self.seq_len, slack + 1)
        )
        return np.asarray(shard[start : start + self.seq_len + 1], dtype=np.int64)
