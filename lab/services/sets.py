"""Preference sets of others among what is brought in: their rows as rows of our own forms, and their agreement.

`core_ml.feedback.sets` knows the sets; here their files are opened, and what they say goes the way of any other rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from core_ml.feedback.sets import exporting, known
from core_ml.feedback.sets.exporting import ExportForm
from core_ml.feedback.sets.ranked import Bad, Source, rankings, rollouts
from lab.errors import FieldError, Invalid
from lab.services import reading

FORMS = ("rankings", "rollouts")
"""What a preference set can become: votes, or its groups to be ranked anew."""
SUFFIXES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz", ".parquet")
MAX_FILES = 100
Notes = dict[str, Any]


def is_known(row: Any) -> bool:
    return known.part_of(row) is not None


def of_one_file(row: Any, form: str | None) -> known.Known | None:
    """The set that a file with this row is; None for any other rows, and where they are wanted as another form.

    Raises: ValueError for votes whose texts are in another file, with what to bring.
    """
    found = known.part_of(row) if form is None or form in FORMS else None
    if found is None or (not found[0].is_one_file and found[1] != "votes"):
        return None
    if not found[0].is_one_file:
        raise ValueError(
            f"these are votes of {found[0].name}, whose texts are in other files: bring its folder, or all of its "
            f"files at once ({found[0].needs()})"
        )
    return found[0]


def of_files(files: Sequence[tuple[Path, str]], field: str) -> tuple[known.Known, known.Parts]:
    """The one set that several files are; files that belong to none are passed over. Raises: Invalid."""
    if len(files) > MAX_FILES:
        text = f"these are {len(files):,} files, more than {MAX_FILES}: name one file, or a set's own folder"
        raise Invalid([FieldError(field, text)])
    found = []
    for file, filename in files:
        source = Source(filename, lambda file=file, filename=filename: reading.rows(file, filename, field))  # type: ignore[misc]
        part = known.part_of(next((row for _, row in source.rows()), None))
        if part is not None:
            found.append((*part, source))
    if not found:
        text = "there is no preference set that is known here in these files: bring one file at a time"
        raise Invalid([FieldError(field, text)])
    try:
        return known.whole(found)
    except ValueError as error:
        raise Invalid([FieldError(field, str(error))]) from error


def folder_files(folder: Path) -> list[tuple[Path, str]]:
    """The files of a folder that can hold rows; what is linked from elsewhere is not in it."""
    return sorted(
        (path, path.name)
        for path in folder.iterdir()
        if path.name.endswith(SUFFIXES) and path.is_file() and not path.is_symlink()
    )


def rows(found: known.Known, parts: known.Parts, form: str, notes: Notes) -> Iterator[tuple[int, Any]]:
    """Numbered rows of `form`; a ValueError stands for a row that says nothing, as in any other file.

    Args:
        notes: is told the set's name and files, and how many votes have no texts.
    """
    notes |= {"set": found.name, "files": [source.name for sources in parts.values() for source in sources]}
    seen: set[int] = set()
    for one in found.read(parts):
        if isinstance(one, Bad):
            yield one.number, ValueError(one.reason)
            continue
        number, ranked = one
        if ranked.metadata.get("without_texts"):
            notes["without_texts"] = notes.get("without_texts", 0) + len(ranked.votes)
        if form == "rankings":
            for row in rankings(ranked):
                yield number, row
        elif hash(ranked.group_id) not in seen:
            # The group stands in a row of each of its votes, and is one group. Eight bytes of each, not its id.
            seen.add(hash(ranked.group_id))
            yield number, rollouts(ranked)


def export(paths: Sequence[Path], form: ExportForm) -> Any:
    """A dataset of rankings in a form of others: an open file, which is gone when it is closed."""
    if form == "parquet":
        return _written((), exporting.stored_rows(paths))
    return _written(exporting.lines(paths, form))


def export_rows(rows: Iterable[dict[str, Any]], form: ExportForm) -> Any:
    """The same of rows that lie nowhere yet, a group's together."""
    return _written((), rows) if form == "parquet" else _written(exporting.of_rows(rows, form))


def _written(lines: Iterable[str], rows: Iterable[dict[str, Any]] | None = None) -> Any:
    file = NamedTemporaryFile()  # noqa: SIM115 (the answer that it is sent in closes it)
    try:
        if rows is not None:
            exporting.write_parquet(rows, Path(file.name))
        for line in lines:
            file.write(line.encode())
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file
