"""Rankings in the forms of others: JSON lines, Parquet, TRL's pairs and OpenAssistant's trees, each in a stream."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from core_ml import parquet
from core_ml.feedback.sets import openassistant, stored, trl
from core_ml.feedback.sets.ranked import Ranked, Row
from core_ml.tasks.rows import SCHEMAS

ExportForm = Literal["jsonl", "parquet", "trl", "trl-conversational", "openassistant"]
FORMS: dict[ExportForm, str] = {
    "jsonl": "One ranking a line, with all that the lab knows of it.",
    "parquet": "The same as Parquet.",
    "trl": "TRL's pairs: prompt, chosen and rejected as texts, one line for each pair that a labeler ordered.",
    "trl-conversational": "TRL's pairs with prompt, chosen and rejected as lists of messages.",
    "openassistant": "OpenAssistant's trees: all labelers' rankings of a group merged into one rank a reply.",
}
SUFFIXES: dict[ExportForm, str] = {form: ".parquet" if form == "parquet" else ".jsonl" for form in FORMS}
AT_ONCE = 500


def lines(paths: Sequence[Path], form: ExportForm) -> Iterator[str]:
    """A dataset of rankings as lines of JSON, in any form but Parquet."""
    if form == "openassistant":
        return _json(openassistant.write(stored.groups(paths)))
    if form in ("trl", "trl-conversational"):
        return of_rows(stored_rows(paths), form)
    return _json(
        {**row, "flags": _parsed(row["flags"]), "metadata": _parsed(row["metadata"])}
        for row in stored_rows(paths)
    )


def of_rows(rows: Iterable[Row], form: ExportForm) -> Iterator[str]:
    """The same of rows that lie nowhere yet, such as a project's; of OpenAssistant's form, rows of a group together."""
    if form == "openassistant":
        return _json(openassistant.write(_gathered(rows)))
    if form in ("trl", "trl-conversational"):
        return _json(pair for row in rows for pair in trl.write(stored.single(row), form != "trl"))
    return _json(rows)


def write_parquet(rows: Iterable[Row], path: Path) -> None:
    """Rows of the form rankings as one Parquet file."""
    batch: list[Row] = []
    with pq.ParquetWriter(path, SCHEMAS["rankings"], compression="zstd") as out:
        for row in rows:
            batch.append(row)
            if len(batch) == AT_ONCE:
                out.write_table(pa.Table.from_pylist(batch, SCHEMAS["rankings"]))
                batch = []
        out.write_table(pa.Table.from_pylist(batch, SCHEMAS["rankings"]))


def stored_rows(paths: Sequence[Path]) -> Iterator[Row]:
    for path in paths:
        with parquet.open_file(path) as file:
            names = [name for name in SCHEMAS["rankings"].names if name in file.schema_arrow.names]
            for row in parquet.rows(file, names):
                yield dict.fromkeys(SCHEMAS["rankings"].names) | row


def _gathered(rows: Iterable[Row]) -> Iterator[Ranked]:
    waiting: Ranked | None = None
    for row in rows:
        one = stored.single(row)
        if waiting is not None and waiting.group_id == one.group_id:
            waiting = Ranked(
                waiting.group_id,
                waiting.prompt,
                waiting.completions,
                [*waiting.votes, *one.votes],
                waiting.metadata,
            )
            continue
        if waiting is not None:
            yield waiting
        waiting = one
    if waiting is not None:
        yield waiting


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _json(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row, ensure_ascii=False) + "\n"
