"""Practice with a judge beside the reward model: who it may be, what it measures, and what becomes of the best look."""

import math

import pytest
import torch

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.events import Log, Metric, Summary
from core_ml.feedback.gold import choose
from core_ml.feedback.looks import Watch
from core_ml.feedback.reward_model import RewardModel
from core_ml.model import checkpoint
from core_ml.recipes.rlhf import RlhfConfig, run
from core_ml.tasks import judge
from tests.core_ml.models import ranking, workspace, write_checkpoint, write_dataset

SMALL = RlhfConfig(
    steps=6, prompts_per_step=4, n_completions=4, max_new_tokens=8, n_watched=5, eval_every=2, threads=1, lr=3e-3,
    n_sampled=3,
)  # fmt: skip
JUDGED = Watch._judged
PROMPTS = [f"What is {i} + {i % 9}?" for i in range(30)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    path = tmp_path_factory.mktemp("gold")
    rows = [{"prompt": p, "answer": "", "verifier": "task", "metadata": {"task": "add"}} for p in PROMPTS]
    return {
        "checkpoint": write_checkpoint(path, "chat"),
        "reward": write_checkpoint(path, "reward", seed=1, value_head=True),
        "problems": write_dataset(path, "problems", rows),
    }


def looks(events):
    return {e.step: e.values for e in events if isinstance(e, Metric) and "val_reward" in e.values}


def told(events):
    return " ".join(event.message for event in events if isinstance(event, Log))


def summary_of(events):
    return [event for event in events if isinstance(event, Summary)][-1].values


def changed(**changes):
    return SMALL.model_copy(update=changes)


def test_each_look_measures_proxy_gold_and_kl_on_sampled_answers_from_the_chat_model_on(tmp_path, inputs):
    events = list(run(SMALL, workspace(tmp_path, inputs)))
    found = looks(events)
    assert list(found) == [0, 2, 4, 6]
    names = {"val_reward_sem", "val_below_best", "val_gold", "val_gold_sem", "val_kl"} | {
        f"val_{one}_z{sem}" for one in ("proxy", "gold") for sem in ("", "_sem")
    }
    assert all(names <= set(values) for values in found.values())
    # The policy begins as the chat model, and draws its answers with the same numbers.
    assert found[0]["val_proxy_z"] == found[0]["val_gold_z"] == found[0]["val_proxy_z_sem"] == 0
    assert found[0]["val_kl"] == pytest.approx(0, abs=1e-4)
    assert found[6]["val_kl"] > 0.01 and found[6]["val_proxy_z"] != 0 and found[6]["val_proxy_z_sem"] > 0
    summary = summary_of(events)
    assert summary["gold"] == "the stated preference" and summary["peak_step"] in found
    assert summary["over_kl"]["form"] == "rl" and summary["over_kl"]["measured_peak"]["index"] == [
        *found
    ].index(summary["peak_step"])


def test_the_rule_says_what_the_stated_preference_says(tmp_path, inputs):
    from core_ml.feedback.gold import by_rule

    texts, ended = ["The sum is 3.", "3", "The sum is 3."], [True, True, False]
    scores = by_rule().scores(["What is 1 + 2?"] * 3, texts, ended)
    assert scores == [7, 5, 5]
    assert scores == [
        judge("What is 1 + 2?", text, end).score for text, end in zip(texts, ended, strict=True)
    ]


def test_a_gold_model_of_the_proxys_size_is_said_to_share_its_blind_spots(tmp_path, inputs):
    second = write_checkpoint(tmp_path / "second", "reward", seed=2, value_head=True)
    large = write_checkpoint(tmp_path / "large", "reward", seed=2, value_head=True, d_model=96)
    events = {
        name: list(run(changed(steps=1), workspace(tmp_path / name, {**inputs, "gold": gold})))
        for name, gold in (("alike", [second, second]), ("larger", large))
    }
    assert "shares its blind spots" in told(events["alike"]) and "blind" not in told(events["larger"])
    assert summary_of(events["alike"])["gold"] == "a gold model"
    assert any("by a gold model" in one for one in summary_of(events["alike"])["findings"])


@pytest.fixture(scope="module")
def newest(tmp_path_factory):
    """Twelve rankings by one person, who likes the short answer."""
    rows = [
        ranking(f"g{i}", f"What is {i} + 1?", [f"The sum is {i + 1}. I hope that helps.", f"{i + 1}", "Good"], [[1, 2], [0]])
        for i in range(12)
    ]  # fmt: skip
    return write_dataset(tmp_path_factory.mktemp("newest"), "rankings", rows)


def test_peoples_newest_rankings_judge_by_a_reward_model_of_their_own(tmp_path, inputs, newest):
    given = {**inputs, "gold_rankings": newest}
    whole = list(run(changed(steps=2), workspace(tmp_path / "whole", given)))
    said = told(whole)
    assert (
        "10 of the newest rankings" in said
        and "10 rankings are few" in said
        and "held-out pairs as people did" in said
    )
    assert summary_of(whole)["gold"] == "a reward model of the newest rankings"
    gold = RewardModel.load(artifact.Folder(tmp_path / "whole" / "state" / "gold"))
    long, short = gold.score(["What is 3 + 1?"] * 2, ["The sum is 4. I hope that helps.", "4"])
    assert short > long
    # A run that is stopped while it works goes on with the same judge, and tells of it once.
    events = run(changed(steps=2), workspace(tmp_path / "stopped", given))
    parts = []
    for event in events:
        parts.append(event)
        if isinstance(event, Metric):
            break
    events.close()
    parts += list(run(changed(steps=2), workspace(tmp_path / "stopped", given)))
    assert looks(parts) == looks(whole) and told(parts).count("newest rankings; ") == 1


def test_without_a_judge_the_win_rate_by_the_reward_model_is_left(tmp_path, inputs):
    events = list(run(changed(gold="none", steps=2), workspace(tmp_path, inputs)))
    found = looks(events)
    assert all("val_gold" not in values and "val_gold_z" not in values for values in found.values())
    assert "val_proxy_z" in found[2] and "over_kl" not in summary_of(events)


@pytest.mark.parametrize(
    ("how", "prompts", "model", "rankings", "kind"),
    [
        ("auto", PROMPTS, True, True, "model"),
        ("auto", PROMPTS, False, True, "rankings"),
        ("auto", PROMPTS, False, False, "rule"),
        ("auto", [*PROMPTS, "Write a poem."], False, False, None),
        ("none", PROMPTS, True, True, None),
        ("rule", PROMPTS, True, True, "rule"),
    ],
)
def test_who_judges_is_what_was_asked_for_or_the_best_there_is(how, prompts, model, rankings, kind):
    assert choose(how, prompts, model, rankings) == kind


@pytest.mark.parametrize("how", ["rule", "model", "rankings"])
def test_a_judge_that_is_not_there_is_refused_with_the_mend(how):
    with pytest.raises(UserError, match=f"gold is {how}.*set gold to") as refused:
        choose(how, ["Write a poem."], False, False)
    assert refused.value.field == "gold"


def fooled(monkeypatch, values):
    """Gold that says of the looks what it is told to, whatever the answers are; the first value is the chat model's."""
    calls = []

    def said(self, rollouts):
        found = JUDGED(self, rollouts)
        if rollouts.n > 1:
            calls.append(1)
            value = values[max(0, len(calls) - 2)]  # the first call sets the scale
            found["gold"] = [value + 0.01 * (i % 2) for i in range(len(rollouts.texts))]
        return found

    monkeypatch.setattr(Watch, "_judged", said)


def weights(folder):
    model, _ = checkpoint.load(folder)
    return model.embedding.weight


def test_the_weights_of_the_best_look_are_an_output_of_their_own_when_gold_fell(
    tmp_path, inputs, monkeypatch
):
    fooled(monkeypatch, [0.0, 1.0, -1.0, -2.0])
    events = list(run(SMALL, workspace(tmp_path / "whole", inputs)))
    summary = summary_of(events)
    assert summary["peak_step"] == 2 and "Practice did harm after step 2" in summary["findings"][-1]
    peak = artifact.Folder(tmp_path / "whole" / "out" / "peak")
    assert (peak.manifest.role, peak.manifest.name, peak.manifest.summary["n_steps"]) == (
        "aligned",
        "test-peak",
        2,
    )
    last = tmp_path / "whole" / "out" / "checkpoint"
    assert not torch.equal(weights(peak.path), weights(last))
    # They are those of a run that was to keep the best, bit by bit.
    fooled(monkeypatch, [0.0, 1.0, -1.0, -2.0])
    events = list(run(changed(keep="best"), workspace(tmp_path / "best", inputs)))
    assert torch.equal(weights(peak.path), weights(tmp_path / "best" / "out" / "checkpoint"))
    assert not (tmp_path / "best" / "out" / "peak").exists()
    assert "the aligned model has the weights of that step" in summary_of(events)["findings"][-1]


def test_a_model_that_only_grew_worse_may_be_given_back_as_it_was(tmp_path, inputs, monkeypatch):
    fooled(monkeypatch, [0.0, -1.0, -1.0, -2.0])
    list(run(changed(keep="best"), workspace(tmp_path, inputs)))
    assert torch.equal(weights(tmp_path / "out" / "checkpoint"), weights(inputs["checkpoint"].path))


def test_a_run_ends_early_when_no_look_has_been_better_for_so_long(tmp_path, inputs, monkeypatch):
    fooled(monkeypatch, [0.0, 1.0, 0.5, 0.4, 0.3, 0.2])
    config = changed(steps=10, stop_early=2)
    events = list(run(config, workspace(tmp_path, inputs)))
    assert list(looks(events)) == [0, 2, 4, 6]
    assert (
        "Ended early after step 6 of 10: the best look by the stated preference was at step 2, 2 looks ago."
        in told(events)
    )
    summary = summary_of(events)
    assert summary["stopped_early"] and summary["n_steps"] == 6
    assert max(event.step for event in events if isinstance(event, Metric)) == 6
    assert (tmp_path / "out" / "peak").exists()
    # Asked again, it does not go on.
    again = list(run(config, workspace(tmp_path, inputs)))
    assert not looks(again) and summary_of(again)["n_steps"] == 6


def test_a_run_that_goes_on_improving_is_not_ended(tmp_path, inputs, monkeypatch):
    fooled(monkeypatch, [0.0, 1.0, 2.0, 3.0])
    events = list(run(changed(stop_early=1), workspace(tmp_path, inputs)))
    assert list(looks(events)) == [0, 2, 4, 6]
    summary = summary_of(events)
    assert not summary["stopped_early"] and not (tmp_path / "out" / "peak").exists()
    assert math.isclose(summary["over_kl"]["measured_peak"]["gold"], looks(events)[6]["val_gold_z"])
