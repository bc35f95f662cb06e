"""`kill -9` while an artifact is published: between its first file and the end of its run there are five moments
at which a machine can stop, and after each of them the artifact is there once, whole.

A moment lasts a millisecond or less, so a run is brought to it in steps: it is stopped, looked at, and let go
for as short a time as the system allows. Whoever dies then dies exactly there.
"""

import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from core_ml.artifact import MANIFEST, Folder
from tests.journeys import corpus
from tests.journeys.stack import Lab, lab, until

MOMENTS = ["waits", "writes", "has its manifest", "is in place", "is told", "is done"]
"""In their order; an artifact that is told is an event in a file, which the worker reads a little later."""
OUTPUTS = {"tokenizer": ["tokenizer"], "conversations": ["conversations", "problems", "held_out"]}
CONFIG = {"n_conversations": 200, "n_problems": 40, "n_held_out": 6}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    # A slot for each run of a test: they all stand still at their moments when their worker dies.
    with lab(tmp_path_factory.mktemp("kill"), LAB_LEASE_SECONDS="4", LAB_SLOTS="5") as started:
        yield started


@dataclass
class Published:
    """A run and what it is about to publish."""

    lab: Lab
    kind: str
    run: int
    uid: str

    @property
    def out(self) -> Path:
        return self.lab.home / "artifacts" / self.uid

    def moment(self) -> str:
        """How far its first output is."""
        told, output = self.events(), OUTPUTS[self.kind][0]
        if '"event": "done"' in told:
            return "is done"
        if '"event": "artifact"' in told:
            return "is told"
        if (self.out / output).exists():
            return "is in place"
        hidden = self.out / f".{output}.tmp"
        if (hidden / MANIFEST).exists():
            return "has its manifest"
        return "writes" if hidden.exists() else "waits"

    def is_near(self) -> bool:
        """A tokenizer's figures come just before its files, which a quick disk has written a millisecond later."""
        return '"event": "figure"' in self.events() or self.moment() not in ("waits", "writes")

    def events(self) -> str:
        with suppress(FileNotFoundError):
            return (self.lab.home / "runs" / self.uid / "attempt-1.jsonl").read_text()
        return ""

    def stop_at(self, wanted: str) -> tuple[int, str]:
        """Let the child come as far as the wanted moment, or the first one after it; it stands still then."""
        until(lambda: self.lab.child(self.run), 20, self.lab.words)
        pid = self.lab.child(self.run)
        assert pid is not None, "the run ended before it could be disturbed"
        until(self.is_near, 60, self.lab.words, every=0.001)
        while True:
            os.kill(pid, signal.SIGSTOP)
            until(lambda: _state(pid)[:1] in ("T", "Z", ""), 10)
            if MOMENTS.index(self.moment()) >= MOMENTS.index(wanted) or _state(pid)[:1] != "T":
                return pid, self.moment()
            os.kill(pid, signal.SIGCONT)


def _state(pid: int) -> str:
    """What `ps` says of a process: T when it stands still; nothing when there is none."""
    return subprocess.run(
        ["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def submit(running: Lab):
    """Queue a run of a kind."""
    documents = corpus.bring_in(running)

    def submit(kind: str) -> Published:
        config = CONFIG if kind == "conversations" else {}
        inputs = {"documents": documents} if kind == "tokenizer" else {}
        run = running.submit(kind, config, preset="tiny", inputs=inputs)
        return Published(running, kind, run, running.get(f"/runs/{run}")["uid"])

    return submit


@pytest.fixture(scope="module")
def undisturbed(submit) -> dict[str, Published]:
    runs = {kind: submit(kind) for kind in OUTPUTS}
    for published in runs.values():
        assert published.lab.wait(published.run)["status"] == "succeeded"
    return runs


def rows_of(running: Lab, *runs: int) -> dict[int, dict]:
    """What the database has of runs, past what the API tells, by their numbers."""
    code = f"""
import json
from lab.models import Run
for run in Run.objects.filter(pk__in={runs}):
    outcomes = list(run.attempts.values_list("outcome", flat=True))
    artifacts = sorted(run.artifacts.values_list("pk", flat=True))
    row = {{"outcomes": outcomes, "artifacts": artifacts, "n_samples": run.samples.count()}}
    print(json.dumps([run.pk, row]))
"""
    return dict(map(json.loads, running.manage("shell", "--no-imports", "-c", code).splitlines()))


def each_ends_once_with_whole_artifacts(
    runs: list[Published], undisturbed: dict[str, Published]
) -> list[list[str]]:
    """How the attempts of each run ended."""
    running = runs[0].lab
    ended = [running.wait(published.run) for published in runs]
    likes = [undisturbed[published.kind] for published in runs]
    rows = rows_of(running, *(published.run for published in [*runs, *undisturbed.values()]))
    for published, run, like in zip(runs, ended, likes, strict=True):
        assert run["status"] == "succeeded", run["error"]
        row, expected = rows[published.run], rows[like.run]
        assert row["outcomes"].count("succeeded") == 1 and row["outcomes"][-1] == "succeeded"
        assert row["n_samples"] == expected["n_samples"] > 0
        assert run["summary"] == running.get(f"/runs/{like.run}")["summary"]
        outputs = OUTPUTS[published.kind]
        assert (
            sorted(run["outputs"]) == sorted(path.name for path in published.out.iterdir()) == sorted(outputs)
        )
        assert row["artifacts"] == sorted(f"{published.uid}-{output.replace('_', '-')}" for output in outputs)
        for output in outputs:
            is_whole_and_as(Folder(published.out / output), Folder(like.out / output), running)
    return [rows[published.run]["outcomes"] for published in runs]


def is_whole_and_as(folder: Folder, undisturbed: Folder, running: Lab) -> None:
    folder.verify()
    present = {path.name for path in folder.path.iterdir()}
    assert present == {file.path for file in folder.manifest.files} | {MANIFEST}
    assert folder.manifest.files == undisturbed.manifest.files
    shown = running.get(f"/artifacts/{folder.manifest.id}")
    assert shown["files"] == [file.model_dump() for file in folder.manifest.files]


def test_a_child_that_dies_while_it_publishes_does_it_again(running: Lab, submit, undisturbed):
    wanted = ["writes", "has its manifest", "is in place", "is told"]
    runs = [submit(kind) for kind in ("tokenizer", "tokenizer", "tokenizer", "conversations")]
    with ThreadPoolExecutor() as pool:
        stopped = list(pool.map(Published.stop_at, runs, wanted))
    print(f"killed: {stopped}")
    for pid, _ in stopped:
        os.kill(pid, signal.SIGKILL)
    outcomes = each_ends_once_with_whole_artifacts(runs, undisturbed)
    for (_, moment), told in zip(stopped, outcomes, strict=True):
        # One that had told all before it died has nothing to do again.
        assert told == ["died: signal 9", "succeeded"] or moment == "is done"


def test_a_worker_that_dies_while_an_artifact_is_published_costs_nothing(running: Lab, submit, undisturbed):
    def stand_still(kind: str, wanted: str) -> tuple[Published, tuple[int, str]]:
        """A run at the moment; one that was over before it could be stopped disturbs nothing, and another begins."""
        for _ in range(8):
            run = submit(kind)
            pid, moment = run.stop_at(wanted)
            if moment != "is done":
                return run, (pid, moment)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        raise AssertionError(f"no {kind} run could be stopped where it {wanted}")

    wanted = ["writes", "has its manifest", "is in place", "is told"]
    kinds = ["tokenizer", "tokenizer", "tokenizer", "conversations"]
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(stand_still, kinds, wanted))
    runs, stopped = [run for run, _ in found], [where for _, where in found]
    stored = f"/artifacts/{runs[-1].uid}-conversations"
    until(lambda: running.api.get(stored).status_code == 200, 10, running.words)
    # And one whose worker dies between what its child wrote and the worker's next look at it.
    runs.append(submit("conversations"))
    worker = running.pid("worker")
    until(lambda: runs[-1].moment() == "is done", 60, running.words, every=0.001)
    os.kill(worker, signal.SIGKILL)
    print(f"killed: {stopped}")
    outcomes = each_ends_once_with_whole_artifacts(runs, undisturbed)
    assert outcomes[:-1] == [["the worker fell silent", "succeeded"]] * 4
