"""Fine-tuning as a run: it learns the assistant's words, and goes on after a stop."""

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from core_ml.artifact import Folder
from core_ml.errors import UserError
from core_ml.events import Event, Log, Metric, Resumed, Sample
from core_ml.execute import read_config, read_inputs
from core_ml.recipes.sft import RECIPE, _flops
from core_ml.training import fast
from core_ml.workspace import Workspace
from tests.core_ml import small

SMALL = {
    "batch_tokens": 256,
    "epochs": 2,
    "val_share": 0.1,
    "eval_every": 8,
    "sample_every": 16,
    "n_samples": 2,
    "sample_tokens": 8,
    "threads": 1,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return {
        "checkpoint": small.checkpoint_artifact(folder / "checkpoint"),
        "conversations": small.conversations(folder / "conversations"),
    }


def run(workspace: Workspace, **options: object) -> list[Event]:
    return list(RECIPE.run(read_config(RECIPE, {**SMALL, **options}), workspace))


@pytest.fixture(scope="module")
def whole(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Path]:
    folder = tmp_path_factory.mktemp("whole")
    return run(small.workspace(RECIPE, folder, **inputs)), folder


def test_the_held_out_loss_falls_and_answers_are_sampled(whole: tuple[list[Event], Path]) -> None:
    events, folder = whole
    curve = [value for _, value in small.curves(events)["val_loss"]]
    assert curve[-1] < 0.6 * curve[0]
    samples = [event for event in events if isinstance(event, Sample)]
    assert len({sample.prompt for sample in samples}) == 2
    assert all(sample.prompt.startswith("What is ") for sample in samples)
    assert all(sample.data["reference"].startswith("It is ") for sample in samples)
    manifest = Folder(folder / "checkpoint").manifest
    assert manifest.role == "chat"
    assert {"val_loss", "n_conversations"} <= manifest.summary.keys()
    assert manifest.summary["n_conversations"] == 120


def test_a_run_closed_and_resumed_is_the_undisturbed_run_to_the_bit(
    inputs: dict[str, Path], tmp_path: Path, whole: tuple[list[Event], Path]
) -> None:
    told: list[Event] = []
    for stop in (0, 8, 11, 999):
        events = RECIPE.run(read_config(RECIPE, SMALL), small.workspace(RECIPE, tmp_path, **inputs))
        for event in events:
            told.append(event)
            if isinstance(event, Metric) and event.step == stop:
                events.close()
                break
    assert [event.step for event in told if isinstance(event, Resumed)] == [-1, 0, 8, 11]
    assert small.curves(told) == small.curves(whole[0])
    weights = [(folder / "checkpoint/model.safetensors").read_bytes() for folder in (tmp_path, whole[1])]
    assert weights[0] == weights[1]


def test_adapters_are_tuned_stopped_and_merged(inputs: dict[str, Path], tmp_path: Path) -> None:
    # An untrained network's last matrices are zero, and nothing could be learned before them.
    inputs = inputs | {"checkpoint": small.checkpoint_artifact(tmp_path / "base", std=0.1)}
    config = read_config(RECIPE, {**SMALL, "lora_rank": 4, "adam_lr": 0.02})
    whole = list(RECIPE.run(config, small.workspace(RECIPE, tmp_path / "whole", **inputs)))
    losses = small.curves(whole)["val_loss"]
    assert losses[-1][1] < losses[0][1]
    events = RECIPE.run(config, small.workspace(RECIPE, tmp_path / "stopped", **inputs))
    for event in events:
        if isinstance(event, Metric) and event.step == 5:
            events.close()
            break
    list(RECIPE.run(config, small.workspace(RECIPE, tmp_path / "stopped", **inputs)))
    weights = [
        (tmp_path / name / "checkpoint/model.safetensors").read_bytes() for name in ("whole", "stopped")
    ]
    assert weights[0] == weights[1]
    from core_ml.model import checkpoint

    base, _ = checkpoint.load(inputs["checkpoint"], "cpu")
    tuned, _ = checkpoint.load(tmp_path / "whole/checkpoint", "cpu")
    before, after = base.state_dict(), tuned.state_dict()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed and all(name.startswith("blocks.") for name in changed)


def test_it_tells_every_measure_that_it_declares(whole: tuple[list[Event], Path]) -> None:
    named = {name for event in whole[0] if isinstance(event, Metric) for name in event.values}
    # Not every machine lets one read its counters of energy.
    assert named | {"joules_per_token"} == {measure.name for measure in RECIPE.measures}


def test_operations_are_those_of_the_matrices_that_multiply() -> None:
    from core_ml.model.config import GPTConfig

    config = GPTConfig(
        vocab_size=50, n_layer=1, d_model=8, n_head=2, n_kv_head=2, ff_mult=2.0, max_seq_len=16
    )
    # Of 2 rows of 10 tokens, 5 learned: 4 · 64 weights of attention and 2 · 8 · 16 of the feed-forward for each of
    # 20 tokens, 50 · 8 of the head for each of 5; attention has 12 · 8 · 10 for each token.
    matrices, attention = 6 * (20 * (256 + 256) + 5 * 400), 20 * 960
    assert _flops(config, (2, 10), 5, False) == matrices + attention
    assert _flops(config, (2, 10), 5, True) == pytest.approx(matrices * 2 / 3 + attention)


def test_layers_made_anew_learn_the_same_to_the_bit(
    inputs: dict[str, Path], tmp_path: Path, whole: tuple[list[Event], Path]
) -> None:
    events = run(small.workspace(RECIPE, tmp_path, **inputs), recompute=True)
    assert small.curves(events) == small.curves(whole[0])


@pytest.mark.parametrize("adapters", [{}, {"lora_rank": 4, "adam_lr": 0.02}])
def test_compiled_layers_learn_alike_and_resume_to_the_bit(
    adapters: dict[str, Any], inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_passes, block = 0, fast._compiled_block()

    def counted(*args: Any) -> Any:
        nonlocal n_passes
        n_passes += 1
        return block(*args)

    monkeypatch.setattr(fast, "_compiled_block", lambda: counted)
    plain, compiled = (
        small.curves(run(small.workspace(RECIPE, tmp_path / how, **inputs), compile=how, **adapters))
        for how in ("off", "on")
    )
    for name in ("loss", "val_loss"):
        assert [value for _, value in compiled[name]] == pytest.approx(
            [value for _, value in plain[name]], rel=0.03
        )
    # Each layer of every update but those whose batch is the rest of an epoch.
    assert n_passes >= 2 * (len(compiled["loss"]) - SMALL["epochs"])
    again = small.workspace(RECIPE, tmp_path / "again", **inputs)
    told: list[Event] = []
    for stop in (9, 999):
        events = RECIPE.run(read_config(RECIPE, {**SMALL, "compile": "on", **adapters}), again)
        for event in events:
            told.append(event)
            if isinstance(event, Metric) and event.step == stop:
                events.close()
                break
    assert small.curves(told) == compiled


@pytest.mark.parametrize("adapters", [{}, {"lora_rank": 4, "adam_lr": 0.02}])
def test_an_average_of_the_weights_is_measured_published_and_outlives_a_stop(
    inputs: dict[str, Path], tmp_path: Path, adapters: dict[str, object]
) -> None:
    inputs = inputs | {"checkpoint": small.checkpoint_artifact(tmp_path / "base", std=0.1)}
    config = read_config(RECIPE, {**SMALL, **adapters, "ema": 0.9, "epochs": 1})
    undisturbed = list(RECIPE.run(config, small.workspace(RECIPE, tmp_path / "whole", **inputs)))
    events = RECIPE.run(config, small.workspace(RECIPE, tmp_path / "stopped", **inputs))
    for event in events:
        if isinstance(event, Metric) and event.step == 5:
            events.close()
            break
    list(RECIPE.run(config, small.workspace(RECIPE, tmp_path / "stopped", **inputs)))
    weights = [
        (tmp_path / name / "checkpoint/model.safetensors").read_bytes() for name in ("whole", "stopped")
    ]
    assert weights[0] == weights[1]
    # What was published is what was measured last, and not the weights of the last update.
    again = read_config(RECIPE, {**SMALL, "epochs": 1})
    published = small.workspace(
        RECIPE,
        tmp_path / "again",
        checkpoint=tmp_path / "whole/checkpoint",
        conversations=inputs["conversations"],
    )
    first = next(event for event in RECIPE.run(again, published) if isinstance(event, Metric))
    last = small.curves(undisturbed)["val_loss"][-1][1]
    assert first.values["val_loss"] == pytest.approx(last, abs=0.01)
    plain = run(small.workspace(RECIPE, tmp_path / "plain", **inputs), **adapters, epochs=1)
    assert small.curves(plain)["loss"] == small.curves(undisturbed)["loss"]
    assert abs(small.curves(plain)["val_loss"][-1][1] - last) > 0.02


def test_the_best_weights_are_kept_and_published_where_asked(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core_ml.training import held_out

    losses: list[float] = []

    def val_loss(*args: object) -> Generator[Event, None, float]:
        yield from ()
        losses.append([0.5, 3.0, 1.0, 2.0][min(3, len(losses))])
        return losses[-1]

    monkeypatch.setattr(held_out, "loss", val_loss)
    options = {"publish": "best", "keep_every": 10, "eval_every": 4}
    run(small.workspace(RECIPE, tmp_path, **inputs), **options)
    summary = Folder(tmp_path / "checkpoint").manifest.summary
    # The model before it learned anything did better still, and is no result of the run.
    assert (summary["step"], summary["val_loss"], summary["val_loss_before"]) == (8, 1.0, 0.5)
    steps = sorted(int(path.name[-9:]) for path in (tmp_path / ".state").glob("step-*"))
    assert {8, 10} <= set(steps)
    from safetensors.torch import load_file

    kept = load_file(tmp_path / ".state/step-000000008/state.safetensors")
    published = load_file(tmp_path / "checkpoint/model.safetensors")
    assert all(published[name].equal(kept[f"model/{name}"]) for name in published)


def test_batches_of_like_length_teach_as_well_and_resume_to_the_bit(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    config = read_config(RECIPE, {**SMALL, "batching": "by_length"})
    undisturbed = list(RECIPE.run(config, small.workspace(RECIPE, tmp_path / "whole", **inputs)))
    curve = [value for _, value in small.curves(undisturbed)["val_loss"]]
    assert curve[-1] < 0.6 * curve[0]
    told: list[Event] = []
    for stop in (5, 999):
        events = RECIPE.run(config, small.workspace(RECIPE, tmp_path / "stopped", **inputs))
        for event in events:
            told.append(event)
            if isinstance(event, Metric) and event.step == stop:
                events.close()
                break
    assert small.curves(told) == small.curves(undisturbed)


def test_several_datasets_are_mixed_by_weight_and_told_and_resumed_to_the_bit(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    colours = [
        [("user", f"Which colour has thing {i}?"), ("assistant", ("Red.", "Blue.")[i % 2])] for i in range(40)
    ]
    paths = [inputs["conversations"], small.conversations(tmp_path / "colours", colours)]
    opened = read_inputs(RECIPE, {"checkpoint": [inputs["checkpoint"]], "conversations": paths})
    config = read_config(RECIPE, {**SMALL, "weights": [1, 1]})

    def place(name: str) -> Workspace:
        return Workspace(tmp_path / name, tmp_path / name / ".state", opened, small.ORIGIN, "t", "test")

    whole = list(RECIPE.run(config, place("whole")))
    told: list[Event] = []
    for stop in (11, 999):
        events = RECIPE.run(config, place("stopped"))
        for event in events:
            told.append(event)
            if isinstance(event, Metric) and event.step == stop:
                events.close()
                break
    assert small.curves(told) == small.curves(whole)
    mixed = Folder(tmp_path / "whole/checkpoint").manifest.summary["datasets"]
    assert [(one["conversations"], one["share"]) for one in mixed] == [(120, 0.5), (40, 0.5)]
    assert mixed[0]["epochs"] < 2 < mixed[1]["epochs"]
    # Both kinds of questions are asked.
    prompts = {event.prompt.split()[0] for event in whole if isinstance(event, Sample)}
    assert prompts == {"What", "Which"}
    with pytest.raises(UserError, match="3 weights for 2 datasets"):
        list(RECIPE.run(read_config(RECIPE, {**SMALL, "weights": [1, 1, 1]}), place("refused")))


def test_the_users_words_are_not_learned(inputs: dict[str, Path], tmp_path: Path) -> None:
    # The same answer to every question: only what is learned can become cheap.
    rows = [[("user", f"{i * 7919 % 997} {i}?"), ("assistant", "Yes.")] for i in range(100)]
    talks = small.conversations(tmp_path / "talks", rows)
    place = small.workspace(RECIPE, tmp_path / "out", checkpoint=inputs["checkpoint"], conversations=talks)
    run(place, epochs=6)

    import torch

    from core_ml.model import checkpoint
    from core_ml.training.loss import token_nll

    model, tokenizer = checkpoint.load(tmp_path / "out/checkpoint", "cpu")
    ids, mask = tokenizer.conversation(
        [{"role": "user", "content": "31 4?"}, {"role": "assistant", "content": "Yes."}]
    )
    with torch.no_grad():
        nll = token_nll(model, torch.tensor([ids]))[0]
    learned = torch.tensor(mask[1:]).bool()
    assert nll[learned].mean() < 0.2
    assert nll[~learned].mean() > 2.0


def test_what_does_not_fit_is_cut_and_told(inputs: dict[str, Path], tmp_path: Path) -> None:
    rows = [[("user", f"Say {i}."), ("assistant", f"{i} " * (60 if i == 3 else 1))] for i in range(20)]
    talks = small.conversations(tmp_path / "talks", rows)
    place = small.workspace(RECIPE, tmp_path / "out", checkpoint=inputs["checkpoint"], conversations=talks)
    logs = [event for event in run(place, epochs=1) if isinstance(event, Log)]
    assert "1 conversations were cut at 96 tokens" in logs[0].message


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "no rows"),
        ([[("user", "Hello?")]] * 5, "0 conversations have an answer"),
        ([[("user", "Hello?"), ("narrator", "…")]], "'narrator'"),
        ([[]], "conversation 1 has no messages"),
    ],
)
def test_conversations_that_cannot_be_learned_from_are_told(
    inputs: dict[str, Path], tmp_path: Path, rows: list[list[tuple[str, str]]], told: str
) -> None:
    talks = small.conversations(tmp_path / "talks", rows)
    place = small.workspace(RECIPE, tmp_path / "out", checkpoint=inputs["checkpoint"], conversations=talks)
    with pytest.raises(UserError, match=told):
        run(place)


def test_inputs_that_do_not_fit_are_refused_by_name(inputs: dict[str, Path], tmp_path: Path) -> None:
    documents = small.documents(tmp_path / "documents")
    with pytest.raises(UserError, match="form conversations") as caught:
        read_inputs(RECIPE, {"checkpoint": [inputs["checkpoint"]], "conversations": [documents]})
    assert caught.value.field == "conversations"
    damaged = small.checkpoint_artifact(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="is damaged"):
        read_inputs(RECIPE, {"checkpoint": [damaged], "conversations": [inputs["conversations"]]})


def test_a_loss_far_above_the_usual_is_not_learned_from(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core_ml.training import loss

    real, made = loss.masked_backward, 0

    def masked_backward(*args: object) -> object:
        nonlocal made
        made += 1
        found = real(*args)
        return found * 50 if made == 40 else found

    monkeypatch.setattr(loss, "masked_backward", masked_backward)
    options = {"batch_tokens": 96, "epochs": 3, "muon_lr": 1e-3, "adam_lr": 1e-3, "compile": "off"}
    guarded = run(small.workspace(RECIPE, tmp_path / "guarded", **inputs), **options)
    logs = [event.message for event in guarded if isinstance(event, Log)]
    assert len(logs) == 1 and logs[0].startswith("Update 40 was passed over: the loss")
    # 96 tokens are less than a row, which holds several conversations.
    assert re.search(r"Conversations \d+(, \d+)+ of talks\.$", logs[0])
    made = 0
    told = run(small.workspace(RECIPE, tmp_path / "told", **inputs), **options, spike=None)
    assert not [event for event in told if isinstance(event, Log)]
    assert len(small.curves(told)["loss"]) == len(small.curves(guarded)["loss"]) + 1
