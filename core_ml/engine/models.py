"""Which models there are below an artifact root, and which of them are in memory."""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from core_ml.artifact import MANIFEST, Folder, Manifest
from core_ml.engine.backend import Backend
from core_ml.engine.errors import ApiError
from core_ml.errors import UserError
from core_ml.model.checkpoint import read_config

log = logging.getLogger(__name__)
NOT_GENERATORS = ("reward", "player")
"""Roles of checkpoints that score or play, and write no text."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A model on disk. `version` changes when its folder was written again."""

    id: str
    path: Path
    version: int
    manifest: Manifest
    context: int

    def describe(self) -> dict[str, Any]:
        """As the protocol lists it; what stands after `owned_by` is ours."""
        return {
            "id": self.id,
            "object": "model",
            "created": int(datetime.fromisoformat(self.manifest.created).timestamp()),
            "owned_by": "move37",
            "artifact": self.manifest.id,
            "name": self.manifest.name,
            "role": self.manifest.role,
            "run": self.manifest.origin.run,
            "max_model_len": self.context,
            "n_parameters": self.manifest.summary.get("n_parameters"),
        }


class Models:
    """The catalogue of a root, looked at anew at every question, and the loaded models, least recently used first.

    Args:
        open_backend: loads one entry; may raise UserError.
        max_bytes: weights to keep in memory; a model that is answering is kept even beyond that.
    """

    def __init__(self, root: Path, open_backend: Callable[[Entry], Backend], max_bytes: int) -> None:
        self.root, self.max_bytes = root, max_bytes
        self._open = open_backend
        self._known: dict[Path, tuple[int, Manifest, int]] = {}
        self._loaded: OrderedDict[tuple[Path, int], Backend] = OrderedDict()
        self._loading = asyncio.Lock()

    def entries(self) -> list[Entry]:
        """Every checkpoint that writes text, newest first. Its id is its name where no other has it."""
        found = []
        for path in sorted(self.root.glob(f"*/*/{MANIFEST}")):
            if not path.parent.name.startswith(".") and (known := self._read(path)) is not None:
                found.append((path.parent, *known))
        found.sort(key=lambda item: (item[2].created, item[2].id), reverse=True)
        names = Counter(manifest.name for _, _, manifest, _ in found)
        artifacts = {manifest.id for _, _, manifest, _ in found}
        return [
            Entry(
                id=manifest.name
                if names[manifest.name] == 1 and manifest.name not in artifacts
                else f"{manifest.name}:{manifest.id}",
                path=folder,
                version=version,
                manifest=manifest,
                context=context,
            )
            for folder, version, manifest, context in found
        ]

    def find(self, id: str) -> Entry:
        """By artifact id or by model id. Raises ApiError 404 that says what there is."""
        entries = self.entries()
        for entry in entries:
            if id in (entry.manifest.id, entry.id):
                return entry
        alike = [entry.id for entry in entries if entry.manifest.name == id]
        if alike:
            hint = f"Several models have this name: choose one of {', '.join(alike[:5])}."
        elif entries:
            hint = f"There are: {', '.join(entry.id for entry in entries[:5])}{', …' if len(entries) > 5 else '.'}"
        else:
            hint = "No run has made a checkpoint yet."
        raise ApiError(404, f"There is no model {id[:100]!r}. {hint}", param="model", code="model_not_found")

    async def get(self, id: str) -> tuple[Entry, Backend]:
        """A model in memory, loaded when it is not there. Raises ApiError."""
        entry = await asyncio.to_thread(self.find, id)
        key = (entry.path, entry.version)
        async with self._loading:  # one at a time: two that load together would both count on the same memory
            if key not in self._loaded:
                self._make_room(
                    sum(file.size for file in entry.manifest.files if file.path.endswith(".safetensors"))
                )
                log.info("loading %s (%s)", entry.id, entry.manifest.id)
                try:
                    self._loaded[key] = await asyncio.to_thread(self._open, entry)
                except UserError as error:
                    raise ApiError(422, error.message, param="model", code="model_damaged") from None
            self._loaded.move_to_end(key)
            return entry, self._loaded[key]

    def loaded(self) -> list[str]:
        paths = {path for path, _ in list(self._loaded)}
        return [entry.id for entry in self.entries() if entry.path in paths]

    def _make_room(self, n_bytes: int) -> None:
        for path, version in list(self._loaded):
            gone = not (path / MANIFEST).exists()
            full = sum(backend.n_bytes for backend in self._loaded.values()) + n_bytes > self.max_bytes
            if (gone or full) and not self._loaded[path, version].is_busy:
                log.info("letting go of %s", path)
                del self._loaded[path, version]

    def _read(self, path: Path) -> tuple[int, Manifest, int] | None:
        """Version, manifest and context of a checkpoint, read once for each time it is written; None for others."""
        try:
            version = path.stat().st_mtime_ns
            known = self._known.get(path)
            if known is None or known[0] != version:
                manifest = Folder(path.parent).manifest
                context = 0
                if manifest.kind == "checkpoint" and manifest.role not in NOT_GENERATORS:
                    context = read_config(path.parent).max_seq_len
                self._known[path] = known = (version, manifest, context)
        except (OSError, UserError):
            return None  # being removed, or damaged: the page of the artifact says so
        return known if known[2] else None
