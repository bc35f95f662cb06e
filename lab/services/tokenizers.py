"""Bringing tokenizers in: a `tokenizer.json` or a file of tiktoken's ranks becomes an artifact like any other.

It keeps its ids, so that texts and models which were made with it stay readable; special tokens of the chat
protocol that it lacks are added behind them.
"""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from core_ml.artifact import Origin, Writer
from core_ml.errors import UserError
from core_ml.tokenizer import formats, patterns
from core_ml.tokenizer.tokenizer import MAX_FILE_BYTES, Tokenizer
from lab.errors import FieldError, Invalid
from lab.models import Account, Artifact
from lab.models.run import new_uid
from lab.services import artifacts, fetch
from lab.services.roots import allowed_path

EXTENSIONS = re.compile(r"(\.(json|tiktoken|txt|bpe|model))+$")


def import_upload(file: Path, filename: str, **about: Any) -> Artifact:
    """`about`: `name`, `pattern` and `own_pattern` for ranks, and the `account`. Raises Invalid."""
    return _import(file, Path(filename.replace("\\", "/")).name, "file", **about)


def import_path(path: str, **about: Any) -> Artifact:
    """A file on the server, below one of IMPORT_ROOTS, links resolved; of a folder its `tokenizer.json`."""
    file = allowed_path(path)
    if file.is_dir():
        file = allowed_path(str(file / "tokenizer.json"))
    if not file.is_file():
        raise Invalid([FieldError("path", f"{path} is not a file: name one file")])
    # A folder says more than the name that every such file has.
    filename = file.parent.name if file.name == "tokenizer.json" else file.name
    return _import(file, filename, "path", **about)


def import_url(url: str, **about: Any) -> Artifact:
    with TemporaryDirectory(dir=settings.UPLOAD_ROOT) as folder:
        file = Path(folder) / "download"
        fetch.download(url, file, MAX_FILE_BYTES)
        filename = Path(urlsplit(url).path).name or urlsplit(url).hostname or "download"
        return _import(file, filename, "url", **about)


def _import(
    file: Path,
    filename: str,
    field: str,
    *,
    name: str = "",
    pattern: patterns.Name = "gpt4",
    own_pattern: str = "",
    account: Account | None = None,
) -> Artifact:
    if file.stat().st_size > MAX_FILE_BYTES:
        raise Invalid(
            [FieldError(field, f"{filename} is larger than {MAX_FILE_BYTES >> 20} MB: it is no tokenizer")]
        )
    data = file.read_bytes()
    try:
        tokenizer, kind = _read(data, filename, pattern, own_pattern)
        summary = {**_summary(tokenizer), "format": kind}
    except UserError as error:
        raise Invalid([FieldError(error.field or field, error.message)]) from error
    uid = new_uid()
    writer = Writer(
        Path(settings.ARTIFACT_ROOT) / uid / "tokenizer",
        id=f"{uid}-tokenizer",
        kind="tokenizer",
        name=(name.strip() or EXTENSIONS.sub("", filename) or "tokenizer")[:100],
        origin=Origin(recipe="import", name=filename, config={"from": field, "by": str(account or "")}),
    )
    try:
        tokenizer.save(writer.path)
        writer.finish(summary)
    except BaseException:
        writer.discard()
        writer.path.parent.rmdir()
        raise
    return artifacts.adopt(writer.target)


def _read(data: bytes, filename: str, pattern: patterns.Name, own_pattern: str) -> tuple[Tokenizer, str]:
    if not data.strip():
        raise UserError(f"{filename} is empty")
    if data.lstrip()[:1] == b"{":
        try:
            return formats.from_json(data.decode("utf-8"), filename), "tokenizer.json"
        except UnicodeDecodeError:
            raise UserError(f"{filename} is damaged: it is not UTF-8") from None
    return formats.from_ranks(data, patterns.resolve(pattern, own_pattern)), "tiktoken ranks"


def _summary(tokenizer: Tokenizer) -> dict[str, Any]:
    """Raises UserError for a tokenizer that cannot read a text of many scripts."""
    ids = tokenizer.encode(patterns.PROBE)
    return {
        "vocab_size": tokenizer.vocab_size,
        "model": json.loads(tokenizer.inner.to_str())["model"]["type"],
        "n_merges": len(tokenizer.merge_ranks),
        "n_special": len(tokenizer.special_ids),
        "pattern": patterns.named(tokenizer.pattern) if tokenizer.pattern else "several steps",
        # One that changes letters before it merges, or has no token for some, does not read back.
        "lossless": tokenizer.decode(ids) == patterns.PROBE,
        "writes_ranks": tokenizer.ranks is not None,
    }
