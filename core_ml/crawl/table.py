"""The Parquet files of a crawl: rows between its stages, documents, and decisions with every measure."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from core_ml import parquet
from core_ml.crawl.rules import MEASURES

SHOWN_CHARS = 2000
"""So much of a page's text stands beside its decision."""
BATCH_ROWS, BATCH_CHARS = 2000, 16_000_000

_VERDICT = [
    ("stage", pa.string()),
    ("rule", pa.string()),
    ("value", pa.float64()),
    ("threshold", pa.float64()),
    ("kept", pa.bool_()),
    ("failed", pa.bool_()),
    ("duplicate_of", pa.string()),
]
_MEASURES = [(name, pa.float64()) for name in MEASURES]
_DOCUMENT = [
    ("id", pa.string()),
    ("url", pa.string()),
    ("text", pa.string()),
    ("language", pa.string()),
    ("language_score", pa.float64()),
    ("date", pa.string()),
    ("source", pa.string()),
    ("metadata", pa.string()),
]
DOCUMENTS = pa.schema(_DOCUMENT)
DECISIONS = pa.schema(
    [("id", pa.string()), ("url", pa.string()), *_VERDICT, ("text", pa.string()), *_MEASURES]
)
ROWS = pa.schema([*(pair for pair in _DOCUMENT if pair[0] not in MEASURES), *_VERDICT, *_MEASURES])
"""Between stages: a page with its whole text while it lives, and what was decided and measured so far."""


class Table:
    """Writes rows in batches of bounded size; a row is a dict, and columns that it lacks are null."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._chars = 0
        self.n_rows = 0

    def write(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._chars += len(row["text"] or "")
        self.n_rows += 1
        if len(self._rows) >= BATCH_ROWS or self._chars >= BATCH_CHARS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = {name: [row.get(name) for row in self._rows] for name in self._schema.names}
            self._writer.write_table(pa.table(columns, schema=self._schema))
            self._rows, self._chars = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


def n_rows(path: Path) -> int:
    return pq.read_metadata(path).num_rows


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    return parquet.rows(parquet.open_file(path))


def read_columns(path: Path, *names: str) -> Iterator[tuple[Any, ...]]:
    for batch in pq.ParquetFile(path).iter_batches(10_000, columns=list(names)):
        yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)
