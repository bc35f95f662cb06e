"""Rows of conversations, problems, rollouts and rankings on disk: Parquet files with fixed columns."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core_ml import artifact, parquet
from core_ml.errors import UserError

ROWS_IN_GROUP = 16_384
_METADATA = ("metadata", pa.string())
SCHEMAS = {
    "conversations": pa.schema(
        [
            ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
            _METADATA,
        ]
    ),
    "problems": pa.schema(
        [("prompt", pa.string()), ("answer", pa.string()), ("verifier", pa.string()), _METADATA]
    ),
    "prompts": pa.schema([("prompt", pa.string()), _METADATA]),
    "rollouts": pa.schema(
        [
            ("group_id", pa.string()),
            ("prompt", pa.string()),
            ("completions", pa.list_(pa.string())),
            ("logprobs", pa.list_(pa.list_(pa.float32()))),
            ("ended", pa.list_(pa.bool_())),
            _METADATA,
        ]
    ),
    "rankings": pa.schema(
        [
            ("group_id", pa.string()),
            ("prompt", pa.string()),
            ("completions", pa.list_(pa.string())),
            ("labeler", pa.string()),
            ("simulated", pa.bool_()),
            ("order", pa.list_(pa.list_(pa.int64()))),
            ("all_bad", pa.bool_()),
            ("flags", pa.string()),
            ("seconds", pa.float64()),
            _METADATA,
        ]
    ),
}


class RowWriter:
    """Writes rows of one form to a Parquet file, a batch at a time; `metadata` may be a dict."""

    def __init__(self, path: Path, form: str) -> None:
        self.n_rows = 0
        self._schema = SCHEMAS[form]
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        batch = [{**row, "metadata": json.dumps(row.get("metadata") or {})} for row in rows]
        self._file.write_table(pa.Table.from_pylist(batch, self._schema))
        self.n_rows += len(batch)

    def close(self) -> None:
        self._file.close()


def write_rows(path: Path, form: str, rows: Iterable[dict[str, Any]]) -> int:
    """Write one whole file, a row group at a time; returns the number of its rows."""
    writer = RowWriter(path, form)
    rows = iter(rows)
    try:
        # An empty file has one empty group too.
        writer.write(islice(rows, ROWS_IN_GROUP))
        while group := list(islice(rows, ROWS_IN_GROUP)):
            writer.write(group)
    finally:
        writer.close()
    return writer.n_rows


def read_rows(
    folder: artifact.Folder, columns: Iterable[str], *, input: str, optional: Iterable[str] = ()
) -> Iterator[dict[str, Any]]:
    """Rows of a dataset in order, `metadata` as a dict; an `optional` column may be missing.

    Raises: UserError, naming the input, for a file that is not Parquet, lacks a column or has no rows.
    """
    paths = folder.files(".parquet")
    if not paths:
        raise UserError(f"{folder.manifest.name} has no Parquet file: choose another dataset", field=input)
    n_rows = 0
    for path in paths:
        for row in _read_file(path, list(columns), list(optional), folder.manifest.name, input):
            row["metadata"] = as_dict(row.get("metadata"))
            n_rows += 1
            yield row
    if not n_rows:
        raise UserError(f"{folder.manifest.name} has no rows: choose a dataset that has some", field=input)


def _read_file(
    path: Path, columns: list[str], optional: list[str], name: str, input: str
) -> Iterator[dict[str, Any]]:
    try:
        file = parquet.open_file(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name} is damaged: {path.name} is not Parquet ({error})", field=input) from error
    missing = [column for column in columns if column not in file.schema_arrow.names]
    if missing:
        raise UserError(
            f"{name} lacks the column {missing[0]!r}; it has {', '.join(file.schema_arrow.names)}",
            field=input,
        )
    wanted = [column for column in (*columns, *optional, "metadata") if column in file.schema_arrow.names]
    yield from parquet.rows(file, list(dict.fromkeys(wanted)))


def as_dict(metadata: Any) -> dict[str, Any]:
    if not isinstance(metadata, str):
        return {}
    try:
        value = json.loads(metadata)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
