"""Documents that are text already: JSONL and Parquet, read in a stream.

A document without an address gets one with a host of its own, since nothing says that it belongs with others;
whoever splits documents by host then splits them one by one.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from core_ml import parquet
from core_ml.crawl.page import Failure, Page, Reading, page_id
from core_ml.errors import UserError

PATIENCE = 1000
"""So many lines are read before a file of mostly bad lines is refused; a shorter one is judged at its end."""


def read_jsonl(path: Path, name: str, field: str, reading: Reading) -> Iterator[Page | Failure]:
    """One document a line. A malformed line is a failure with its number; a file of mostly such lines is refused.

    Raises UserError.
    """
    bad: list[int] = []
    number = 0
    with gzip.open(path) if is_gzip(path) else path.open("rb") as file:
        try:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                document = parse(line, field)
                if document is None:
                    bad.append(number)
                    yield Failure(
                        page_id(name, number),
                        address(name, number),
                        "malformed_line",
                        f"line {number:,} of {name}",
                    )
                    if number >= PATIENCE:
                        refuse_when_mostly_bad(bad, number, name, field)
                else:
                    yield page(document, field, name, number)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            if number == 0:
                raise UserError(
                    f"{name} is not a whole gzip file: nothing of it can be read", field="path"
                ) from error
            reading.notes.append(f"{name} is cut off after line {number:,}: the lines before are kept")
    if number == 0:
        raise UserError(f"{name} is empty: it holds no line", field="path")
    refuse_when_mostly_bad(bad, number, name, field)
    if bad:
        named = ", ".join(f"{line:,}" for line in bad[:10]) + (" and others" if len(bad) > 10 else "")
        reading.notes.append(f"{name}: {len(bad):,} malformed lines were skipped (line {named})")


def is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def parse(line: bytes, field: str) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and isinstance(document.get(field), str) else None


def refuse_when_mostly_bad(bad: list[int], number: int, name: str, field: str) -> None:
    if 2 * len(bad) > number:
        raise UserError(
            f"{len(bad):,} of {number:,} lines of {name} are not JSON objects with a text in {field!r} "
            f"(the first is line {bad[0]:,}): choose another file, or name the field that holds the text",
            field="text_field",
        )


def n_row_groups(path: Path) -> int:
    """Raises UserError for a file that is not Parquet."""
    try:
        return pyarrow.parquet.ParquetFile(path).num_row_groups
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{path.name} is not a Parquet file ({str(error).splitlines()[0]})", field="path"
        ) from error


def read_parquet(path: Path, name: str, field: str, groups: tuple[int, int]) -> Iterator[Page | Failure]:
    """The documents of some row groups, a batch at a time. Raises UserError when there is no such column."""
    table = parquet.open_file(path)
    if field not in table.schema_arrow.names:
        have = ", ".join(table.schema_arrow.names[:12])
        raise UserError(f"{name} has no column {field!r}: it has {have}", field="text_field")
    number = sum(table.metadata.row_group(group).num_rows for group in range(groups[0]))
    for group in range(*groups):
        try:
            for document in parquet.rows(table, groups=[group]):
                number += 1
                if isinstance(document[field], str):
                    yield page(document, field, name, number)
                else:
                    yield Failure(
                        page_id(name, number),
                        address(name, number),
                        "malformed_line",
                        f"row {number:,} of {name}",
                    )
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(
                f"{name} is damaged in row group {group} ({str(error).splitlines()[0]})", field="path"
            ) from error


def page(document: dict[str, Any], field: str, name: str, number: int) -> Page:
    """Everything that is not a document's text, address or date is kept as its metadata."""
    url = document.get("url")
    date = document.get("date")
    known = {field, "url", "date", "language", "language_score", "source"}
    metadata = {key: value for key, value in document.items() if key not in known}
    if isinstance(metadata.get("metadata"), str):  # as this lab writes it
        metadata |= parse(metadata.pop("metadata").encode(), "") or {}
    return Page(
        id=page_id(name, number),
        url=url if isinstance(url, str) and url else address(name, number),
        text=document[field],
        date=str(date) if date is not None else None,
        metadata=json.loads(json.dumps(metadata, default=str)),
    )


def address(name: str, number: int) -> str:
    stem = (
        re.sub(r"[^a-z0-9]+", "-", name.lower().removesuffix(".gz").rpartition(".")[0]).strip("-") or "file"
    )
    return f"http://{number}.{stem}.documents.internal/"
