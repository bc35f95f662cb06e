"""Training shared by several processes: the same run as alone, stopped and killed like any other."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core_ml import measured
from core_ml.artifact import Folder
from core_ml.events import Artifact, Done, Event, Failed, Resumed, Stopped, from_line
from core_ml.recipes import pretrain, sft
from tests.core_ml import small
from tests.core_ml.test_pretrain import SMALL

TALK = {
    "batch_tokens": 64,
    "eval_every": 10,
    "sample_every": 20,
    "n_samples": 1,
    "sample_tokens": 4,
    "threads": 1,
}


@pytest.fixture(scope="module", autouse=True)
def _in_float32(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The children multiply in float32 on every machine: rounding to bfloat16 would hide what differs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CORE_ML_CACHE", str(tmp_path_factory.mktemp("cache")))
        measured.remember("bfloat16 against float32", 1.0)
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return {
        "documents": small.documents(folder / "documents"),
        "tokenizer": small.tokenizer_artifact(folder / "tokenizer"),
    }


class Child:
    """`python -m core_ml` in a session of its own, as a worker starts it."""

    def __init__(self, kind: str, out: Path, inputs: dict[str, Path], config: dict[str, object]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.events_file = out / f"events-{time.monotonic_ns()}.jsonl"
        arguments = ["--config", json.dumps(config), "--out", str(out), "--events", str(self.events_file)]
        arguments += ["--parent", str(os.getpid()), "--inputs", *(f"{k}={v}" for k, v in inputs.items())]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "core_ml", kind, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def events(self) -> list[Event]:
        lines = self.events_file.read_text().split("\n")[:-1] if self.events_file.exists() else []
        return [from_line(line)[0] for line in lines]

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self.process.poll() is None:
            if any(at >= step for at, _ in small.curves(self.events()).get("loss", [])):
                return
            time.sleep(0.02)
        pytest.fail(f"step {step} was not reached: {self.process.communicate()[1]}")

    def end(self) -> list[Event]:
        try:
            _, errors = self.process.communicate(timeout=300)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.errors = errors
        return self.events()


def ranks_of(agent: int) -> dict[int, int]:
    """Process ids by rank, of the ranks that a torchrun started."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            environment = stat.with_name("environ").read_bytes().split(b"\0") if parent == agent else []
        except OSError:
            continue
        found |= {int(v[5:]): int(stat.parent.name) for v in environment if v.startswith(b"RANK=")}
    return found


def near(ours: list[tuple[int, float]], theirs: list[tuple[int, float]]) -> bool:
    """Sums in another order are all that may differ: by 1e-7 in an update, and a little more after some."""
    return [s for s, _ in ours] == [s for s, _ in theirs] and all(
        abs(a - b) < 1e-5 for (_, a), (_, b) in zip(ours, theirs, strict=True)
    )


def test_two_processes_tell_the_curve_of_one(inputs: dict[str, Path], tmp_path: Path) -> None:
    alone = Child("pretrain", tmp_path / "one", inputs, SMALL).end()
    child = Child("pretrain", tmp_path / "two", inputs, SMALL | {"processes": 2, "batch_size": 4})
    shared = child.end()
    assert isinstance(shared[-1], Done), child.errors
    assert sum(isinstance(event, Artifact) for event in shared) == 1
    for name in ("loss", "val_bits_per_byte", "lr"):
        assert near(small.curves(shared)[name], small.curves(alone)[name]), name
    Folder(tmp_path / "two/checkpoint").verify()


def test_two_processes_fine_tune_like_one(inputs: dict[str, Path], tmp_path: Path) -> None:
    given = {
        "checkpoint": small.checkpoint_artifact(tmp_path / "base"),
        "conversations": small.conversations(tmp_path / "talks"),
    }
    alone = Child("sft", tmp_path / "one", given, TALK).end()
    # Batches of a row or two: a rank may find its share empty.
    child = Child("sft", tmp_path / "two", given, TALK | {"processes": 2})
    shared = child.end()
    assert isinstance(shared[-1], Done), child.errors
    assert near(small.curves(shared)["loss"], small.curves(alone)["loss"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_shared_training_is_stopped_killed_and_goes_on_alone(inputs: dict[str, Path], tmp_path: Path) -> None:
    config = SMALL | {"steps": 60, "save_every": 0}
    undisturbed = Child("pretrain", tmp_path / "whole", inputs, config).end()

    stopped = Child("pretrain", tmp_path / "out", inputs, config | {"processes": 2})
    stopped.wait_for_step(10)
    os.killpg(stopped.process.pid, signal.SIGTERM)
    told = stopped.end()
    assert isinstance(told[-1], Stopped), stopped.errors
    last = small.curves(told)["loss"][-1][0]

    killed = Child("pretrain", tmp_path / "out", inputs, config | {"processes": 2})
    killed.wait_for_step(last + 5)
    os.kill(ranks_of(killed.process.pid)[1], signal.SIGKILL)
    more = killed.end()
    # The step at which it stopped was saved, and a lost rank is no failure: whoever watches starts it again.
    assert more[0] == Resumed(last)
    assert not isinstance(more[-1], Failed | Done)

    rest = Child("pretrain", tmp_path / "out", inputs, config).end()
    assert isinstance(rest[-1], Done)
    kept: list[Event] = []
    for attempt in (told, more, rest):
        assert isinstance(attempt[0], Resumed)
        kept = [event for event in kept if getattr(event, "step", 0) <= attempt[0].step] + attempt[1:]
    assert near(small.curves(kept)["loss"], small.curves(undisturbed)["loss"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_torchrun_starts_lost_ranks_again_where_it_is_asked_to(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """From a shell, where no worker watches."""
    config = SMALL | {"steps": 60, "save_every": 0}
    undisturbed = dict(small.curves(Child("pretrain", tmp_path / "whole", inputs, config).end())["loss"])
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    arguments = ["--config", json.dumps(config), "--out", str(tmp_path / "out")]
    arguments += ["--inputs", *(f"{k}={v}" for k, v in inputs.items())]
    printed = tmp_path / "printed"
    with printed.open("w") as output:
        agent = subprocess.Popen(
            [sys.executable, *torchrun, "-m", "core_ml", "pretrain", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            # Or ranks that are started again find the addresses of those before (torch 2.13).
            env=os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 300
        while "step 10  loss" not in printed.read_text():
            assert time.monotonic() < deadline and agent.poll() is None, printed.read_text()
            time.sleep(0.05)
        os.kill(ranks_of(agent.pid)[1], signal.SIGKILL)
        assert agent.wait(300) == 0, printed.read_text()
    finally:
        if agent.poll() is None:
            os.killpg(agent.pid, signal.SIGKILL)
    text = printed.read_text()
    again = re.search(r"going on from step (\d+)", text)
    assert again is not None and int(again[1]) >= 9, text
    told = {int(step): float(loss) for step, loss in re.findall(r"step (\d+)  loss (\S+)", text)}
    assert told == {step: pytest.approx(loss, rel=1e-3) for step, loss in undisturbed.items()}
    Folder(tmp_path / "out/checkpoint").verify()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_sharded_network_learns_as_a_whole_one_and_goes_on_as_one(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    config = SMALL | {"steps": 30, "grad_clip": 0.5, "ema": 0.9}
    undisturbed = Child("pretrain", tmp_path / "whole", inputs, config).end()
    sharded = Child("pretrain", tmp_path / "out", inputs, config | {"processes": 2, "shard": True})
    sharded.wait_for_step(6)
    os.killpg(sharded.process.pid, signal.SIGTERM)
    told = sharded.end()
    assert isinstance(told[-1], Stopped), sharded.errors
    again = Child("pretrain", tmp_path / "out", inputs, config | {"processes": 2, "shard": True})
    again.wait_for_step(small.curves(told)["loss"][-1][0] + 3)
    os.killpg(again.process.pid, signal.SIGTERM)
    more = again.end()
    assert isinstance(more[-1], Stopped), again.errors
    rest = Child("pretrain", tmp_path / "out", inputs, config).end()
    assert isinstance(rest[-1], Done)
    for name in ("loss", "grad_norm", "val_bits_per_byte"):
        ours, theirs = (small.curves(events)[name] for events in ([*told, *more, *rest], undisturbed))
        assert near(ours, theirs), name


def test_recipes_that_can_be_shared_say_so() -> None:
    assert pretrain.RECIPE.parallel and sft.RECIPE.parallel
