"""Rankings as they lie in Parquet, gathered by group whatever order their rows are in, in bounded memory.

DuckDB sorts on disk what does not fit. It would read any file of the machine, so a connection is shut in the folder
of the files and then locked.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa

from core_ml import parquet
from core_ml.errors import UserError
from core_ml.feedback.sets.ranked import Ranked, Row, Vote
from core_ml.tasks.rows import as_dict

MEMORY = "192MB"
AT_ONCE = 200
COLUMNS = ("group_id", "labeler", "simulated", "order", "all_bad", "flags")
TEXTS = ("prompt", "completions", "seconds", "metadata")


@contextmanager
def _connected(paths: Sequence[Path]) -> Iterator[duckdb.DuckDBPyConnection]:
    with TemporaryDirectory() as folder:
        settings: dict[str, Any] = {"threads": 1, "memory_limit": MEMORY, "temp_directory": folder}
        connection = duckdb.connect(":memory:", config=settings)
        try:
            allowed = [str(path.parent.resolve()) for path in paths] + [folder]
            quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in dict.fromkeys(allowed))
            connection.execute(f"SET allowed_directories=[{quoted}]")
            connection.execute("SET enable_external_access=false")
            connection.execute("SET lock_configuration=true")
            yield connection
        finally:
            connection.close()


def _rows(paths: Sequence[Path], names: str, order: str, only: str | None = None) -> Iterator[Row]:
    given: Row = {"files": [str(path.resolve()) for path in paths]} | (
        {"only": only} if only is not None else {}
    )
    where = "" if only is None else 'WHERE "group_id"::VARCHAR = $only '
    with _connected(paths) as connection:
        try:
            found = connection.execute(
                f"SELECT {names} FROM read_parquet($files, union_by_name=true, file_row_number=true, filename=true) "
                f"{where}ORDER BY {order}",
                given,
            )
            columns = [column[0] for column in found.description]
            while batch := found.fetchmany(AT_ONCE):
                for values in batch:
                    yield dict(zip(columns, values, strict=True))
        except duckdb.Error as error:
            raise UserError(f"these rankings cannot be read: {str(error).splitlines()[0][:200]}") from error


def votes(paths: Sequence[Path]) -> Iterator[tuple[str, int, list[Vote]]]:
    """Id, number of completions and votes of each group, without any text; groups in the order of their ids."""
    names = ", ".join(f'"{name}"' for name in COLUMNS) + ', len("completions") AS n'
    rows = _rows(paths, names, '"group_id", "filename", "file_row_number"')
    for group_id, found in groupby(rows, key=lambda row: str(row["group_id"])):
        cast = list(found)
        yield group_id, max(row["n"] or 0 for row in cast), [_vote(row) for row in cast]


def groups(paths: Sequence[Path], only: str | None = None) -> Iterator[Ranked]:
    """Whole groups with all their votes, in the order in which they first stand in the files; or one, by its id."""
    for group_id, found in groupby(rows(paths, only=only), key=lambda row: str(row["group_id"])):
        cast = list(found)
        yield Ranked(
            group_id=group_id,
            prompt=cast[0]["prompt"] or "",
            completions=[one or "" for one in cast[0]["completions"] or ()],
            votes=[_vote(row) for row in cast],
            metadata=as_dict(cast[0]["metadata"]),
        )


def rows(paths: Sequence[Path], only: str | None = None) -> Iterator[Row]:
    """The rows as they are, a group's together where its first one stands; or those of one group.

    A column that the files lack is NULL; `weight` is one that few have.
    """
    there: set[str] = set()
    try:
        for path in paths:
            with parquet.open_file(path) as file:
                there.update(file.schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"these rankings cannot be read: {error}") from error
    columns = (*COLUMNS, *TEXTS, "weight")
    wanted = ", ".join(f'"{name}"' if name in there else f'NULL AS "{name}"' for name in columns)
    first = 'min(("filename", "file_row_number")) OVER (PARTITION BY "group_id") AS first_row'
    order = 'first_row, "filename", "file_row_number"'
    return _rows(paths, f'{wanted}, {first}, "filename", "file_row_number"', order, only)


def single(row: Row) -> Ranked:
    """One row as a group with the one vote in it."""
    return Ranked(
        group_id=str(row["group_id"]),
        prompt=row["prompt"] or "",
        completions=[one or "" for one in row["completions"] or ()],
        votes=[_vote(row)],
        metadata=as_dict(row.get("metadata")),
    )


def _vote(row: Row) -> Vote:
    flags = row.get("flags")
    try:
        given = json.loads(flags) if isinstance(flags, str) else {}
    except ValueError:
        given = {}
    return Vote(
        labeler=str(row["labeler"]),
        order=[list(tied) for tied in row["order"] or () if tied],
        simulated=bool(row["simulated"]),
        flags={int(key): list(names) for key, names in given.items() if str(key).isdecimal()}
        if isinstance(given, dict)
        else {},
        all_bad=bool(row["all_bad"]),
        seconds=float(row.get("seconds") or 0),
    )
