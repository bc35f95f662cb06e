"""Execution of one recipe in this process: its events, in order, to whoever listens.

A request to stop arrives as a flag; between two events the generator is closed, upon which the recipe saves
its state and leaves. A sharded recipe runs its stages in a local pool, one task a shard; in the lab the same
shards are claimed by all workers instead.
"""

import errno
import json
import multiprocessing
import os
import re
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from core_ml import artifact, ranks, recipes
from core_ml.config import RecipeConfig
from core_ml.errors import UserError
from core_ml.events import Done, Event, Failed, Log, Progress, Stopped
from core_ml.recipe import Recipe, Stage
from core_ml.workspace import Workspace


def read_config(recipe: Recipe, given: dict[str, Any], preset: str | None = None) -> RecipeConfig:
    """The config from a preset and what was given on top. Raises UserError that names field, value and mend."""
    base: dict[str, Any] = {}
    if preset is not None:
        found = recipe.preset(preset)
        if found is None:
            names = ", ".join(preset.name for preset in recipe.presets) or "none"
            raise UserError(f"{recipe.kind} has no preset {preset!r}: it has {names}", field="preset")
        base = found.config
    try:
        return recipe.config.model_validate({**base, **given})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{field}: {first['input']!r} will not do: {first['msg']}", field=field) from error


def read_inputs(
    recipe: Recipe, paths: dict[str, list[Path]], verify: bool = True
) -> dict[str, list[artifact.Folder]]:
    """Open, verify and match the inputs. Raises UserError that names the input.

    Args:
        verify: read every file and compare it with the manifest.
    """
    opened: dict[str, list[artifact.Folder]] = {}
    for name, given in paths.items():
        if name not in recipe.takes:
            raise UserError(
                f"{recipe.kind} takes no input {name!r}: it takes {', '.join(recipe.takes)}", field=name
            )
        opened[name] = []
        for path in given:
            folder = artifact.Folder(path)
            wrong = mismatch(recipe, name, folder.manifest.kind, folder.manifest.form or folder.manifest.role)
            if wrong:
                raise UserError(wrong, field=name)
            if verify:
                folder.verify()
            opened[name].append(folder)
    for name in recipe.lacking(opened):
        kind = recipe.takes[name].kind
        raise UserError(f"{recipe.kind} needs the input {name!r}: choose a {kind} for it", field=name)
    for name, wanted in recipe.takes.items():
        if not wanted.many and len(opened.get(name, [])) > 1:
            raise UserError(
                f"{name!r} takes one {wanted.kind}, and {len(opened[name])} were given", field=name
            )
    return opened


def mismatch(recipe: Recipe, name: str, kind: str, what: str | None) -> str | None:
    """Why an artifact will not do as an input, in one sentence; None when it will."""
    wanted = recipe.takes[name]
    if kind != wanted.kind:
        return f"{name!r} must be a {wanted.kind}, and this is a {kind}"
    if wanted.accepts and what not in wanted.accepts:
        noun = "role" if kind == "checkpoint" else "form"
        return f"{name!r} must have the {noun} {' or '.join(wanted.accepts)}, and this has {what}"
    return None


def execute(
    recipe: Recipe,
    config: RecipeConfig,
    workspace: Workspace,
    stopping: Callable[[], bool] = lambda: False,
    processes: int = 1,
) -> Iterator[Event]:
    """Every event of the run, the last of which is Done, Stopped or Failed. Raises nothing but our own bugs."""
    if recipe.run is not None:
        events = recipe.run(config, workspace)
    else:
        events = _run_stages(recipe, config, workspace, processes)
    yield from guarded(events, stopping)


def guarded(events: Iterator[Event], stopping: Callable[[], bool]) -> Iterator[Event]:
    """The events of a generator, then how it ended; this is the boundary at which exceptions become events."""
    try:
        for event in events:
            yield event
            if stopping():
                events.close()  # type: ignore[attr-defined]
                yield Stopped("asked to stop")
                return
    except UserError as error:
        yield Failed(error.message, error.field, error.hint)
    except Exception as error:
        ranks.leave_if_lost(error)
        yield Failed(explain(error), traceback=traceback.format_exc()[-8000:])
    else:
        yield Done()


def explain(error: BaseException) -> str:
    """One line of what went wrong and why, for causes that a person can recognize."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" while writing {Path(error.filename).name}" if error.filename else ""
        return f"The disk is full{where}: free some space and resume the run; what was finished is kept."
    if isinstance(error, MemoryError):
        return "The machine's memory was not enough: make the batch or the network smaller."
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def run_shard(stage: Stage, shard: str, config: RecipeConfig, workspace: Workspace) -> Iterator[Event]:
    """One shard of one stage. A finished shard is never done again."""
    target = workspace.shard_path(stage.name, shard)
    if target.exists():
        return
    # What a killed claimant left half-done would stay for ever: the next one has another number.
    for left in target.parent.glob(".*.tmp"):
        if re.fullmatch(rf"\.{re.escape(shard)}\.\d+\.tmp", left.name):
            shutil.rmtree(left, ignore_errors=True)
    hidden = target.with_name(f".{shard}.{os.getpid()}.tmp")
    hidden.mkdir(parents=True)
    workspace.shard_dir = hidden
    try:
        yield from stage.run_shard(shard, config, workspace)
        for path in hidden.rglob("*"):
            if path.is_file():
                artifact.sync(path)
        try:
            hidden.rename(target)
        except OSError:
            # Another claimant was quicker; both made the same thing.
            if not target.exists():
                raise
        artifact.sync(target.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        workspace.shard_dir = None


def plan(stage: Stage, config: RecipeConfig, workspace: Workspace) -> list[str]:
    """The shards of a stage, named once for the whole run so that a second plan cannot differ."""
    note = f"plan-{stage.name}.json"
    shards = workspace.read_json(note)
    if shards is None:
        shards = stage.shards(config, workspace)
        workspace.write_json(note, shards)
    return shards


def _run_stages(
    recipe: Recipe, config: RecipeConfig, workspace: Workspace, processes: int
) -> Iterator[Event]:
    for number, stage in enumerate(recipe.stages, 1):
        shards = plan(stage, config, workspace)
        message = f"{stage.title} ({number} of {len(recipe.stages)})"
        yield Progress(0, len(shards), "pieces", message)
        if processes == 1 or len(shards) <= 1:
            for done, shard in enumerate(shards, 1):
                for event in run_shard(stage, shard, config, workspace):
                    if not isinstance(event, Progress):
                        yield event
                yield Progress(done, len(shards), "pieces", message)
            continue
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(processes, len(shards)), context, _end_with_parent) as pool:
            pending = {
                pool.submit(
                    _shard_in_pool,
                    recipe.kind,
                    stage.name,
                    shard,
                    config.model_dump_json(),
                    _parcel(workspace),
                )
                for shard in shards
            }
            done = 0
            try:
                while pending:
                    finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in finished:
                        yield from future.result()
                    done += len(finished)
                    yield Progress(done, len(shards), "pieces", message)
            finally:
                for future in pending:
                    future.cancel()


def _parcel(workspace: Workspace) -> dict[str, Any]:
    return {
        "out": str(workspace.out),
        "state": str(workspace.state),
        "inputs": {
            name: [str(folder.path) for folder in workspace.inputs(name)] for name in workspace._inputs
        },
        "origin": workspace.origin.model_dump_json(),
        "id": workspace.id,
        "name": workspace.name,
    }


def _end_with_parent() -> None:
    """A process of the pool whose parent was killed would wait for its next shard for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(4)

    threading.Thread(target=watch, daemon=True).start()


def _shard_in_pool(
    kind: str, stage_name: str, shard: str, config: str, parcel: dict[str, Any]
) -> list[Event]:
    recipe = recipes.get(kind)
    stage = next(stage for stage in recipe.stages if stage.name == stage_name)
    workspace = Workspace(
        out=Path(parcel["out"]),
        state=Path(parcel["state"]),
        inputs={
            name: [artifact.Folder(Path(path)) for path in paths] for name, paths in parcel["inputs"].items()
        },
        origin=artifact.Origin.model_validate_json(parcel["origin"]),
        id=parcel["id"],
        name=parcel["name"],
    )
    validated = recipe.config.model_validate(json.loads(config))
    return [
        event
        for event in run_shard(stage, shard, validated, workspace)
        if not isinstance(event, Progress | Log)
    ]
