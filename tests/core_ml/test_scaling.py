"""The ladder as a run: every network once, the law at the end, nothing done again after a stop."""

import json
from pathlib import Path

import pytest

from core_ml.events import Done, Event, Failed, Figure, Summary
from core_ml.execute import execute, read_config, read_inputs
from core_ml.recipes import pack
from core_ml.recipes.scaling import RECIPE, cost
from core_ml.workspace import Workspace
from tests.core_ml import small

TINY = {"depths": [1, 2], "ratios": [0.01, 0.02, 0.04], "seq_len": 32, "batch_size": 4, "val_tokens": 256, "threads": 1}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    given = {
        "documents": small.documents(folder / "documents"),
        "tokenizer": small.tokenizer_artifact(folder / "tokenizer"),
    }
    events = execute(pack.RECIPE, pack.PackConfig(), small.workspace(pack.RECIPE, folder / "pack", **given))
    assert isinstance([*events][-1], Done)
    return {"tokens": folder / "pack/tokens", "tokenizer": given["tokenizer"]}


def workspace(folder: Path, inputs: dict[str, Path]) -> Workspace:
    opened = read_inputs(RECIPE, {name: [path] for name, path in inputs.items()})
    return Workspace(folder, folder / ".state", opened, small.ORIGIN, "t", "test")


def ladder(folder: Path, inputs: dict[str, Path], **options: object) -> list[Event]:
    config = read_config(RECIPE, {**TINY, **options})
    return list(execute(RECIPE, config, workspace(folder, inputs), processes=1))


def test_the_ladder_is_trained_and_its_law_told(inputs: dict[str, Path], tmp_path: Path) -> None:
    events = ladder(tmp_path, inputs)
    assert isinstance(events[-1], Done), events[-1]
    points = [json.loads(file.read_text()) for file in sorted(tmp_path.rglob("point.json"))]
    assert len(points) == 6
    for depth in (1, 2):
        losses = [
            point["loss"] for point in sorted(points, key=lambda p: p["tokens"]) if point["depth"] == depth
        ]
        assert losses == sorted(losses, reverse=True)  # more tokens, less loss
    summary = next(event.values for event in events if isinstance(event, Summary))
    assert summary["n_networks"] == 6
    assert 6 * summary["proposed_parameters"] * summary["proposed_tokens"] == pytest.approx(1e15, rel=0.01)
    figure = next(event for event in events if isinstance(event, Figure))
    assert [len(trace["x"]) for trace in figure.content["data"]] == [3, 3, 41]


def test_a_network_that_was_trained_is_not_trained_again(inputs: dict[str, Path], tmp_path: Path) -> None:
    events = execute(RECIPE, read_config(RECIPE, TINY), workspace(tmp_path, inputs), processes=1)
    for _ in events:
        if len([*tmp_path.rglob("point.json")]) == 2:
            break
    events.close()
    done = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("point.json")}
    assert isinstance(ladder(tmp_path, inputs)[-1], Done)
    assert all(file.stat().st_mtime_ns == time for file, time in done.items() if file.exists())
    assert len([*tmp_path.rglob("point.json")]) == 6


def test_a_ladder_that_is_too_short_is_told(inputs: dict[str, Path], tmp_path: Path) -> None:
    last = ladder(tmp_path, inputs, depths=[1], ratios=[0.02])[-1]
    assert isinstance(last, Failed) and "a law needs 6" in last.message


@pytest.mark.parametrize("preset", [preset.name for preset in RECIPE.presets])
def test_presets_hold_and_their_cost_is_told(preset: str, tmp_path: Path) -> None:
    config = read_config(RECIPE, {}, preset)
    told = cost(config, {"tokenizer": [{"vocab_size": 1024}]})
    assert told.seconds and told.memory_bytes
    assert len(config.ladder(1024)) >= 6


def test_networks_that_would_take_too_much_are_left_out() -> None:
    config = read_config(RECIPE, {"depths": [1, 2], "ratios": [1, 4, 16]})
    spent = {
        name: 6 * one.network(1024).n_parameters * one.n_tokens for name, one in config.ladder(1024).items()
    }
    assert len(spent) == 6
    capped = config.model_copy(update={"largest": spent["depth2-ratio4"]})
    assert list(capped.ladder(1024)) == [name for name in spent if name != "depth2-ratio16"]
