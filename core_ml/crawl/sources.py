"""The files of a crawl: found once, named by position, opened by whichever worker holds the piece."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from core_ml.crawl.config import CrawlConfig
from core_ml.crawl.page import Failure, Page, Reading
from core_ml.errors import UserError
from core_ml.workspace import Workspace

WARC_ENDINGS = (".warc", ".warc.gz", ".wet", ".wet.gz", ".warc.wet.gz")
DOCUMENT_ENDINGS = (".jsonl", ".jsonl.gz", ".ndjson", ".parquet")
ROW_GROUPS = 16
"""Row groups of a Parquet file that make one piece, so that a large file is shared among workers."""


class Piece(BaseModel):
    """A file, or some row groups of one. `root` says where `path` begins: a folder, an input, or a stage."""

    root: str
    path: str
    kind: str
    groups: tuple[int, int] | None = None


def find(config: CrawlConfig, workspace: Workspace) -> list[Piece]:
    """All pieces, in the order in which their pages count as earlier and later.

    Raises UserError when there is nothing to read, or more than one thing.
    """
    given = [name for name in ("pages", "documents") if workspace.has(name)]
    if len(given) > 1 or (given and config.path):
        named = " and ".join([f"the input {name!r}" for name in given] + ["a path"] * bool(config.path))
        raise UserError(
            f"{named} were given, and a crawl reads one of them: leave the others out", field=given[0]
        )
    if given:
        folder = workspace.input(given[0])
        endings = (
            WARC_ENDINGS if given[0] == "pages" else ("documents.parquet", ".parquet", ".jsonl", ".jsonl.gz")
        )
        names = [file.path for file in folder.manifest.files if file.path.endswith(endings)]
        names = [name for name in names if not name.startswith("decisions-")]
        if not names:
            raise UserError(f"{folder.manifest.name} has no file of {given[0]}", field=given[0])
        return [piece for name in names for piece in slices(f"input:{given[0]}", folder.path, name)]
    if config.source == "python-docs":
        # Modules before their members: of text that stands on both, the module's page is the one that keeps it.
        rendered = [path for shard in workspace.shards("render") for path in shard.glob("*.warc.gz")]
        rendered.sort(key=lambda path: (path.name, path.parent.name))
        return [
            Piece(root="render", path=f"{path.parent.name}/{path.name}", kind="warc") for path in rendered
        ]
    root, names = look_at(config)
    return [piece for name in names for piece in slices("path", root, name)]


def look_at(config: CrawlConfig) -> tuple[Path, list[str]]:
    """The folder of the config's path and the names of its files, sorted. Raises UserError."""
    endings = WARC_ENDINGS if config.source == "warc" else DOCUMENT_ENDINGS
    wanted = "WARC files" if config.source == "warc" else "JSONL or Parquet files"
    if not config.path:
        raise UserError(
            f"the source {config.source!r} needs a path: name a file or a folder with {wanted}", field="path"
        )
    path = Path(config.path).expanduser()
    if path.is_file():
        return path.parent, [path.name]
    if not path.is_dir():
        raise UserError(f"there is no file or folder {config.path}", field="path")
    names = sorted(
        found.relative_to(path).as_posix()
        for found in path.rglob("*")
        if found.name.endswith(endings) and found.is_file() and not found.name.startswith(".")
    )
    if not names:
        raise UserError(f"{config.path} holds no {wanted}: they end in {', '.join(endings)}", field="path")
    return path, names


def slices(root: str, folder: Path, name: str) -> list[Piece]:
    if not name.endswith(".parquet"):
        return [Piece(root=root, path=name, kind="jsonl" if name.endswith(DOCUMENT_ENDINGS) else "warc")]
    from core_ml.crawl.documents import n_row_groups

    n = n_row_groups(folder / name)
    return [
        Piece(root=root, path=name, kind="parquet", groups=(first, min(first + ROW_GROUPS, n)))
        for first in range(0, max(n, 1), ROW_GROUPS)
    ]


def read(
    piece: Piece, config: CrawlConfig, workspace: Workspace, reading: Reading
) -> Iterator[Page | Failure]:
    """The pages of a piece. Raises UserError for a file that is not what it should be, by its name."""
    from core_ml.crawl import documents, warc

    if piece.root == "path":
        folder = look_at(config)[0]
    elif piece.root == "render":
        folder = workspace.stage_dir("render")
    else:
        folder = workspace.input(piece.root.partition(":")[2]).path
    path = folder / piece.path
    if not path.is_file():
        raise UserError(f"{piece.path} is not there any more: the crawl found it when it began", field="path")
    # A document's text stands in "text" of what this lab wrote, and where the config says in what people bring.
    field = config.text_field if piece.root == "path" else "text"
    if piece.kind == "warc":
        return warc.read(path, piece.path, reading)
    if piece.kind == "jsonl":
        return documents.read_jsonl(path, piece.path, field, reading)
    assert piece.groups is not None, piece
    return documents.read_parquet(path, piece.path, field, piece.groups)
