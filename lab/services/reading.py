"""Rows out of files that people bring in: JSONL (also gzipped) and Parquet, in a stream, never more than allowed."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from django.conf import settings

from lab.errors import FieldError, Invalid

MAX_LINE = 32 * 2**20
Numbered = Iterator[tuple[int, Any]]
"""Number of a line or row from 1, and the row; or the ValueError that says what is wrong with it."""


def check_size(n: int, field: str) -> None:
    """Of a file, or of what comes out of it: 200 kB of gzip can hold 200 MB."""
    if n > settings.MAX_UPLOAD_BYTES:
        text = (
            f"this is more than {settings.MAX_UPLOAD_BYTES:,} bytes: split it, or raise LAB_MAX_UPLOAD_BYTES"
        )
        raise Invalid([FieldError(field, text)])


def unpacked(file: Path, head: bytes) -> BinaryIO:
    return gzip.open(file) if head.startswith(b"\x1f\x8b") else file.open("rb")  # type: ignore[return-value]


def beginning(stream: BinaryIO, filename: str, field: str) -> bytes:
    try:
        return stream.read(512)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise Invalid(
            [FieldError(field, f"{filename} is not a whole gzip file: nothing of it can be read")]
        ) from None


def rows(file: Path, filename: str, field: str) -> Numbered:
    """Rows of a file of either kind. What is neither ends in lines that say so."""
    with file.open("rb") as stream:
        head = stream.read(4)
    if head == b"PAR1":
        return parquet_rows(file, filename, field)
    return json_lines(file, head, filename, field)


def json_lines(file: Path, head: bytes, filename: str, field: str) -> Numbered:
    number = n_read = 0
    with unpacked(file, head) as stream:
        try:
            while line := stream.readline(MAX_LINE):
                number += 1
                n_read += len(line)
                check_size(n_read, field)
                if len(line) == MAX_LINE:
                    raise Invalid(
                        [FieldError(field, f"line {number} of {filename} is longer than {MAX_LINE:,} bytes")]
                    )
                if line.strip():
                    yield number, _parsed(line)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise Invalid(
                [FieldError(field, f"{filename} breaks off after line {number}: fetch it again")]
            ) from None


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line, parse_constant=lambda _: None)
    except RecursionError:
        return ValueError("it is nested too deeply")
    except ValueError as error:
        return ValueError(f"it is not JSON ({error})")


def parquet_rows(file: Path, filename: str, field: str) -> Numbered:
    number = n_read = 0
    try:
        with pq.ParquetFile(file) as table:
            groups = range(table.metadata.num_row_groups)
            check_size(sum(table.metadata.row_group(group).total_byte_size for group in groups), field)
            for batch in table.iter_batches(128):
                # What a dictionary holds once is as large as its rows when it is unpacked.
                n_read += batch.nbytes
                check_size(n_read, field)
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise Invalid([FieldError(field, f"{filename} is damaged after row {number}: {reason}")]) from error


def check_unpacked_size(file: Path, field: str) -> None:
    """Unpack a gzip file to nowhere, up to the limit; damage is told by whoever reads it."""
    n = 0
    with gzip.open(file) as stream:
        try:
            while chunk := stream.read(1 << 20):
                n += len(chunk)
                check_size(n, field)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return
