"""Bringing datasets in: an upload, a file on the server, an address or the hub becomes an artifact like any other.

Nothing becomes visible before it is whole. A malformed row is named by its number, skipped and counted; a
file of mostly such rows is refused, and so is an empty one.
"""

import gzip
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from django.conf import settings

from core_ml.artifact import Origin, Writer
from core_ml.errors import UserError
from core_ml.feedback.sets.measured import measured
from core_ml.feedback.sets.ranked import Source
from lab.errors import Conflict, FieldError, Invalid
from lab.models import Account, Artifact
from lab.models.run import new_uid
from lab.services import artifacts, fetch, forms, reading, sets
from lab.services.roots import allowed_path

BATCH_ROWS, BATCH_CHARACTERS = 1000, 16 * 2**20
PATIENCE = 1000
"""So many rows are read before a file of mostly malformed ones is refused; a shorter one is judged at its end."""
N_NAMED = 20
"""Malformed rows that the summary names."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def import_upload(
    file: Path, filename: str, *, name: str = "", form: str | None = None, account: Account | None = None
) -> Artifact:
    return _import_file(file, Path(filename.replace("\\", "/")).name, "file", name, form, account)


def import_uploads(
    files: Sequence[tuple[Path, str]],
    *,
    name: str = "",
    form: str | None = None,
    account: Account | None = None,
) -> Artifact:
    """One file, or the files of one preference set that keeps votes and texts apart."""
    if len(files) == 1:
        return import_upload(*files[0], name=name, form=form, account=account)
    named = [(file, Path(filename.replace("\\", "/")).name) for file, filename in files]
    return _import_set(named, "file", name, form, account)


def import_path(
    path: str, *, name: str = "", form: str | None = None, account: Account | None = None
) -> Artifact:
    """A file on the server, below one of IMPORT_ROOTS, links resolved, or a preference set's folder. Raises Invalid."""
    file = allowed_path(path)
    if file.is_dir():
        files = sets.folder_files(file)
        if not files:
            raise Invalid(
                [FieldError("path", f"{path} is not a file, and a folder without rows: name one file")]
            )
        return _import_set(files, "path", name or file.name, form, account)
    if not file.is_file():
        raise Invalid([FieldError("path", f"{path} is not a file: name one file")])
    return _import_file(file, file.name, "path", name, form, account)


def import_url(
    url: str, *, name: str = "", form: str | None = None, account: Account | None = None
) -> Artifact:
    with TemporaryDirectory(dir=settings.UPLOAD_ROOT) as folder:
        file = Path(folder) / "download"
        fetch.download(url, file, settings.MAX_UPLOAD_BYTES)
        filename = Path(urlsplit(url).path).name or urlsplit(url).hostname or "download"
        return _import_file(file, filename, "url", name, form, account)


def import_hub(
    id: str,
    *,
    split: str = "train",
    subset: str | None = None,
    name: str = "",
    form: str | None = None,
    account: Account | None = None,
) -> Artifact:
    """A dataset of the Hugging Face hub, read in a stream. Raises Invalid, also where there is no network."""
    # Without an owner, or beside a folder of that name, the library would read files of this machine.
    if not HUB_ID.fullmatch(id) or Path(id).exists():
        raise Invalid(
            [FieldError("hub", f'{id[:80]!r} is not the id of a dataset: it is written "owner/name"')]
        )
    import datasets

    try:
        found = datasets.load_dataset(id, subset, split=split, streaming=True)
        return _import_rows(enumerate(found, 1), id.partition("/")[2], "hub", name, form, account)
    except (Invalid, UserError):
        raise
    except Exception as error:
        # The library raises a dozen kinds of its own for "no network", "no such id" and "no such split".
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise Invalid([FieldError("hub", f"{id} cannot be read from the hub: {reason}")]) from error


def _import_file(
    file: Path, filename: str, field: str, name: str, form: str | None, account: Account | None
) -> Artifact:
    size = file.stat().st_size
    reading.check_size(size, field)
    with file.open("rb") as stream:
        head = stream.read(4)
    if not head:
        raise Invalid([FieldError(field, f"{filename} is empty")])
    if head == b"PAR1":
        return _import_rows(reading.parquet_rows(file, filename, field), filename, field, name, form, account)
    if head[:4] in (b"PK\3\4", b"\x28\xb5\x2f\xfd"):
        raise Invalid(
            [FieldError(field, f"{filename} is a zip or zstd file: send JSONL, JSONL.gz, Parquet or WARC")]
        )
    with reading.unpacked(file, head) as stream:
        start = reading.beginning(stream, filename, field)
    if start.startswith(b"WARC/"):
        return _import_warc(file, filename, field, name, head.startswith(b"\x1f\x8b"), account)
    if start.startswith(b"filedesc:"):
        raise Invalid([FieldError(field, f"{filename} is an ARC file, the older format: convert it to WARC")])
    if start.lstrip()[:1] == b"[":
        raise Invalid(
            [FieldError(field, f"{filename} is one JSON list: write one object on each line (JSONL)")]
        )
    return _import_rows(reading.json_lines(file, head, filename, field), filename, field, name, form, account)


def _import_set(
    files: Sequence[tuple[Path, str]], field: str, name: str, form: str | None, account: Account | None
) -> Artifact:
    if form not in (None, *sets.FORMS):
        text = f"a preference set becomes {' or '.join(sets.FORMS)}, and {form!r} was asked for"
        raise Invalid([FieldError("form", text)])
    found, parts = sets.of_files(files, field)
    chosen, notes = form or "rankings", sets.Notes()
    rows = sets.rows(found, parts, chosen, notes)

    def write(folder: Path) -> dict[str, Any]:
        return _write_rows(folder, chosen, rows, found.name, field) | notes

    return _make(chosen, found.name, field, name, account, write)


def _import_rows(
    rows: Iterable[tuple[int, Any]],
    filename: str,
    field: str,
    name: str,
    form: str | None,
    account: Account | None,
) -> Artifact:
    rows = iter(rows)
    first: list[tuple[int, Any]] = []
    # Malformed lines before the first good one must not hide the form.
    for number, row in rows:
        first.append((number, row))
        if (isinstance(row, dict) and (forms.recognize(row) or sets.is_known(row))) or len(first) >= PATIENCE:
            break
    if not first:
        raise Invalid([FieldError(field, f"{filename} is empty: it holds no row")])
    known = first[-1][1] if isinstance(first[-1][1], dict) else {}
    pieces: Iterator[tuple[int, Any]] = chain(first, rows)
    notes = sets.Notes()
    try:
        if found := sets.of_one_file(known, form):
            form, read = form or "rankings", pieces
            pieces = sets.rows(found, {"rows": [Source(filename, lambda: read)]}, form, notes)
    except ValueError as error:
        raise Invalid([FieldError(field, f"{filename}: {error}")]) from error
    form = form or forms.recognize(known)
    if form is None:
        number, row = first[0]
        reason = (
            f"line {number}: {row}"
            if isinstance(row, ValueError)
            else f"its rows have {', '.join(map(str, known))[:200]}"
        )
        raise Invalid([FieldError(field, f"{filename} is of no known form ({reason}); {forms.expected()}")])
    if form not in forms.SCHEMAS:
        raise Invalid([FieldError("form", f"{form!r} has no rows: choose one of {', '.join(forms.SCHEMAS)}")])

    def write(folder: Path) -> dict[str, Any]:
        return _write_rows(folder, form, pieces, filename, field) | notes

    return _make(form, filename, field, name, account, write)


def _make(
    form: str,
    filename: str,
    field: str,
    name: str,
    account: Account | None,
    write: Callable[[Path], dict[str, Any]],
) -> Artifact:
    uid = new_uid()
    stem = re.sub(r"(\.(jsonl|ndjson|json|parquet|warc|wet|gz))+$", "", filename)
    writer = Writer(
        Path(settings.ARTIFACT_ROOT) / uid / form,
        id=f"{uid}-{form}",
        kind="dataset",
        form=form,
        name=(name.strip() or stem or form)[:100],
        origin=Origin(recipe="import", name=filename, config={"from": field, "by": str(account or "")}),
    )
    try:
        writer.finish(write(writer.path))
    except BaseException:
        writer.discard()
        writer.path.parent.rmdir()
        raise
    return artifacts.adopt(writer.target)


def _write_rows(
    folder: Path, form: str, rows: Iterable[tuple[int, Any]], filename: str, field: str
) -> dict[str, Any]:
    schema, source = forms.SCHEMAS[form], filename
    target = folder / ("documents-00000.parquet" if form == "documents" else f"{form}.parquet")
    bad: list[tuple[int, str]] = []
    batch: list[dict[str, Any]] = []
    n_good = n_bad = n_characters = in_batch = 0
    with pq.ParquetWriter(target, schema, compression="zstd") as out:
        for number, row in rows:
            try:
                if isinstance(row, ValueError):
                    raise row
                laid = forms.lay_out(form, row, number, source)
            except (ValueError, RecursionError) as error:
                n_bad += 1
                bad += [(number, str(error))] if len(bad) < N_NAMED else []
                if n_good + n_bad == PATIENCE:
                    _refuse_mostly_bad(n_good, n_bad, bad, filename, field)
                continue
            batch.append(laid)
            n_good += 1
            in_batch += _n_characters(laid)
            if len(batch) == BATCH_ROWS or in_batch > BATCH_CHARACTERS:
                n_characters += in_batch
                out.write_table(_table(batch, schema, field))
                batch, in_batch = [], 0
        out.write_table(_table(batch, schema, field))
        n_characters += in_batch
    if not n_good and not n_bad:
        what = "row" if form not in sets.FORMS else f"row of {form}"
        raise Invalid([FieldError(field, f"{filename} is empty: it holds no {what}")])
    _refuse_mostly_bad(n_good, n_bad, bad, filename, field)
    about = measured([target]) if form == "rankings" else {}
    return about | {
        "rows": n_good,
        form: n_good,
        "characters": n_characters,
        "skipped": n_bad,
        "skipped_rows": [{"row": number, "reason": reason} for number, reason in bad],
    }


def _n_characters(laid: dict[str, Any]) -> int:
    texts = [value if isinstance(value, list) else [value] for value in laid.values()]
    return sum(len(one) for values in texts for one in values if isinstance(one, str))


def _table(batch: list[dict[str, Any]], schema: pa.Schema, field: str) -> pa.Table:
    try:
        return pa.Table.from_pylist(batch, schema)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise Invalid(
            [FieldError(field, f"a row has a value of the wrong type: {str(error)[:200]}")]
        ) from error


def _refuse_mostly_bad(
    n_good: int, n_bad: int, bad: list[tuple[int, str]], filename: str, field: str
) -> None:
    if n_bad > n_good:
        number, reason = bad[0]
        text = f"{n_bad:,} of {n_good + n_bad:,} rows of {filename} are malformed; the first is line {number}: {reason}"
        raise Invalid([FieldError(field, text)])


def _import_warc(
    file: Path, filename: str, field: str, name: str, packed: bool, account: Account | None
) -> Artifact:
    from core_ml.crawl import warc
    from core_ml.crawl.page import Failure, Reading

    def write(folder: Path) -> dict[str, Any]:
        if packed:
            reading.check_unpacked_size(file, field)
        read = Reading()
        n_pages = n_failures = 0
        for page in warc.read(file, filename, read):
            n_failures += isinstance(page, Failure)
            n_pages += not isinstance(page, Failure)
        if not n_pages:
            raise Invalid(
                [
                    FieldError(
                        field,
                        f"{filename} holds no page: {'; '.join(read.notes) or 'its records are of other kinds'}",
                    )
                ]
            )
        with file.open("rb") as source, (folder / "pages-00000.warc.gz").open("wb") as target:
            if packed:
                shutil.copyfileobj(source, target, 1 << 20)
            else:
                with gzip.GzipFile(fileobj=target, mode="wb", mtime=0) as packing:
                    shutil.copyfileobj(source, packing, 1 << 20)
        return {
            "pages": n_pages,
            "failures": n_failures,
            "skipped": dict(read.skipped),
            "notes": read.notes,
        }

    try:
        return _make("pages", filename, field, name, account, write)
    except UserError as error:
        raise Invalid([FieldError(field, error.message)]) from error


def delete(artifact: Artifact) -> None:
    """Remove a dataset that no run made. Raises Conflict naming what depends on it."""
    if artifact.run_id is not None:
        raise Conflict(f"run {artifact.run_id} made {artifact.name}: delete that run")
    taken = artifact.taken_by.select_related("run").first()
    if taken is not None:
        raise Conflict(f"run {taken.run} took {artifact.name}: delete that run first")
    project = artifact.projects.first()
    if project is not None:
        raise Conflict(f"the labelling project {project.name!r} ranks {artifact.name}: delete it first")
    artifacts.disown(artifact)
