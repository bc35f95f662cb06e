"""Documents to token shards, and token shards to batches.

A shard is a file of little-endian uint16 (uint32 for more than 65,536 tokens) beside an index of where its
documents begin; each document follows a `<|bos|>`. Shards are mapped into memory, so a corpus may be larger.
"""

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core_ml import parquet
from core_ml.artifact import write_atomically
from core_ml.errors import UserError
from core_ml.events import Event, Progress
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.training import split

INDEX = "index.json"
SHARD_TOKENS = 1 << 26
BUFFER_BYTES = 1 << 20
PIECES = 64  # encoded between two looks at whether the run is to stop


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

    def texts() -> Iterator[tuple[tuple[int, str, int], str]]:
        for number, (url, id, text) in enumerate(rows(files), 1):
            side = "val" if chosen.is_validation(url, id) else "train"
            yield (number, side, len(text.encode())), text

    done = 0
    with _ShardWriter(folder, "train", dtype) as train, _ShardWriter(folder, "val", dtype) as val:
        writers = {"train": train, "val": val}
        pieces = tokenizer.encode_pieces(texts())
        for count, ((number, side, n_bytes), ids) in enumerate(pieces):
            if number > done:
                writers[side].begin(tokenizer.bos_id, n_bytes)
                done = number
            writers[side].add(ids)
            if count % PIECES == 0:
                yield Progress(done - 1, n_documents, "documents", "packing tokens")
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
    for path in files:
        with parquet.open_file(path) as file:
            columns = [name for name in ("url", "id", "text") if name in file.schema_arrow.names]
            for number, row in enumerate(parquet.rows(file, columns), 1):
                if row["text"]:
                    yield row.get("url") or "", row.get("id") or f"{path.name}:{number}", row["text"]


class _ShardWriter:
    """Appends tokens to one side's shards as they come; a shard ends with a document."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype) -> None:
        self.folder, self.name, self.dtype = folder, name, dtype
        self.shards: list[dict[str, Any]] = []
        self.starts = array("Q")
        self.length = self.n_documents = self.n_bytes = 0
        self._file: BinaryIO | None = None

    def begin(self, bos_id: int, n_bytes: int) -> None:
        """A document of so many bytes begins."""
        if self.length >= SHARD_TOKENS:
            self._end()
        self.starts.append(self.length)
        self.n_documents += 1
        self.n_bytes += n_bytes
        self.add([bos_id])

    def add(self, ids: list[int]) -> None:
        self._file = self._file or (self.folder / f"{self._shard}.bin").open("wb", buffering=BUFFER_BYTES)
        self._file.write(np.array(ids, dtype=self.dtype).tobytes())
        self.length += len(ids)

    def finish(self) -> dict[str, Any]:
        if self.length:
            self._end()
        return {"shards": self.shards, "n_documents": self.n_documents, "n_bytes": self.n_bytes}

    @property
    def _shard(self) -> str:
        return f"{self.name}-{len(self.shards):05d}"

    def _end(self) -> None:
        assert self._file is not None
        self._file.close()
        np.frombuffer(self.starts, dtype=np.uint64).astype("<u8").tofile(self.folder / f"{self._shard}.idx")
        self.shards.append({"file": f"{self._shard}.bin", "n_tokens": self.length})
        self.starts, self.length, self._file = array("Q"), 0, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()


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
