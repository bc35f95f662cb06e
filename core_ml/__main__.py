"""One recipe from the shell: python -m core_ml RECIPE --config FILE --inputs NAME=DIR … --out DIR.

The lab starts its child processes by this same command, with `--events FILE` to receive the events and
`--run FILE` to say which run it is. For a sharded recipe `--stage NAME` plans one stage and prints its
shards, and with `--shard NAME` does one of them.
"""

import argparse
import json
import os
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import TextIO

# Before torch is imported: threads that spin on a busy machine make a step ten to a hundred times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

from core_ml import artifact, ranks, recipes
from core_ml.errors import UserError
from core_ml.events import (
    Artifact,
    Done,
    Event,
    Failed,
    Log,
    Metric,
    Progress,
    Resumed,
    Sample,
    Stopped,
    Summary,
    to_line,
)
from core_ml.execute import execute, guarded, plan, read_config, read_inputs, run_shard
from core_ml.workspace import Workspace

PROGRESS_EVERY = 0.2  # seconds; a quick loop would otherwise write more progress than work


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m core_ml", description=__doc__.split("\n\n")[0])
    parser.add_argument("recipe", help="one of " + ", ".join(recipes.all_recipes()))
    parser.add_argument("--config", default="{}", help="a JSON file, or the JSON itself")
    parser.add_argument("--preset", help="a named config to begin with")
    parser.add_argument("--inputs", nargs="*", default=[], metavar="NAME=DIR", help="artifact folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of the outputs")
    parser.add_argument("--state", type=Path, help="folder of the saved state (default: OUT/.state)")
    parser.add_argument("--name", help="name of the outputs (default: the recipe's)")
    parser.add_argument("--run", type=Path, help="JSON file with id and origin of the run")
    parser.add_argument("--events", type=Path, help="append events to this file as lines of JSON")
    parser.add_argument("--parent", type=int, help="leave when the parent process is no longer this one")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="of a sharded recipe")
    parser.add_argument("--stage", help="of a sharded recipe: only this stage")
    parser.add_argument("--shard", help="of the stage: only this shard")
    options = parser.parse_args(arguments)

    if options.parent is not None:
        _die_with_parent(options.parent)
    stop = _StopRequest(options.parent)
    sink = _sink(options.events)
    try:
        recipe = recipes.get(options.recipe)
        given = json.loads(Path(options.config).read_text() if _is_file(options.config) else options.config)
        config = read_config(recipe, given, options.preset)
        if recipe.parallel:
            ranks.relaunch(config.processes, sys.argv[1:] if arguments is None else arguments)  # type: ignore[attr-defined]
        # The plan of a stage has read them; a thousand shards need not read a whole corpus each.
        inputs = read_inputs(recipe, _paths(options.inputs), verify=options.shard is None)
        run = json.loads(options.run.read_text()) if options.run else {}
        name = options.name or run.get("name") or recipe.kind
        origin = artifact.Origin(
            recipe=recipe.kind,
            name=name,
            run=run.get("run"),
            started=run.get("started"),
            config=config.model_dump(mode="json"),
            inputs={key: [folder.manifest.id for folder in folders] for key, folders in inputs.items()},
        )
        state = options.state or options.out / ".state"
        workspace = Workspace(options.out, state, inputs, origin, run.get("id") or _run_id(state), name)
        if options.stage:
            stage = next((stage for stage in recipe.stages if stage.name == options.stage), None)
            if stage is None:
                raise UserError(f"{recipe.kind} has no stage {options.stage!r}", field="stage")
            if not options.shard:
                print(json.dumps(plan(stage, config, workspace)))
                return 0
            events = guarded(run_shard(stage, options.shard, config, workspace), stop)
        else:
            events = execute(recipe, config, workspace, stop, options.processes)
        last: Event | None = None
        for event in events:
            sink.write(event)
            last = event
    except UserError as error:
        last = Failed(error.message, error.field, error.hint)
        sink.write(last)
    except json.JSONDecodeError as error:
        last = Failed(f"the config is not JSON: {error}", "config")
        sink.write(last)
    finally:
        sink.close()
    return 0 if isinstance(last, Done) else 3 if isinstance(last, Stopped) else 1


def _die_with_parent(parent: int) -> None:
    """Linux ends this process when its supervisor ends; elsewhere the parent is looked at between events."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(4)


def _sink(path: Path | None) -> "_EventFile | _Terminal":
    """Where this rank's events go: all ranks have the same, so those after the first tell only what went wrong."""
    if not ranks.is_first():
        return _Terminal(sys.stderr, only=Failed)
    return _EventFile(path) if path else _Terminal(sys.stdout)


def _is_file(text: str) -> bool:
    return not text.lstrip().startswith("{")


def _paths(pairs: list[str]) -> dict[str, list[Path]]:
    paths: dict[str, list[Path]] = {}
    for pair in pairs:
        name, separator, path = pair.partition("=")
        if not separator:
            raise UserError(f"an input is written NAME=DIR, and this is {pair!r}", field="inputs")
        paths.setdefault(name, []).append(Path(path))
    return paths


def _run_id(state: Path) -> str:
    """The id of a run from the shell, kept so that a second call goes on with the same run."""
    if not ranks.is_first():
        return "later-rank"  # it makes nothing
    path = state / "id"
    if not path.exists():
        state.mkdir(parents=True, exist_ok=True)
        artifact.write_atomically(path, secrets.token_hex(4))
    return path.read_text()


class _StopRequest:
    """True once the process was asked to stop, or has lost the parent it works for."""

    def __init__(self, parent: int | None) -> None:
        self._parent = parent
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ranks.wish(ranks.STOP))

    def __call__(self) -> bool:
        if self._parent is not None and os.getppid() != self._parent:
            os._exit(4)  # the lease is not ours any more: nothing may be written
        return ranks.granted(ranks.STOP)


class _EventFile:
    """Appends events to a file, each flushed, so that they outlive both this process and its reader."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._seq = 0
        self._progress = 0.0

    def write(self, event: Event) -> None:
        now = time.time()
        if isinstance(event, Progress):
            final = event.total is not None and event.step >= event.total
            if now - self._progress < PROGRESS_EVERY and not final:
                return
            self._progress = now
        self._seq += 1
        self._file.write(to_line(event, self._seq, now) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class _Terminal:
    """Prints events for a person."""

    def __init__(self, stream: TextIO, only: type[Event] | None = None) -> None:
        self._stream = stream
        self._only = only
        self._progress = 0.0

    def write(self, event: Event) -> None:
        if self._only and not isinstance(event, self._only):
            return
        line = self._line(event)
        if line:
            print(line, file=self._stream, flush=True)

    def _line(self, event: Event) -> str | None:
        match event:
            case Resumed(step):
                return None if step < 0 else f"going on from step {step}"
            case Progress(step, total, unit, message):
                if time.monotonic() - self._progress < 2 and step != total:
                    return None
                self._progress = time.monotonic()
                return f"{message or 'progress'}: {step:,}{f' of {total:,}' if total else ''} {unit}"
            case Metric(step, values):
                return f"step {step}  " + "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            case Sample(step, prompt, text):
                return f"step {step}  {prompt!r} -> {text!r}"
            case Summary(values):
                return "\n".join(f"{name}: {value}" for name, value in values.items())
            case Artifact(output, id):
                return f"made {output} ({id})"
            case Failed():
                return "\n".join(part for part in (event.traceback, event.message, event.hint) if part)
            case Stopped():
                return "stopped; the same command goes on from what was saved"
            case Log(message):
                return message
            case _:
                return None

    def close(self) -> None:
        pass


if __name__ == "__main__":
    sys.exit(main())
