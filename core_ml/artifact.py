"""Artifacts: folders that become visible only whole.

A writer fills a hidden folder, then hashes and syncs each file, writes `manifest.json` last and renames the
folder into place. A folder without a manifest is not an artifact.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from core_ml.errors import UserError

MANIFEST = "manifest.json"
Kind = Literal["dataset", "tokenizer", "checkpoint", "export"]
"""An export is a checkpoint in a format of others: to be taken home or talked to, and no run takes it."""
FORMS = ("pages", "documents", "tokens", "conversations", "problems", "prompts", "rollouts", "rankings")
ROLES = ("base", "chat", "reasoner", "aligned", "reward", "player")


class File(BaseModel):
    path: str
    size: int
    sha256: str


class Origin(BaseModel):
    """Which run made an artifact, with all that is needed to draw its lineage without the database."""

    run: int | None = None
    recipe: str
    name: str = ""
    config: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, list[str]] = Field(default_factory=dict)
    started: str | None = None


class Manifest(BaseModel):
    """What an artifact is, which files it has, and where it comes from."""

    version: int = 1
    id: str
    kind: Kind
    form: str | None = None
    role: str | None = None
    name: str
    created: str
    size: int
    files: list[File]
    summary: dict[str, Any] = Field(default_factory=dict)
    origin: Origin


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk, so that a rename after it cannot be seen before it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that readers see the old one or the new one, never a part."""
    # Unique across threads and machines: two workers may write the same request at the same time.
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    data = content.encode() if isinstance(content, str) else content
    try:
        with hidden.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)
    sync(path.parent)


class Folder:
    """A finished artifact on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
        except FileNotFoundError:
            raise UserError(f"{path} is not an artifact: it has no {MANIFEST}") from None
        except ValidationError as error:
            raise UserError(f"{path / MANIFEST} is damaged: {error.errors()[0]['msg']}") from None

    def file(self, name: str) -> Path:
        """The path of one of the artifact's files. Raises UserError when it has no such file."""
        if all(file.path != name for file in self.manifest.files):
            raise UserError(f"{self.manifest.name} ({self.manifest.id}) has no file {name!r}")
        return self.path / name

    def files(self, suffix: str = "") -> list[Path]:
        return [self.path / file.path for file in self.manifest.files if file.path.endswith(suffix)]

    def verify(self) -> None:
        """Raises UserError for the first file that is missing, short or changed."""
        for file in self.manifest.files:
            path = self.path / file.path
            if not path.is_file():
                raise UserError(f"{self.manifest.name} is damaged: {file.path} is missing")
            if path.stat().st_size != file.size:
                raise UserError(
                    f"{self.manifest.name} is damaged: {file.path} has {path.stat().st_size:,} bytes "
                    f"and its manifest says {file.size:,}"
                )
            if sha256(path) != file.sha256:
                raise UserError(f"{self.manifest.name} is damaged: {file.path} does not match its SHA-256")


class Writer:
    """Fills one artifact: write files below `path`, then call `finish`."""

    def __init__(
        self,
        target: Path,
        *,
        id: str,
        kind: Kind,
        name: str,
        origin: Origin,
        form: str | None = None,
        role: str | None = None,
    ) -> None:
        assert form is None or form in FORMS, form
        assert role is None or role in ROLES, role
        self.target = target
        self.path = target.with_name(f".{target.name}.tmp")
        self._fields: dict[str, Any] = {
            "id": id,
            "kind": kind,
            "name": name,
            "form": form,
            "role": role,
            "origin": origin,
        }
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)

    def finish(self, summary: dict[str, Any] | None = None) -> Manifest:
        """Hash and sync the files, write the manifest last, and rename the folder into place."""
        files = []
        for path in sorted(path for path in self.path.rglob("*") if path.is_file()):
            sync(path)
            files.append(
                File(
                    path=path.relative_to(self.path).as_posix(), size=path.stat().st_size, sha256=sha256(path)
                )
            )
        manifest = Manifest(
            **self._fields,
            files=files,
            size=sum(file.size for file in files),
            summary=json.loads(json.dumps(summary or {})),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_atomically(self.path / MANIFEST, manifest.model_dump_json(indent=1))
        # A run that was killed between this rename and its last event makes the same artifact again.
        stale = self.target.with_name(f".{self.target.name}.stale")
        shutil.rmtree(stale, ignore_errors=True)
        if self.target.exists():
            self.target.rename(stale)
        self.path.rename(self.target)
        sync(self.target.parent)
        shutil.rmtree(stale, ignore_errors=True)
        return manifest

    def discard(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def scan(root: Path) -> Iterator[Folder]:
    """Every finished artifact below a root of `run/output` folders; hidden and damaged folders are passed over."""
    for manifest in sorted(root.glob(f"*/*/{MANIFEST}")):
        if not manifest.parent.name.startswith("."):
            try:
                yield Folder(manifest.parent)
            except UserError:
                continue
