"""The ladder as a run: every network once, the law at the end, nothing done again after a stop."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch

from core_ml.events import Done, Event, Failed, Figure, Log, Summary
from core_ml.execute import execute, read_config, read_inputs
from core_ml.model.gpt import GPT
from core_ml.recipes import pack, scaling
from core_ml.recipes.scaling import RECIPE, cost
from core_ml.training import loss
from core_ml.workspace import Workspace
from tests.core_ml import small

TINY = {"depths": [1, 2], "ratios": [0.01, 0.02, 0.04], "seq_len": 32, "batch_size": 4, "val_tokens": 256, "threads": 1}  # fmt: skip


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "DRAWS", 4)


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


def spoil(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int, int], bool]) -> None:
    """Make gradients no numbers: of the networks that this says, at their passes that it says; both begin at 1."""
    passes: dict[int, int] = {}
    numbers: WeakKeyDictionary[GPT, int] = WeakKeyDictionary()
    backward = loss.backward

    def spoilt(model: GPT, *rest: Any) -> torch.Tensor:
        number = numbers.setdefault(model, len(passes) + 1)
        passes[number] = passes.get(number, 0) + 1
        value = backward(model, *rest)
        return value * math.nan if bad(number, passes[number]) else value

    monkeypatch.setattr(loss, "backward", spoilt)


def test_a_network_that_cannot_be_trained_is_told_and_left_out_of_the_law(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda network, n: n >= 4 if network < 3 else (network, n) == (3, 2))
    events = ladder(tmp_path, inputs, ratios=[0.01, 0.015, 0.02, 0.04])
    assert isinstance(events[-1], Done), events[-1]
    told = [event.message for event in events if isinstance(event, Log) and event.level == "warning"]
    lost = [f"depth1-ratio{ratio}" for ratio in (0.01, 0.015)]
    for name in lost:
        # Updates 4 and 5 are passed over, and the third in a row is too many.
        assert sum(f"{name}: Update" in message for message in told) == 2
        assert sum(f"{name} was given up at update 6" in message for message in told) == 1
    assert sum("depth1-ratio0.02: Update 2 was passed over: the loss is nan" in one for one in told) == 1
    summary = next(event.values for event in events if isinstance(event, Summary))
    assert summary["n_networks"] == 6
    assert f"gave no numbers any more: {', '.join(lost)}." in summary["findings"][-1]


def test_a_ladder_of_which_too_little_is_left_says_what_to_lower(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda network, n: True)
    last = ladder(tmp_path, inputs)[-1]
    assert isinstance(last, Failed) and last.traceback is None
    assert "0 of 6 networks could be trained" in last.message and "Lower muon_lr" in (last.hint or "")


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
