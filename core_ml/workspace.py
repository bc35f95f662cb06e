"""Where a run works: its opened inputs, the folder of its outputs, and what it saved to go on after a kill."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.events import Artifact

FINISH = "finish"
"""A file of this name in the state's folder asks a run to end with what it has."""


class Workspace:
    """Given to a recipe with its config.

    Args:
        out: folder of the outputs; each becomes `out/<output name>`.
        state: folder for what a resumed attempt needs; nobody else reads it.
        inputs: opened artifacts by input name.
        origin: which run this is, for the manifests.
        id: prefix of the outputs' ids, unique to the run.
        name: the run's name, from which outputs take theirs.
    """

    def __init__(
        self,
        out: Path,
        state: Path,
        inputs: dict[str, list[artifact.Folder]],
        origin: artifact.Origin,
        id: str,
        name: str,
    ) -> None:
        self.out, self.state, self.origin, self.id, self.name = out, state, origin, id, name
        self._inputs = inputs
        self.shard_dir: Path | None = None
        out.mkdir(parents=True, exist_ok=True)
        state.mkdir(parents=True, exist_ok=True)

    # Inputs

    def input(self, name: str) -> artifact.Folder:
        """The one artifact given as `name`. Raises UserError when there is none."""
        folders = self.inputs(name)
        if not folders:
            raise UserError(f"the input {name!r} is missing: choose an artifact for it", field=name)
        return folders[0]

    def inputs(self, name: str) -> list[artifact.Folder]:
        return self._inputs.get(name, [])

    def has(self, name: str) -> bool:
        return bool(self.inputs(name))

    # Outputs

    def create(
        self,
        output: str,
        kind: artifact.Kind,
        *,
        form: str | None = None,
        role: str | None = None,
        name: str | None = None,
    ) -> artifact.Writer:
        """A writer for one output. Nothing is visible before its `finish`; then yield `self.made(...)`."""
        return artifact.Writer(
            self.out / output,
            id=f"{self.id}-{output.replace('_', '-')}",
            kind=kind,
            form=form,
            role=role,
            name=name or self.name,
            origin=self.origin,
        )

    def made(self, output: str, manifest: artifact.Manifest) -> Artifact:
        return Artifact(output=output, id=manifest.id)

    # State: one folder for each saved step, visible only whole

    def save_state(
        self,
        step: int,
        write: Callable[[Path], None],
        keep_last: int = 2,
        keep: Callable[[int], bool] = lambda step: False,
    ) -> None:
        """Call `write` with a hidden folder, then make it the newest state; older ones go.

        Args:
            keep_last: by default the newest, and the one before it in case the newest turns out damaged.
            keep: says of an older step whether its state stays nevertheless.
        """
        hidden = self.state / f".step-{step:09d}.tmp"
        for left in self.state.glob(".step-*.tmp"):  # of an attempt that was killed while it wrote
            shutil.rmtree(left, ignore_errors=True)
        hidden.mkdir(parents=True)
        try:
            self._write_state(hidden, write)
        except BaseException:
            shutil.rmtree(hidden, ignore_errors=True)  # on a full disk this gives the space back
            raise
        target = self.state / f"step-{step:09d}"
        shutil.rmtree(target, ignore_errors=True)
        hidden.rename(target)
        artifact.sync(self.state)
        for older, path in self._states()[keep_last:]:
            if not keep(older):
                shutil.rmtree(path, ignore_errors=True)

    @staticmethod
    def _write_state(hidden: Path, write: Callable[[Path], None]) -> None:
        write(hidden)
        sums = {}
        for path in sorted(path for path in hidden.rglob("*") if path.is_file()):
            artifact.sync(path)
            sums[path.relative_to(hidden).as_posix()] = artifact.sha256(path)
        artifact.write_atomically(hidden / "sums.json", json.dumps(sums))

    def latest_state(self) -> tuple[int, Path] | None:
        """The newest saved step whose files are all as they were written, or None to begin at the beginning."""
        for step, path in self._states():
            try:
                sums = json.loads((path / "sums.json").read_text())
                if all(artifact.sha256(path / name) == digest for name, digest in sums.items()):
                    return step, path
            except (OSError, ValueError):
                continue
        return None

    def state_of(self, step: int) -> Path | None:
        """The state that was saved at just this step, where it is still kept."""
        return next((path for saved, path in self._states() if saved == step), None)

    def _states(self) -> list[tuple[int, Path]]:
        found = [
            (int(match[1]), path)
            for path in self.state.glob("step-*")
            if (match := re.fullmatch(r"step-(\d+)", path.name))
        ]
        return sorted(found, reverse=True)

    def asked_to_finish(self) -> bool:
        """Whether somebody wants what the run has by now; unlike a stop, this ends it as a success."""
        return (self.state / FINISH).exists()

    # Shards of a sharded recipe

    def stage_dir(self, stage: str) -> Path:
        return self.state / "stages" / stage

    def shard_path(self, stage: str, shard: str) -> Path:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", shard) and not shard.startswith("."), shard
        return self.stage_dir(stage) / shard

    def shards(self, stage: str) -> list[Path]:
        """The folders of the finished shards of an earlier stage, in the order of their names."""
        folder = self.stage_dir(stage)
        return sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))

    def read_json(self, name: str) -> Any:
        """A small private note of this run, or None."""
        path = self.state / name
        return json.loads(path.read_text()) if path.exists() else None

    def write_json(self, name: str, value: Any) -> None:
        artifact.write_atomically(self.state / name, json.dumps(value))
