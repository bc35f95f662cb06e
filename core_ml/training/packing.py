"""Documents to token shards, in pieces that any number of processes pack at the same time.

Four steps, each of functions that write below a folder: `survey` measures a piece, so that whole groups can be
kept for validation; `encode` writes its tokens; `gather` puts documents from all pieces into one shard, in an order
that follows from a seed; `complete` writes the index, last. The shards are the same to the byte however the
documents were cut into pieces and whoever packed them. `pack` does it all in this process.
"""

import json
import os
import shutil
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core_ml import parquet
from core_ml.artifact import sync, write_atomically
from core_ml.errors import UserError
from core_ml.events import Event, Progress
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.training.permutation import key, mixed
from core_ml.training.split import Sizes, Split
from core_ml.training.tokens import ENTRY, INDEX, SIDES

NOTE = "note.json"
SHARD_TOKENS = 1 << 27
PIECE_BYTES = 64_000_000  # of text, for one process at a time
BUFFER_BYTES = 1 << 20
LOOK_EVERY = 64  # pieces of text encoded between two looks at whether the run is to stop


@dataclass(frozen=True)
class Piece:
    """Row groups `groups` of a file. `row` is the number of its first row in the file, `place` in all documents."""

    path: str
    groups: tuple[int, int]
    row: int
    place: int
    n_rows: int


@dataclass(frozen=True)
class Document:
    place: int
    url: str
    id: str
    text: str


def pieces(files: Sequence[Path], piece_bytes: int = PIECE_BYTES) -> list[Piece]:
    """The documents of Parquet files in pieces of about so many bytes; a row group is never cut.

    Raises: UserError when a file is damaged or of other columns, or there is no document.
    """
    found: list[Piece] = []
    place = 0
    for file in files:
        metadata = _metadata(file)
        first = row = n_rows = n_bytes = 0
        for group in range(metadata.num_row_groups):
            n_rows += metadata.row_group(group).num_rows
            n_bytes += metadata.row_group(group).total_byte_size
            if n_bytes >= piece_bytes or group + 1 == metadata.num_row_groups:
                if n_rows:
                    found.append(Piece(str(file), (first, group + 1), row, place, n_rows))
                first, row, place, n_rows, n_bytes = group + 1, row + n_rows, place + n_rows, 0, 0
    if not found:
        raise UserError("the documents are empty: choose a dataset that has some", field="documents")
    return found


def _metadata(file: Path) -> pq.FileMetaData:
    try:
        names, metadata = pq.read_schema(file).names, pq.read_metadata(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{file.name} is damaged: {error}", field="documents") from None
    if "text" not in names:
        raise UserError(f"{file.name} has no column 'text': it does not hold documents", field="documents")
    return metadata


def documents(piece: Piece) -> Iterator[Document]:
    """Every document of a piece that has text, a few in memory; one without an id is named by its place."""
    with parquet.open_file(Path(piece.path)) as file:
        columns = [name for name in ("url", "id", "text") if name in file.schema_arrow.names]
        for number, row in enumerate(parquet.rows(file, columns, range(*piece.groups))):
            if row["text"]:
                id = row.get("id") or _name(piece, number)
                yield Document(piece.place + number, row.get("url") or "", id, row["text"])


def _name(piece: Piece, number: int) -> str:
    return f"{Path(piece.path).name}:{piece.row + number + 1}"


def survey(piece: Piece, folder: Path) -> Iterator[Event]:
    """Write how much text the piece has in each group that the split may choose."""
    sizes, number = Sizes(), 0
    with parquet.open_file(Path(piece.path)) as file:
        columns = [name for name in ("url", "id", "text") if name in file.schema_arrow.names]
        for group in range(*piece.groups):
            for batch in file.iter_batches(parquet.rows_at_once(file, group), [group], columns):
                # Bytes of UTF-8, without making a Python string of the text.
                lengths = pc.fill_null(pc.binary_length(batch.column("text")), 0).to_pylist()
                names = [
                    batch.column(name).to_pylist() if name in columns else [None] * len(lengths)
                    for name in ("url", "id")
                ]
                for size, url, id in zip(lengths, *names, strict=True):
                    if size:
                        sizes.add(url or "", id or _name(piece, number), size)
                    number += 1
                yield Progress(number, piece.n_rows, "documents", "measuring documents")
    (folder / NOTE).write_text(json.dumps(sizes.to_json()))


def split(surveyed: Iterable[Path], val_share: float) -> Split:
    """Which groups are kept for validation, from the folders that `survey` filled."""
    sizes = Sizes()
    for folder in surveyed:
        sizes.merge(Sizes.from_json(json.loads((folder / NOTE).read_text())))
    return sizes.split(val_share)


def encode(
    piece: Piece, tokenizer: Tokenizer, chosen: Split, folder: Path, threads: int | None = None
) -> Iterator[Event]:
    """Write a piece's tokens and document index for either side of the split.

    Args:
        threads: by default one for each core.
    """
    dtype = token_type(tokenizer.vocab_size)

    def texts() -> Iterator[tuple[tuple[int, str, int], str]]:
        for document in documents(piece):
            side = "val" if chosen.is_validation(document.url, document.id) else "train"
            yield (document.place, side, len(document.text.encode())), document.text

    files = {side: (folder / f"{side}.bin").open("wb", buffering=BUFFER_BYTES) for side in SIDES}
    entries = {side: array("Q") for side in SIDES}
    counts = {side: {"n_documents": 0, "n_bytes": 0, "n_tokens": 0} for side in SIDES}
    try:
        last, bos = -1, np.array([tokenizer.bos_id])
        for number, ((place, side, n_bytes), ids) in enumerate(tokenizer.encode_arrays(texts(), threads)):
            count = counts[side]
            if place != last:
                entries[side].extend((count["n_tokens"], place))
                files[side].write(_as_bytes(bos, dtype))
                last = place
                count["n_tokens"] += 1
                count["n_documents"] += 1
                count["n_bytes"] += n_bytes
            files[side].write(_as_bytes(ids, dtype))
            count["n_tokens"] += len(ids)
            if number % LOOK_EVERY == 0:
                yield Progress(place - piece.place, piece.n_rows, "documents", "packing tokens")
    finally:
        for file in files.values():
            file.close()
    for side in SIDES:
        np.frombuffer(entries[side], dtype=np.uint64).astype("<u8").tofile(folder / f"{side}.idx")
    (folder / NOTE).write_text(json.dumps(counts))
    yield Progress(piece.n_rows, piece.n_rows, "documents", "packing tokens")


def _as_bytes(ids: np.ndarray, dtype: np.dtype) -> bytes:
    return ids.astype(dtype).tobytes()


def token_type(vocab_size: int) -> np.dtype:
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def counts(encoded: Iterable[Path]) -> dict[str, dict[str, int]]:
    """Documents, bytes and tokens of both sides, in all of the folders that `encode` filled.

    Raises: UserError when nothing is left to train on, or nothing to validate on.
    """
    total = {side: {"n_documents": 0, "n_bytes": 0, "n_tokens": 0} for side in SIDES}
    for folder in encoded:
        for side, count in json.loads((folder / NOTE).read_text()).items():
            for name, value in count.items():
                total[side][name] += value
    n_documents = sum(count["n_documents"] for count in total.values())
    for side, wanted in zip(SIDES, ("training", "validation"), strict=True):
        if total[side]["n_documents"] == 0:
            raise UserError(
                f"the documents hold {n_documents:,} texts, and none is left for {wanted}: add documents",
                field="documents",
            )
    return total


def shard_names(total: dict[str, dict[str, int]]) -> list[str]:
    """The shards that hold so much, train-00000 and so on."""
    return [f"{side}-{number:05d}" for side in SIDES for number in range(n_shards(total, side))]


def n_shards(total: dict[str, dict[str, int]], shard: str) -> int:
    """How many shards a shard's side has."""
    return -(-total[shard.partition("-")[0]]["n_tokens"] // SHARD_TOKENS)


def gather(
    encoded: Sequence[Path], shard: str, of: int, seed: int, dtype: np.dtype, folder: Path
) -> Iterator[Event]:
    """Write one of a side's shards, `of` so many: documents from all pieces, in an order that the seed alone gives.

    Each document has a number that is drawn from the seed and its place; shard k holds the k-th part of these
    numbers, in their order. So no process needs to know of more documents than those of its shard.
    """
    side, _, number = shard.partition("-")
    drawn, found = np.uint64(key(seed)), []
    for part, encoding in enumerate(encoded):
        entries = np.fromfile(encoding / f"{side}.idx", dtype=ENTRY)
        size = (encoding / f"{side}.bin").stat().st_size // dtype.itemsize
        lengths = np.diff(entries["start"].astype(np.int64), append=size)
        keys = mixed(entries["row"] + drawn)
        here = np.flatnonzero((keys >> np.uint64(32)) * np.uint64(of) >> np.uint64(32) == int(number))
        found.append(
            (
                keys[here],
                entries["row"][here],
                entries["start"][here],
                lengths[here],
                np.full(len(here), part),
            )
        )
    keys, rows, starts, lengths, parts = (np.concatenate(column) for column in zip(*found, strict=True))
    if not len(keys):
        return
    order = np.lexsort((rows, keys))
    ends = np.empty(len(keys), dtype=np.int64)
    ends[order] = np.cumsum(lengths[order])
    begins = ends - lengths
    out = np.memmap(folder / f"{shard}.bin", dtype=dtype, mode="w+", shape=(int(lengths.sum()),))
    for part, encoding in enumerate(encoded):
        here = np.flatnonzero(parts == part)
        if len(here):
            tokens = np.memmap(encoding / f"{side}.bin", dtype=dtype, mode="r")
            for start, length, begin in zip(
                starts[here].tolist(), lengths[here].tolist(), begins[here].tolist(), strict=True
            ):
                out[begin : begin + length] = tokens[start : start + length]
        yield Progress(part + 1, len(encoded), "pieces", "shuffling documents")
    out.flush()
    index = np.empty(len(keys), dtype=ENTRY)
    index["start"], index["row"] = begins[order], rows[order]
    index.tofile(folder / f"{shard}.idx")


def complete(
    folder: Path,
    total: dict[str, dict[str, int]],
    dtype: np.dtype,
    chosen: Split,
    seed: int,
    tokenizer: dict[str, Any],
) -> dict[str, Any]:
    """Write the index of the shards in `folder`, and return it.

    Args:
        tokenizer: whatever tells which it is, with its fingerprint as "sha256".
    """
    index: dict[str, Any] = {
        "dtype": dtype.str,
        "split_by": chosen.level,
        "val_share": chosen.share,
        "seed": seed,
        "tokenizer": tokenizer,
    }
    for side in SIDES:
        sizes = {
            file.name: file.stat().st_size // dtype.itemsize for file in sorted(folder.glob(f"{side}-*.bin"))
        }
        assert sum(sizes.values()) == total[side]["n_tokens"], (sizes, total)
        shards = [{"file": name, "n_tokens": size} for name, size in sizes.items()]
        index[side] = {"shards": shards, **total[side]}
    write_atomically(folder / INDEX, json.dumps(index))
    return index


def pack(
    files: Sequence[Path],
    tokenizer: Tokenizer,
    folder: Path,
    val_share: float,
    seed: int = 0,
    identity: dict[str, Any] | None = None,
) -> Iterator[Event]:
    """All of it in this process, below `folder`; does nothing when the index is there, and no piece twice.

    Raises: UserError when there is nothing to train on or nothing to validate on.
    """
    if (folder / INDEX).exists():
        return
    found, dtype = pieces(files, PIECE_BYTES), token_type(tokenizer.vocab_size)
    surveyed = yield from _each(found, folder / "survey", survey)
    chosen = split(surveyed, val_share)

    def encoding(piece: Piece, target: Path) -> Iterator[Event]:
        return encode(piece, tokenizer, chosen, target)

    encoded = yield from _each(found, folder / "encoded", encoding)
    total = counts(encoded)
    for shard in shard_names(total):
        yield from gather(encoded, shard, n_shards(total, shard), seed, dtype, folder)
    complete(folder, total, dtype, chosen, seed, identity or {})
    for name in ("survey", "encoded"):
        shutil.rmtree(folder / name)


def _each(
    found: Sequence[Piece], folder: Path, work: Callable[[Piece, Path], Iterator[Event]]
) -> Generator[Event, None, list[Path]]:
    """Let `work` fill a folder for each piece, seen only when it is whole; passes over those that are there."""
    n_rows, targets = found[-1].place + found[-1].n_rows, []
    for number, piece in enumerate(found):
        targets.append(folder / f"{number:05d}")
        if targets[-1].exists():
            continue
        hidden = folder / f".{number:05d}.tmp"
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir(parents=True)
        for event in work(piece, hidden):
            assert isinstance(event, Progress), event
            yield replace(event, step=piece.place + event.step, total=n_rows)
        for path in hidden.iterdir():
            sync(path)
        hidden.rename(targets[-1])
    return targets


def place_file(source: Path, target: Path) -> None:
    """The same file in a second folder, without a copy where the disk can do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
