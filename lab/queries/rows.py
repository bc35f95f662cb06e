"""The rows of a dataset, read in place: DuckDB over Parquet, FastWARC over pages, maps of tokens; nothing is loaded whole.

DuckDB would read any file of the machine, so each connection is shut in the artifact's folder and then locked.
Words from people are parameters; the names of columns and files come from the code and from the manifest.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from core_ml.artifact import Folder
from core_ml.errors import UserError
from lab.models import Artifact
from lab.queries import artifacts, token_rows, tokenizers

MAX_LIMIT = 500
MAX_CHARS = 20_000
"""Of one text on a page; the whole of it is in the file."""
MAX_PAGES = 50_000
"""How far into WARC files a listing looks."""

COLUMNS = {
    "documents": ("id", "url", "text", "language", "language_score", "date", "source", "metadata"),
    "conversations": ("messages", "metadata"),
    "problems": ("prompt", "answer", "verifier", "metadata"),
    "prompts": ("prompt", "metadata"),
    "rollouts": ("group_id", "prompt", "completions", "logprobs", "ended", "metadata"),
    "rankings": (
        "group_id", "prompt", "completions", "labeler", "simulated", "order", "all_bad", "flags", "seconds",
        "metadata",
    ),
}  # fmt: skip
SEARCHED = {
    "documents": ("url", "text"),
    "conversations": ("messages", "metadata"),
    "problems": ("prompt", "answer", "metadata"),
    "prompts": ("prompt", "metadata"),
    "rollouts": ("prompt", "completions", "metadata"),
    "rankings": ("prompt", "completions", "labeler"),
}


@dataclass(frozen=True)
class Rows:
    """Some rows of a dataset. `count` is of all that match; `cut` says that the search ended before the end."""

    items: list[dict[str, Any]]
    count: int
    offset: int
    limit: int
    cut: bool = False

    @property
    def first(self) -> int:
        return self.offset + 1 if self.items else 0

    @property
    def last(self) -> int:
        return self.offset + len(self.items)

    @property
    def earlier(self) -> int | None:
        return max(0, self.offset - self.limit) if self.offset else None

    @property
    def later(self) -> int | None:
        return self.offset + self.limit if self.last < self.count else None


@contextmanager
def connect(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that reads below `folder` and nowhere else, and cannot be told otherwise."""
    connection = duckdb.connect(
        ":memory:", config={"threads": 1, "memory_limit": "256MB", "temp_directory": ""}
    )
    try:
        allowed = str(folder.resolve()).replace("'", "''")
        connection.execute(f"SET allowed_directories=['{allowed}']")
        connection.execute("SET enable_external_access=false")
        connection.execute("SET lock_configuration=true")
        yield connection
    finally:
        connection.close()


def fetch(folder: Path, sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of one query as dicts. Raises UserError when a file of the dataset cannot be read."""
    with connect(folder) as connection:
        try:
            found = connection.execute(sql, parameters)
            names = [column[0] for column in found.description]
            return [dict(zip(names, values, strict=True)) for values in found.fetchall()]
        except duckdb.Error as error:
            raise UserError(f"this dataset cannot be read: {str(error).splitlines()[0][:200]}") from error


def page(artifact: Artifact, *, offset: int = 0, limit: int = 50, q: str = "") -> Rows:
    """Rows `offset` to `offset + limit` of those in which `q` stands, in the order of the files.

    Raises: UserError when the dataset has no rows to read, or a file is damaged.
    """
    offset, limit, q = max(0, offset), min(max(1, limit), MAX_LIMIT), q.strip()[:200].replace("\0", "")
    folder = Folder(artifacts.path(artifact))
    if artifact.form == "pages":
        return _pages(folder, offset, limit, q)
    if artifact.form == "tokens":
        items, count, cut = token_rows.page(folder, tokenizers.load(artifact), offset, limit, q)
        return Rows(items, count, offset, limit, cut)
    if artifact.form not in COLUMNS:
        raise UserError(f"a dataset of {artifact.form or 'no form'} has no rows to read here")
    return _parquet(folder, artifact.form, offset, limit, q)


def files(folder: Folder, form: str) -> list[Path]:
    """The Parquet files that hold a form's rows: `documents-00000.parquet`, not the decisions beside them."""
    found = [path for path in folder.files(".parquet") if path.name.split("-")[0].split(".")[0] == form]
    found = found or [path for path in folder.files(".parquet") if not path.name.startswith("decisions")]
    if not found:
        raise UserError(f"{folder.manifest.name} has no Parquet file of {form}")
    return found


def _parquet(folder: Folder, form: str, offset: int, limit: int, q: str) -> Rows:
    source = {"files": [str(path.resolve()) for path in files(folder, form)]}
    there = {
        row["column_name"]
        for row in fetch(
            folder.path, "DESCRIBE SELECT * FROM read_parquet($files, union_by_name=true)", source
        )
    }
    columns = [name for name in COLUMNS[form] if name in there]
    searched = [name for name in SEARCHED[form] if name in there]
    if not columns:
        raise UserError(
            f"{folder.manifest.name} has none of the columns of {form}: {', '.join(COLUMNS[form])}"
        )
    where, parameters = "", dict[str, Any](source)
    if q and searched:
        where = "WHERE " + " OR ".join(f'contains(lower("{name}"::VARCHAR), lower($q))' for name in searched)
        parameters["q"] = q
    table = f"FROM read_parquet($files, union_by_name=true) {where}"
    count = fetch(folder.path, f"SELECT count(*) AS n {table}", parameters)[0]["n"]
    names = ", ".join(_shortened(name) for name in columns)
    items = fetch(
        folder.path,
        f"SELECT {names} {table} LIMIT $limit OFFSET $offset",
        {**parameters, "limit": limit, "offset": offset},
    )
    for number, item in enumerate(items, start=offset):
        item["number"] = number
    return Rows(items, count, offset, limit)


def _shortened(name: str) -> str:
    if name == "text":
        return f'left("text", {MAX_CHARS}) AS "text", length("text") AS "n_chars"'
    return f'"{name}"'


def _pages(folder: Folder, offset: int, limit: int, q: str) -> Rows:
    """The responses of WARC files: address, status, type and size of each."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    items: list[dict[str, Any]] = []
    n_seen = count = 0
    for path in sorted(folder.files(".warc.gz")) + sorted(folder.files(".warc")):
        with path.open("rb") as stream:
            for record in ArchiveIterator(stream, record_types=WarcRecordType.response, parse_http=True):
                n_seen += 1
                url = record.headers.get("WARC-Target-URI") or ""
                if q.lower() in url.lower():
                    if offset <= count < offset + limit:
                        items.append(_page(record, url, count))
                    count += 1
                known = folder.manifest.summary.get("n_pages") or folder.manifest.summary.get("pages")
                if n_seen >= MAX_PAGES or (not q and len(items) == limit and isinstance(known, int)):
                    total = known if not q and isinstance(known, int) else count
                    return Rows(items, max(total, count), offset, limit, cut=n_seen >= MAX_PAGES)
    return Rows(items, count, offset, limit)


def _page(record: Any, url: str, number: int) -> dict[str, Any]:
    http = record.http_headers
    return {
        "number": number,
        "url": url,
        "status": http.status_code if http else None,
        "type": (http.get("Content-Type") or "").partition(";")[0] if http else "",
        "size": int(record.headers.get("Content-Length") or 0),
        "date": record.headers.get("WARC-Date") or "",
    }
