"""Several datasets of rankings as one: their groups, what is held out of each, and what a reward model tells of each."""

import pytest

from core_ml.errors import UserError
from core_ml.events import Summary
from core_ml.feedback.pairs import split
from core_ml.feedback.several import by_dataset, findings, joined, read_all, split_each
from core_ml.recipes.reward import RewardConfig, run
from tests.core_ml.models import ranking, workspace, write_checkpoint, write_dataset


def rows(n, prefix="g", first=0):
    answers = ["The sum is 3.", "no"]
    return [
        ranking(f"{prefix}{i}", f"What is {i} + 1?", answers, [[0], [1]]) for i in range(first, first + n)
    ]


def test_groups_of_several_datasets_stand_apart_even_under_one_id(tmp_path):
    folders = [write_dataset(tmp_path, "rankings", rows(4), name) for name in ("one", "two")]
    parts = read_all(folders)
    assert [group.id for group in parts[0].groups] == ["g0", "g1", "g2", "g3"]
    assert [group.id for group in parts[1].groups] == ["g0/2", "g1/2", "g2/2", "g3/2"]
    assert joined(parts).counts()["n_groups"] == 8 and joined(parts).counts()["n_prompts"] == 4


def test_what_is_held_out_of_the_first_is_the_same_whatever_is_added(tmp_path):
    first = write_dataset(tmp_path, "rankings", rows(40), "first")
    # Half of the second's prompts are the first's, half are new.
    second = write_dataset(tmp_path, "rankings", rows(40, "t", first=20), "second")
    alone = {g.prompt for g in split(read_all([first])[0].groups, 0.25, 7)[1]}
    train, held_out = split_each(read_all([first, second]), 0.25, 7)
    both = {g.prompt for g in held_out}
    assert {prompt for prompt in both if int(prompt.split()[2]) < 40} == alone
    assert len(alone) == 10 and len(both) == 15  # and a quarter of 20 new prompts
    assert not both & {g.prompt for g in train} and len(train) + len(held_out) == 80
    one_more = write_dataset(tmp_path, "rankings", rows(1, "x", first=99), "third")
    assert {g.prompt for g in split_each(read_all([first, one_more]), 0.25, 7)[1]} == alone
    with pytest.raises(UserError, match="needs a second"):
        split_each(read_all([one_more, first]), 0.25, 7)


def test_each_dataset_has_its_own_share_of_held_out_pairs(tmp_path):
    folders = [
        write_dataset(tmp_path, "rankings", rows(4, "a"), "people"),
        write_dataset(tmp_path, "rankings", rows(4, "b"), "tricks"),
    ]
    parts = read_all(folders)
    held_out = joined(parts).groups
    # Right on three of the four groups of the first, wrong on all of the second.
    rewards = [[2.0, 1.0]] * 3 + [[1.0, 2.0]] * 5
    told = by_dataset(folders, parts, held_out, rewards)
    assert [(one["name"], one["accuracy"], one["n_pairs"]) for one in told] == [
        ("people", 0.75, 4),
        ("tricks", 0.0, 4),
    ]
    assert findings(told)[0].startswith("Of the 4 pairs of people alone it orders 75%")
    assert findings(told[:1]) == []


def test_a_reward_model_learns_from_several_datasets_and_is_measured_on_each(tmp_path):
    inputs = {
        "checkpoint": write_checkpoint(tmp_path, "chat"),
        "rankings": [
            write_dataset(tmp_path, "rankings", rows(20), "people"),
            write_dataset(tmp_path, "rankings", rows(20, "t", first=10), "tricks"),
        ],
    }
    config = RewardConfig(epochs=2, lr=3e-3, tokens_per_step=600, held_out_share=0.3, threads=1)
    events = list(run(config, workspace(tmp_path / "run", inputs)))
    summary = [event for event in events if isinstance(event, Summary)][-1].values
    assert summary["n_groups"] == 40 and summary["n_prompts"] == 30
    people, tricks = summary["by_rankings"]
    assert (people["name"], tricks["name"]) == ("people", "tricks")
    assert people["n_pairs"] == 6 and tricks["n_pairs"] >= 3  # three tenths of 20 prompts, of one pair each
    assert any(sentence.startswith("Of the 6 pairs of people alone") for sentence in summary["findings"])
