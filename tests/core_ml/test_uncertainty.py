"""Where reward models disagree: the arithmetic, and the recipe over rollouts."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.events import Metric, Resumed, Sample, Summary
from core_ml.feedback.disagreement import pair_spreads
from core_ml.feedback.reward_model import RewardModel
from core_ml.recipes import uncertainty
from core_ml.recipes.uncertainty import UncertaintyConfig, run
from tests.core_ml.models import small_model, small_tokenizer, workspace, write_checkpoint, write_dataset

CONFIG = UncertaintyConfig(threads=1)
ROWS = [
    {"group_id": f"g{i}", "prompt": f"What is {i} + 1?", "completions": [f"It is {i + 1}.", "no", f"{i} {i} {i}"], "logprobs": [[-1.0], [-2.0], [-3.0]], "ended": [True, False, True], "metadata": {"task": "add"}}
    for i in range(10)
]  # fmt: skip


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_it_is_the_spread_of_the_probability_and_not_of_the_scores():
    # Both members are sure that the first beats the second, and they part over the second and the third.
    scores = np.array([[20.0, 0.0, 1.0], [10.0, 0.0, -1.0]])
    found = {(i, j): value for i, j, value in pair_spreads(scores, "abc")}
    assert list(found) == [(0, 1), (0, 2), (1, 2)]
    assert found[0, 1] == pytest.approx((sigmoid(20) - sigmoid(10)) / 2) and found[0, 1] < 1e-4
    # sigmoid(-1) and sigmoid(1) lie as far on both sides of 1/2: their standard deviation is sigmoid(1) - 1/2.
    assert found[1, 2] == pytest.approx(sigmoid(1) - 0.5)
    # Half of the members against the other half, each of them sure: the most that there can be.
    assert pair_spreads(np.array([[99.0, 0], [0, 99.0]]), "ab")[0][2] == pytest.approx(0.5)
    assert pair_spreads(np.array([[1.0, 0, 2], [1, 0, 2]]), "abc")[1][2] == 0


def test_equal_answers_are_one():
    scores = np.array([[0.0, 1, 0], [1, 0, 1]])
    assert [(i, j) for i, j, _ in pair_spreads(scores, ["a", "b", "a"])] == [(0, 1)]
    assert pair_spreads(scores, ["a", "a", "a"]) == []


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    path = tmp_path_factory.mktemp("uncertainty")
    # Members of one checkpoint, with a scale and shifts such as training sets.
    tokenizer = small_tokenizer()
    members = [small_model(tokenizer.vocab_size, seed, value_head=True) for seed in range(3)]
    model = RewardModel(members[0].eval(), tokenizer, others=[one.eval() for one in members[1:]])
    model.rescale(
        [row["prompt"] for row in ROWS for _ in range(3)], [t for row in ROWS for t in row["completions"]]
    )
    writer = artifact.Writer(path / "several", id="several", kind="checkpoint", role="reward", name="several", origin=artifact.Origin(recipe="test"))  # fmt: skip
    model.save(writer.path)
    writer.finish({"n_parameters": 1, "n_members": 3})
    return {
        "reward": artifact.Folder(path / "several"),
        "one": write_checkpoint(path, "reward", seed=5, value_head=True),
        "rollouts": write_dataset(path, "rollouts", ROWS),
    }


def given(inputs, *reward):
    return {"reward": [inputs[name] for name in reward], "rollouts": inputs["rollouts"]}


def published(path):
    [file] = artifact.Folder(path / "out" / "rollouts").files(".parquet")
    return [{**row, "metadata": json.loads(row["metadata"])} for row in pq.read_table(file).to_pylist()]


def of(events, kind):
    return [event for event in events if isinstance(event, kind)]


@pytest.mark.parametrize("reward", [("reward",), ("reward", "one")])
def test_each_group_and_pair_is_scored_by_what_the_members_hold_likely(tmp_path, inputs, reward):
    events = list(run(CONFIG, workspace(tmp_path, given(inputs, *reward))))
    rows = published(tmp_path)
    assert [row["group_id"] for row in rows] == [row["group_id"] for row in ROWS]
    assert rows[0]["logprobs"] == ROWS[0]["logprobs"] and rows[0]["ended"] == ROWS[0]["ended"]
    models = [RewardModel.load(inputs[name]) for name in reward]
    for row in rows:
        texts, prompts = row["completions"], [row["prompt"]] * 3
        # A score is in units of its model's spread: raw = score * std + mean, and the mean falls out of differences.
        raw = [[value * model.std for value in one] for model in models for one in model.scores(prompts, texts)]  # fmt: skip
        expected = [
            float(torch.tensor([sigmoid(one[i] - one[j]) for one in raw]).std(correction=0))
            for i, j in ((0, 1), (0, 2), (1, 2))
        ]
        pairs = row["metadata"]["pair_uncertainty"]
        assert [pair[:2] for pair in pairs] == [[0, 1], [0, 2], [1, 2]]
        assert [pair[2] for pair in pairs] == pytest.approx(expected, abs=2e-5)
        assert row["metadata"]["uncertainty"] == pytest.approx(sum(expected) / 3, abs=2e-5)
        assert row["metadata"]["task"] == "add"
    summary = of(events, Summary)[-1].values
    assert summary["n_members"] == 3 + (len(reward) - 1) and summary["n_scored"] == 10
    mean = sum(row["metadata"]["uncertainty"] for row in rows) / 10
    assert summary["uncertainty"] == pytest.approx(mean, abs=1e-4)
    assert of(events, Metric)[-1].values["uncertainty"] == pytest.approx(mean)
    # A tenth of ten is the one where they part the most, and it is among those that are shown.
    most = max(row["metadata"]["uncertainty"] for row in rows)
    assert summary["uncertainty_most"] == pytest.approx(most, abs=1e-4)
    assert most in [sample.data["uncertainty"] for sample in of(events, Sample)]


def test_one_member_alone_is_refused(tmp_path, inputs):
    with pytest.raises(UserError, match="disagrees with nobody"):
        list(run(CONFIG, workspace(tmp_path, given(inputs, "one"))))


def test_a_run_that_was_stopped_goes_on_to_the_same_scores(tmp_path, inputs, monkeypatch):
    monkeypatch.setattr(uncertainty, "CHUNK", 4)
    whole = of(run(CONFIG, workspace(tmp_path / "whole", given(inputs, "reward"))), Metric)
    assert [event.step for event in whole] == [4, 8, 10]
    events = run(CONFIG, workspace(tmp_path / "stopped", given(inputs, "reward")))
    for event in events:
        if isinstance(event, Metric):
            break
    events.close()
    again = list(run(CONFIG, workspace(tmp_path / "stopped", given(inputs, "reward"))))
    assert again[0] == Resumed(4) and of(again, Metric) == whole[1:]
    assert published(tmp_path / "stopped") == published(tmp_path / "whole")
    last = list(run(CONFIG, workspace(tmp_path / "stopped", given(inputs, "reward"))))
    assert last[0] == Resumed(-1) and of(last, Metric) == whole


def test_groups_without_a_choice_have_no_score_and_an_earlier_one_counts_no_longer(tmp_path, inputs):
    rows = [
        {"group_id": "same", "prompt": "p", "completions": ["a", "a"], "metadata": {"uncertainty": 0.4}},
        {"group_id": "told", "prompt": "p", "completions": ["a", "b"], "metadata": {"uncertainty": 9.0}},
    ]
    given = {"reward": inputs["reward"], "rollouts": write_dataset(tmp_path, "rollouts", rows, "some")}
    list(run(CONFIG, workspace(tmp_path, given)))
    same, told = published(tmp_path)
    assert same["metadata"] == {"uncertainty": None, "pair_uncertainty": []}
    assert 0 < told["metadata"]["uncertainty"] <= 0.5
