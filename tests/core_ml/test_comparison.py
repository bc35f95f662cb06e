"""Two reward models on the same held-out rankings."""

import pytest

from core_ml.artifact import Folder
from core_ml.events import Figure, Summary
from core_ml.feedback.comparison import beside, figure, findings
from core_ml.feedback.pairs import Group, Ranking, Rankings
from core_ml.recipes.reward import RewardConfig, run
from tests.core_ml.models import workspace, write_checkpoint, write_dataset
from tests.core_ml.test_reward import groups_to_learn

RIGHT, WRONG = [1.0, 0.0], [0.0, 1.0]


def group(number: int, order=((0,), (1,))) -> Group:
    return Group(f"g{number}", f"prompt {number}", ("a", "b"), [Ranking("lea", False, order)])


def told(name: str, accuracy: float = 0.9, n: int = 40) -> dict:
    """What is known of a dataset before the earlier model is asked."""
    return {"id": f"{name}-id", "name": name, "accuracy": accuracy, "low": 0.8, "high": 1.0, "n_pairs": n}


def test_the_earlier_models_share_and_the_difference_are_counted_for_each_dataset():
    groups = [group(n) for n in range(6)]
    parts = [Rankings([*groups[::2], group(8)]), Rankings(groups[1::2])]  # one group was not held out
    # Of the first dataset (even numbers) all are right now and two of three were before; of the second two and one.
    new = [RIGHT, RIGHT, RIGHT, WRONG, RIGHT, RIGHT]
    old = [RIGHT, WRONG, RIGHT, WRONG, WRONG, RIGHT]
    first, second = beside([told("old answers"), told("new answers")], parts, groups, new, old)
    assert (first["name"], first["accuracy"], first["n_pairs"]) == ("old answers", 0.9, 40)
    assert first["earlier"]["accuracy"] == pytest.approx(2 / 3)
    assert second["earlier"]["accuracy"] == pytest.approx(1 / 3)
    assert first["change"]["value"] == second["change"]["value"] == pytest.approx(1 / 3)
    assert 0 <= second["earlier"]["low"] <= 1 / 3 <= second["earlier"]["high"] <= 1


def test_a_difference_that_chance_explains_is_called_none():
    groups = [group(n) for n in range(40)]
    parts = [Rankings(groups)]
    new = [RIGHT] * 36 + [WRONG] * 4
    clear = [WRONG] * 20 + [RIGHT] * 16 + [WRONG] * 4
    hardly = [WRONG] + [RIGHT] * 35 + [WRONG] * 3 + [RIGHT]
    (said,) = findings(beside([told("the answers")], parts, groups, new, clear), "old-one")
    assert (
        said
        == "Of held-out pairs of the answers this model orders 90% as labelled, and the earlier old-one 40%."
    )
    (said,) = findings(beside([told("the answers")], parts, groups, new, hardly), "old-one")
    assert said.endswith("the earlier old-one 90%, which is no measurable difference.")


def test_a_dataset_without_a_held_out_pair_says_nothing():
    tied = group(0, ((0, 1),))
    nothing = {"id": "1", "name": "ties"}
    found = beside([nothing], [Rankings([tied])], [tied], [RIGHT], [RIGHT])
    assert found == [nothing] and findings(found, "old-one") == []


def test_the_figure_sets_both_models_side_by_side():
    groups = [group(n) for n in range(4)]
    parts = [Rankings(groups[:2]), Rankings(groups[2:])]
    found = beside([told("one", 1.0), told("two", 1.0)], parts, groups, [RIGHT] * 4, [WRONG] * 4)
    drawn = figure(found, "old-one", 7)
    assert [trace["name"] for trace in drawn.content["data"]] == ["this model", "earlier: old-one"]
    assert [trace["x"] for trace in drawn.content["data"]] == [[1.0, 1.0], [0.0, 0.0]]


def test_a_reward_model_is_told_beside_the_one_that_it_follows(tmp_path):
    first_answers = write_dataset(tmp_path, "rankings", groups_to_learn(), "first answers")
    inputs = {"checkpoint": write_checkpoint(tmp_path, "chat"), "rankings": first_answers}
    config = RewardConfig(epochs=4, lr=3e-3, tokens_per_step=600, held_out_share=0.3, threads=1)
    first, _ = summary_and_figures(run(config, workspace(tmp_path / "first", inputs)))
    assert "earlier" not in first["by_rankings"][0]
    earlier = Folder(tmp_path / "first" / "out" / "checkpoint")
    more = write_dataset(tmp_path, "rankings", other_prompts(), "second answers")
    given = {**inputs, "rankings": [first_answers, more], "earlier": earlier}
    second, drawn = summary_and_figures(run(config, workspace(tmp_path / "second", given)))
    old, new = second["by_rankings"]
    assert (old["name"], new["name"]) == ("first answers", "second answers")
    # Held out of the first dataset is what was held out of it before, so the earlier model does there as it said.
    assert old["earlier"]["accuracy"] == first["by_rankings"][0]["accuracy"]
    for one in (old, new):
        assert one["change"]["value"] == pytest.approx(one["accuracy"] - one["earlier"]["accuracy"])
    assert any("second answers this model orders" in said for said in second["findings"])
    assert "by_rankings" in drawn


def other_prompts() -> list[dict]:
    """Rankings of another dataset, whose group_ids are the same."""
    return [{**row, "prompt": row["prompt"].replace("+ 1", "+ 2")} for row in groups_to_learn()]


def summary_and_figures(events):
    events = list(events)
    summary = [event for event in events if isinstance(event, Summary)][-1].values
    return summary, {event.name for event in events if isinstance(event, Figure)}
