"""Pretraining as a run: it learns, it is repeatable, it survives stops and kills, and refuses what cannot work."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core_ml.artifact import Folder
from core_ml.errors import UserError
from core_ml.events import Event, Figure, Metric, Progress, Resumed, Sample, Summary, from_line
from core_ml.execute import read_config
from core_ml.recipes.pretrain import RECIPE, cost
from core_ml.workspace import Workspace
from tests.core_ml import small

SMALL = {
    "steps": 16,
    "batch_size": 4,
    "seq_len": 32,
    "n_layer": 2,
    "d_model": 32,
    "n_head": 2,
    "n_kv_head": 1,
    "max_seq_len": 64,
    "val_tokens": 256,
    "eval_every": 5,
    "sample_every": 8,
    "sample_tokens": 6,
    "threads": 1,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return {
        "documents": small.documents(folder / "documents"),
        "tokenizer": small.tokenizer_artifact(folder / "tokenizer"),
    }


def run(workspace: Workspace, **options: object) -> list[Event]:
    return list(RECIPE.run(read_config(RECIPE, {**SMALL, **options}), workspace))


@pytest.fixture(scope="module")
def whole(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Path]:
    """An undisturbed run: its events and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return run(small.workspace(RECIPE, folder, **inputs)), folder


def test_it_begins_with_resumed_and_tells_its_curves(whole: tuple[list[Event], Path]) -> None:
    events, _ = whole
    assert events[0] == Resumed(-1)
    curves = small.curves(events)
    assert [step for step, _ in curves["loss"]] == list(range(1, 17))
    assert [step for step, _ in curves["val_bits_per_byte"]] == [0, 5, 10, 15, 16]
    assert {event.step for event in events if isinstance(event, Sample)} == {0, 8, 16}
    named = {name for event in events if isinstance(event, Metric) for name in event.values}
    # Not every machine lets one read its counters of energy.
    assert named | {"joules_per_token"} == {measure.name for measure in RECIPE.measures}


def test_it_learns_and_says_how_much_against_counting(inputs: dict[str, Path], tmp_path: Path) -> None:
    events = run(small.workspace(RECIPE, tmp_path, **inputs), steps=120, eval_every=200, sample_every=200)
    summary: dict[str, object] = {}
    for event in events:
        if isinstance(event, Summary):
            summary |= event.values
    curve = small.curves(events)["val_bits_per_byte"]
    assert curve[-1][1] < 0.5 * curve[0][1]
    assert summary["val_bits_per_byte"] < summary["unigram_bits_per_byte"]
    assert summary["bigram_bits_per_byte"] < summary["unigram_bits_per_byte"]
    assert summary["tokens"] == 120 * 4 * 32
    figure = [event for event in events if isinstance(event, Figure)][-1]
    assert [trace["name"] for trace in figure.content["data"]] == ["network", "unigram", "bigram"]


def test_its_checkpoint_is_whole_and_loads(whole: tuple[list[Event], Path]) -> None:
    from core_ml.model import checkpoint

    folder = Folder(whole[1] / "checkpoint")
    folder.verify()
    assert folder.manifest.role == "base"
    model, _ = checkpoint.load(folder.path, "cpu")
    keys = {
        "val_bits_per_byte",
        "unigram_bits_per_byte",
        "bigram_bits_per_byte",
        "n_parameters",
        "tokens",
        "tokens_per_second",
    }
    assert keys <= folder.manifest.summary.keys()
    assert folder.manifest.summary["n_parameters"] == sum(param.numel() for param in model.parameters())


def test_the_same_seed_gives_the_same_curves_and_another_does_not(
    inputs: dict[str, Path], tmp_path: Path, whole: tuple[list[Event], Path]
) -> None:
    assert small.curves(run(small.workspace(RECIPE, tmp_path / "a", **inputs))) == small.curves(whole[0])
    assert small.curves(run(small.workspace(RECIPE, tmp_path / "b", **inputs), seed=1)) != small.curves(
        whole[0]
    )


def test_a_run_closed_and_resumed_is_the_undisturbed_run_to_the_bit(
    inputs: dict[str, Path], tmp_path: Path, whole: tuple[list[Event], Path]
) -> None:
    told: list[Event] = []
    for stop in (3, 8, 13, 99):
        events = RECIPE.run(read_config(RECIPE, SMALL), small.workspace(RECIPE, tmp_path, **inputs))
        for event in events:
            told.append(event)
            if isinstance(event, Metric) and event.step == stop:
                events.close()
                break
    assert [event.step for event in told if isinstance(event, Resumed)] == [-1, 3, 8, 13]
    assert small.curves(told) == small.curves(whole[0])
    samples, wanted = ([e for e in events if isinstance(e, Sample)] for events in (told, whole[0]))
    assert samples == wanted
    weights = [(folder / "checkpoint/model.safetensors").read_bytes() for folder in (tmp_path, whole[1])]
    assert weights[0] == weights[1]


def attempt(inputs: dict[str, Path], folder: Path, kill_after: int | None) -> list[Event]:
    """A real child process; killed once it has told so many updates. Returns what it had told by then."""
    events = folder / f"events-{time.monotonic_ns()}"
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "core_ml", "pretrain", "--out", str(folder), "--events", str(events)]
    command += ["--config", json.dumps({**SMALL, "save_every": 0}), "--inputs"]
    command += [f"{name}={path}" for name, path in inputs.items()]
    child = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    )
    try:
        while child.poll() is None:
            told = events.read_text().count('"event": "metric"') if events.exists() else 0
            if kill_after is not None and told >= kill_after:
                os.kill(child.pid, signal.SIGKILL)
                child.wait(10)
            time.sleep(0.005)
    finally:
        child.kill()
        _, errors = child.communicate()
    assert child.returncode == (0 if kill_after is None else -signal.SIGKILL), errors
    lines = events.read_text().split("\n")
    return [from_line(line)[0] for line in lines[:-1]]  # a kill may leave half a last line


def test_a_child_killed_again_and_again_ends_with_the_curve_of_the_undisturbed_run(
    inputs: dict[str, Path], tmp_path: Path, whole: tuple[list[Event], Path]
) -> None:
    kept: list[Event] = []
    for kill_after in (4, 5, None):
        told = attempt(inputs, tmp_path / "out", kill_after)
        assert isinstance(told[0], Resumed)
        # What the lab does with a new attempt: it drops what was told about later steps.
        kept = [event for event in kept if getattr(event, "step", 0) <= told[0].step] + told[1:]
    assert small.curves(kept) == small.curves(whole[0])
    weights = [
        (folder / "checkpoint/model.safetensors").read_bytes() for folder in (tmp_path / "out", whole[1])
    ]
    assert weights[0] == weights[1]


def test_a_damaged_state_falls_back_to_the_one_before(
    inputs: dict[str, Path], tmp_path: Path, whole: tuple[list[Event], Path]
) -> None:
    config = read_config(RECIPE, {**SMALL, "save_every": 0})
    events = RECIPE.run(config, small.workspace(RECIPE, tmp_path, **inputs))
    for event in events:
        if isinstance(event, Progress) and event.step == 9:
            events.close()
            break
    newest = max((tmp_path / ".state").glob("step-*"))
    data = (newest / "state.safetensors").read_bytes()
    (newest / "state.safetensors").write_bytes(data[: len(data) // 2])
    told = run(small.workspace(RECIPE, tmp_path, **inputs))
    assert isinstance(told[0], Resumed) and 0 < told[0].step < int(newest.name.split("-")[1])
    wanted = [point for point in small.curves(whole[0])["loss"] if point[0] > told[0].step]
    assert small.curves(told)["loss"] == wanted


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"d_model": 33}, "d_model 33 must be a multiple of n_head 2"),
        ({"n_kv_head": 4}, "n_head 2 must be a multiple of n_kv_head 4"),
        ({"seq_len": 65}, "seq_len 65 is longer than max_seq_len 64"),
        ({"steps": 0}, "steps"),
        ({"muon_lr": 5}, "muon_lr"),
        ({"schedule": "step"}, "schedule"),
        ({"layers": 3}, "layers"),
    ],
)
def test_a_config_that_cannot_work_is_told_before_anything_runs(
    options: dict[str, object], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        read_config(RECIPE, {**SMALL, **options})


def test_one_dial_sets_the_sizes_the_rate_and_the_steps() -> None:
    config = read_config(RECIPE, {"depth": 8, "tokens_per_parameter": 20}).resolved(1000)
    assert (config.n_layer, config.d_model, config.n_head, config.n_kv_head) == (8, 512, 8, 8)
    assert config.adam_lr == pytest.approx(6e-3 / 2)  # four times as wide as where it was tuned
    # 8 × (4 + 2 × 3) × 512² in the blocks, and twice 1,000 × 512 of embedding and head.
    n = 8 * 10 * 512**2 + 2 * 1000 * 512
    assert config.network(1000).n_parameters == n
    assert config.steps == -(-20 * n // (16 * 128))
    plain = read_config(RECIPE, {})
    assert plain.resolved(1000) == plain


def test_documents_that_are_empty_are_told(inputs: dict[str, Path], tmp_path: Path) -> None:
    empty = small.documents(tmp_path / "empty", [])
    with pytest.raises(UserError, match="empty") as caught:
        run(small.workspace(RECIPE, tmp_path / "out", documents=empty, tokenizer=inputs["tokenizer"]))
    assert caught.value.field == "documents"


@pytest.mark.parametrize("preset", [preset.name for preset in RECIPE.presets])
def test_presets_hold_and_their_cost_is_told(preset: str) -> None:
    config = read_config(RECIPE, {}, preset)
    told = cost(config, {"tokenizer": [{"vocab_size": 8192}], "documents": [{"n_bytes": 10**7}]})
    assert told.seconds and told.memory_bytes and told.disk_bytes
    if preset == "small":
        assert 11e6 < config.network(8192).n_parameters < 14e6


def test_declarations_need_no_torch() -> None:
    code = (
        "import sys; from core_ml.recipes import pretrain, sft, tokenizer; "
        "[r.RECIPE.cost(r.RECIPE.config(), {}) for r in (pretrain, sft, tokenizer)]; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
