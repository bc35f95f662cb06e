"""Which models there are, below an artifact root and beyond it, and which of them are in memory."""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from core_ml.artifact import MANIFEST, Folder, Manifest
from core_ml.engine.backend import Backend
from core_ml.engine.errors import ApiError
from core_ml.engine.sources import AddressGiven, FileGiven, Sources
from core_ml.errors import UserError
from core_ml.exchange.gguf_reading import describe
from core_ml.model.checkpoint import WEIGHTS, read_config

log = logging.getLogger(__name__)
NOT_GENERATORS = ("reward", "player")
"""Roles of checkpoints that score or play, and write no text."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that can be asked. `version` changes when what stands behind it does."""

    id: str
    name: str
    own_id: str
    """Unique among all models: the artifact's id, or where it comes from and its number there."""
    backend: Literal["torch", "gguf", "address"]
    created: int
    version: str
    n_bytes: int = 0
    """Of memory, once it is loaded."""
    path: Path | None = None
    address: AddressGiven | None = None
    weights_sha256: str = ""
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        return self.own_id, self.version

    def describe(self) -> dict[str, Any]:
        """As the protocol lists it; what stands after `owned_by` is ours."""
        listed = {"id": self.id, "object": "model", "created": self.created, "owned_by": "move37"}
        return listed | {"name": self.name, "backend": self.backend} | self.about


class Models:
    """The catalogue, looked at anew at every question, and the loaded models, least recently used first.

    Args:
        open_backend: loads one entry, in a thread; may raise UserError.
        max_bytes: memory to keep models in, with their keys and values; one that is answering is kept even beyond that.
    """

    def __init__(self, root: Path, open_backend: Callable[[Entry], Backend], max_bytes: int) -> None:
        self.root, self.max_bytes = root, max_bytes
        self.sources = Sources(version="", addresses=[], files=[])
        self._open = open_backend
        self._known: dict[Path, tuple[int, Entry | None]] = {}
        self._loaded: OrderedDict[tuple[str, str], Backend] = OrderedDict()
        self._loading = asyncio.Lock()

    def entries(self) -> list[Entry]:
        """Every model that writes text, the newest first. Its id is its name where no other has it."""
        paths = sorted(self.root.glob(f"*/*/{MANIFEST}"))
        found = [
            entry
            for path in paths
            if not path.parent.name.startswith(".") and (entry := self._read(path, _artifact)) is not None
        ]
        found.sort(key=lambda entry: (entry.created, entry.own_id), reverse=True)
        for given in self.sources.files:
            if (entry := self._read(Path(given.path), partial(_file, given))) is not None:
                found.append(entry)
        found += [_address(given, self.sources.version) for given in self.sources.addresses]
        names = Counter(entry.name for entry in found)
        own = {entry.own_id for entry in found}
        return [
            replace(entry, id=entry.name)
            if names[entry.name] == 1 and entry.name not in own
            else replace(entry, id=f"{entry.name}:{entry.own_id}")
            for entry in found
        ]

    def find(self, id: str) -> Entry:
        """By its own id or by model id. Raises ApiError 404 that says what there is."""
        entries = self.entries()
        for entry in entries:
            if id in (entry.own_id, entry.id):
                return entry
        alike = [entry.id for entry in entries if entry.name == id]
        if alike:
            hint = f"Several models have this name: choose one of {', '.join(alike[:5])}."
        elif entries:
            hint = f"There are: {', '.join(entry.id for entry in entries[:5])}{', …' if len(entries) > 5 else '.'}"
        else:
            hint = "No run has made a checkpoint yet."
        raise ApiError(404, f"There is no model {id[:100]!r}. {hint}", param="model", code="model_not_found")

    async def get(self, id: str) -> tuple[Entry, Backend]:
        """A model that is ready, loaded when it is not there. Raises ApiError.

        Nothing is awaited between here and the caller's `start`, whose first step makes the model busy.
        """
        entry = await asyncio.to_thread(self.find, id)
        if (ready := self._ready(entry)) is not None:
            return entry, ready
        async with self._loading:  # one at a time: two that load together would both count on the same memory
            if (ready := self._ready(entry)) is None:
                self._make_room(entry)
                log.info("loading %s (%s)", entry.id, entry.own_id)
                try:
                    ready = await asyncio.to_thread(self._open, entry)
                except UserError as error:
                    raise ApiError(422, error.message, param="model", code="model_damaged") from None
                self._loaded[entry.key] = ready
            return entry, ready

    def loaded(self) -> list[str]:
        keys = {own_id for own_id, _ in list(self._loaded)}
        return [entry.id for entry in self.entries() if entry.own_id in keys]

    def close(self) -> None:
        for key in list(self._loaded):
            self._loaded.pop(key).close()

    def _ready(self, entry: Entry) -> Backend | None:
        backend = self._loaded.get(entry.key)
        if backend is not None and backend.is_gone:
            log.info("%s has ended by itself", entry.id)
            self._loaded.pop(entry.key).close()
            return None
        if backend is not None:
            self._loaded.move_to_end(entry.key)
        return backend

    def _make_room(self, entry: Entry) -> None:
        """Let go of models that are not there any more, and of the least recently used until this one fits."""
        if entry.n_bytes > self.max_bytes:
            raise ApiError(
                422,
                f"{entry.name} needs {entry.n_bytes >> 20:,} MB, and the engine may keep {self.max_bytes >> 20:,}: "
                "start it with more (--memory)",
                param="model",
                code="model_too_large",
            )
        known = {one.key for one in self.entries()}
        for key in list(self._loaded):
            if key not in known and not self._loaded[key].is_busy:
                self._let_go(key)
        self.trim(entry.n_bytes)

    def trim(self, n_bytes: int = 0) -> None:
        """Let go of models that do nothing, the least recently used first, while there is no room for so many bytes.

        What a model takes grows with its jobs, so whoever begins one calls this after it.
        """
        for key, backend in list(self._loaded.items()):
            taken = sum(one.n_bytes for one in self._loaded.values())
            # What costs no memory stays.
            if taken + n_bytes > self.max_bytes and backend.n_bytes and not backend.is_busy:
                self._let_go(key)

    def _let_go(self, key: tuple[str, str]) -> None:
        log.info("letting go of %s", key[0])
        self._loaded.pop(key).close()

    def _read(self, path: Path, read: Callable[[Path, int], Entry | None]) -> Entry | None:
        """What a file on disk is, read once for each time it is written; None where it is no model."""
        try:
            version = path.stat().st_mtime_ns
            known = self._known.get(path)
            if known is None or known[0] != version:
                self._known[path] = known = (version, read(path, version))
        except (OSError, UserError):
            return None  # being removed, or damaged: the page of the artifact says so
        return known[1]


def _artifact(path: Path, version: int) -> Entry | None:
    """A checkpoint that writes text, or a checkpoint's export as GGUF."""
    manifest = Folder(path.parent).manifest
    if manifest.kind == "checkpoint" and manifest.role not in NOT_GENERATORS:
        files = {file.path: file for file in manifest.files}
        context = read_config(path.parent).max_seq_len
        about = {"max_model_len": context, "n_parameters": manifest.summary.get("n_parameters")}
        weights = files.get(WEIGHTS)
        return _of_artifact(manifest, version, "torch", path.parent, about, weights.size if weights else 0)
    gguf = [file.path for file in manifest.files if file.path.endswith(".gguf")]
    if manifest.kind == "export" and len(gguf) == 1:
        return _of_artifact(
            manifest, version, "gguf", path.parent / gguf[0], *_described(path.parent / gguf[0])
        )
    return None


def _of_artifact(
    manifest: Manifest, version: int, backend: Any, path: Path, about: dict[str, Any], n_bytes: int
) -> Entry:
    known = {"artifact": manifest.id, "role": manifest.role or manifest.summary.get("role")}
    digest = next(
        (file.sha256 for file in manifest.files if file.path == path.name or file.path == WEIGHTS), ""
    )
    return Entry(
        id=manifest.name,
        name=manifest.name,
        own_id=manifest.id,
        backend=backend,
        created=int(datetime.fromisoformat(manifest.created).timestamp()),
        version=str(version),
        n_bytes=n_bytes,
        path=path,
        weights_sha256=digest,
        about=known | {"run": manifest.origin.run} | about,
    )


def _file(given: FileGiven, _: Path, version: int) -> Entry:
    about, n_bytes = _described(Path(given.path))
    own_id, created = f"file-{given.id}", version // 1_000_000_000
    return Entry(
        id=given.name, name=given.name, own_id=own_id, backend="gguf", created=created,
        version=f"{version} {given.path}", n_bytes=n_bytes, path=Path(given.path), about=about,
    )  # fmt: skip


def _described(path: Path) -> tuple[dict[str, Any], int]:
    from core_ml.engine.gguf_backend import bytes_of, context_of

    told = describe(path)
    about = {
        "max_model_len": context_of(told),
        "n_parameters": told.n_parameters,
        "precision": told.precision,
    }
    return about, bytes_of(told)


def _address(given: AddressGiven, version: str) -> Entry:
    about = {"max_model_len": given.context, "n_parameters": None, "remote_model": given.model}
    return Entry(
        id=given.name, name=given.name, own_id=f"address-{given.id}", backend="address",
        created=int(datetime.now(UTC).timestamp()), version=version, address=given, about=about,
    )  # fmt: skip
