"""Parquet files read in a stream: little of a file is in memory at once, however long its rows and groups are.

Arrow's own batches have a number of rows. Sixty-four novels are a batch of 40 MB, and sixty-four questions are
nothing, so here the rows of a group are read in batches of about as many bytes.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

BATCH_ROWS = 1024
BATCH_BYTES = 4 << 20
READ_BYTES = 1 << 20
"""Read from the disk at a time; without it Arrow reads the whole column of a row group first."""


def open_file(path: Path) -> pq.ParquetFile:
    """Raises: OSError or pyarrow.ArrowException for what is not Parquet."""
    return pq.ParquetFile(path, buffer_size=READ_BYTES)


def rows(
    file: pq.ParquetFile, columns: Sequence[str] | None = None, groups: Iterable[int] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of some row groups, or of all, in their order."""
    for group in range(file.num_row_groups) if groups is None else groups:
        at_once = rows_at_once(file, group)
        for batch in file.iter_batches(at_once, row_groups=[group], columns=columns):
            yield from batch.to_pylist()


def rows_at_once(file: pq.ParquetFile, group: int) -> int:
    """So many rows of a group hold about `BATCH_BYTES`; at least one, since a row is never cut."""
    metadata = file.metadata.row_group(group)
    bytes_a_row = metadata.total_byte_size / max(1, metadata.num_rows)
    return max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(1, bytes_a_row))))
