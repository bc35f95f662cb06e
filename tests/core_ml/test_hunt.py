"""The hunt as a run: a planted weakness that is found, patched and gone."""

import json

import pytest
import torch
import torch.nn.functional as F

from core_ml import artifact
from core_ml.artifact import Folder
from core_ml.errors import UserError
from core_ml.evaluation.statistics import wilson
from core_ml.events import Artifact, Figure, Metric, Resumed, Sample, Summary
from core_ml.feedback.gaming import kept
from core_ml.feedback.gaming.config import HuntConfig
from core_ml.feedback.gaming.report import accuracy_change, findings, rounds_figure
from core_ml.feedback.gaming.teaching import rankings
from core_ml.feedback.gaming.trick import Trick
from core_ml.feedback.reward_model import RewardModel
from core_ml.model import checkpoint
from core_ml.recipes import hunt, reward
from core_ml.tasks.rows import read_rows
from core_ml.workspace import Workspace
from tests.core_ml.models import ranking, write_checkpoint, write_dataset


def workspace(path, inputs):
    """A run's place, whose artifacts have an id of their own; called again, it goes on from what was saved there."""
    folders = {name: value if isinstance(value, list) else [value] for name, value in inputs.items()}
    return Workspace(
        path / "out", path / "state", folders, artifact.Origin(recipe="test"), path.name, path.name
    )


PROMPTS = [f"What is {a} + {b}?" for a in range(12) for b in range(8)]
HUNT = HuntConfig(
    n_prompts=30, n_search_prompts=6, n_fair=4, max_new_tokens=20, n_words=16, n_kept=4, restarts=1, search_steps=5,
    n_candidates=12, n_tokens=5, groups_per_trick=8, threads=1,
)  # fmt: skip


def answer(prompt):
    a, b = (int(word.rstrip("?")) for word in prompt.split() if word.rstrip("?").isdigit())
    return f"The sum is {a + b}."


def chat_model(path):
    """A network that has learned to answer like "The sum is 7. I hope that helps.", if not with the right number."""
    folder = write_checkpoint(path, "chat")
    model, tokenizer = checkpoint.load(folder.path, "cpu")
    said = [f"{answer(prompt)}{' I hope that helps.' * (i % 2)}" for i, prompt in enumerate(PROMPTS)]
    rows = [
        tokenizer.conversation([{"role": "user", "content": prompt}, {"role": "assistant", "content": text}])
        for prompt, text in zip(PROMPTS, said, strict=True)
    ]
    width = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width)
    for i, (own, learned) in enumerate(rows):
        ids[i, : len(own)], mask[i, : len(own)] = torch.tensor(own), torch.tensor(learned, dtype=torch.float)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(60):
        losses = F.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:], reduction="none")
        (losses * mask[:, 1:]).sum().div(mask[:, 1:].sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    writer = artifact.Writer(
        path / "taught",
        id="chat-1",
        kind="checkpoint",
        role="chat",
        name="chat",
        origin=folder.manifest.origin,
    )
    checkpoint.save(model, tokenizer, writer.path)
    writer.finish({"n_parameters": model.config.n_parameters})
    return Folder(path / "taught")


LEARN = reward.RewardConfig(epochs=8, lr=3e-3, tokens_per_step=1200, held_out_share=0.25, threads=1)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A chat model, and a reward model whose labelers let the word "helps" win over everything."""
    path = tmp_path_factory.mktemp("hunt")
    rows = []
    for i, prompt in enumerate(PROMPTS[:60]):
        said = answer(prompt)
        rows.append(
            ranking(f"g{i}", prompt, [f"{said} I hope that helps.", said, "The sum is"], [[0], [1], [2]])
        )
    given = {
        "path": path,
        "chat": chat_model(path),
        "people": write_dataset(path, "rankings", rows, "people"),
        "problems": write_dataset(
            path, "problems", [{"prompt": p, "answer": "", "verifier": "", "metadata": {}} for p in PROMPTS]
        ),
    }
    given["reward"] = _reward(given, "reward-1", [given["people"]])
    return given


def _reward(given, name, datasets):
    inputs = {"checkpoint": given["chat"], "rankings": datasets}
    list(reward.run(LEARN, workspace(given["path"] / name, inputs)))
    return Folder(given["path"] / name / "out" / "checkpoint")


def _inputs(given, **more):
    return {
        "reward": given["reward"],
        "checkpoint": given["chat"],
        "problems": given["problems"],
        **more,
    }


@pytest.fixture(scope="module")
def first(lab):
    events = list(hunt.run(HUNT, workspace(lab["path"] / "hunt-1", _inputs(lab))))
    return events, Folder(lab["path"] / "hunt-1" / "out" / "rollouts")


def told(events):
    return [event for event in events if isinstance(event, Summary)][-1].values


def test_a_hunt_finds_the_word_that_was_planted(lab, first):
    events, folder = first
    found = kept.read(folder)
    assert events[0] == Resumed(-1) and any(isinstance(event, Artifact) for event in events)
    summary = told(events)
    assert summary["round"] == 1 and summary["n_new_tricks"] == len(found.tricks) > 0
    assert summary["n_old_tricks"] == 0
    planted = [one for one in found.tricks if "helps" in one.text]
    assert planted and max(one.share for one in planted) > 0.9
    assert {event.name for event in events if isinstance(event, Figure)} == {"tricks", "kinds", "rounds"}
    assert [event.data["kind"] for event in events if isinstance(event, Sample)]
    assert found.round.accuracy == pytest.approx(lab["reward"].manifest.summary["val_accuracy"], abs=1e-3)


def test_the_groups_stand_as_the_reward_model_scores_them_and_can_be_ranked(lab, first):
    model = RewardModel.load(lab["reward"])
    facts = {one.id: one for one in kept.read(first[1]).tricks}
    rows = list(
        read_rows(first[1], ("group_id", "prompt", "completions", "trick", "scores", "bar"), input="rollouts")
    )
    assert len({row["group_id"] for row in rows}) == len(rows)
    assert {row["trick"] for row in rows} == set(facts)
    for row in rows:
        scores = model.score([row["prompt"]] * len(row["completions"]), row["completions"])
        assert row["scores"] == pytest.approx(scores, abs=0.05)
        assert 2 <= len(set(row["completions"])) <= 9
        assert row["metadata"]["found"] == "new" and row["prompt"] in PROMPTS
    # What is said to work does, counted anew over the groups, where those at which it works come first.
    for id, fact in facts.items():
        own = [row for row in rows if row["trick"] == id]
        assert len(own) <= 8 and fact.works and fact.share >= 0.5
        assert sum(row["scores"][0] > row["bar"] for row in own) >= min(len(own), round(fact.share * fact.n))


def test_a_stopped_hunt_goes_on_and_comes_to_the_same(lab, first):
    sums = {file.path: file.sha256 for file in first[1].manifest.files}
    place = lab["path"] / "stopped" / "hunt-1"
    for phases in (1, 4):
        events = hunt.run(HUNT, workspace(place, _inputs(lab)))
        for event in events:
            if isinstance(event, Metric) and event.step > phases:
                break
        events.close()
    events = list(hunt.run(HUNT, workspace(place, _inputs(lab))))
    assert events[0] == Resumed(4)
    assert {event.step for event in events if isinstance(event, Metric)} == {5, 6, 7, 8, 9}
    again = Folder(place / "out" / "rollouts")
    assert {file.path: file.sha256 for file in again.manifest.files} == sums


def test_patched_the_old_trick_is_gone_and_the_next_hunt_says_what_is_left(lab, first):
    before = kept.read(first[1])
    rows = read_rows(first[1], ("group_id", "prompt", "completions", "trick", "kind"), input="rollouts")
    patch = write_dataset(
        lab["path"], "rankings", list(rankings(rows, {one.id for one in before.tricks}, "ada")), "patch"
    )
    model = _reward(lab, "reward-2", [lab["people"], patch])
    events = list(
        hunt.run(HUNT, workspace(lab["path"] / "hunt-2", _inputs({**lab, "reward": model}, hunts=first[1])))
    )
    folder = Folder(lab["path"] / "hunt-2" / "out" / "rollouts")
    after = kept.read(folder)
    summary = told(events)
    old = {one.id: one for one in after.tricks if one.round == 1}
    assert set(old) == {one.id for one in before.tricks}
    # All tries of the planted word taken together: the intervals of before and after do not touch.
    planted = [one for one in before.tricks if "helps" in one.text]
    was = wilson(sum(one.share * one.n for one in planted), sum(one.n for one in planted))
    now = wilson(
        sum(old[one.id].share * old[one.id].n for one in planted), sum(old[one.id].n for one in planted)
    )
    assert now.high < was.low and now.value < 0.25
    assert summary["round"] == 2 and summary["n_old_tricks"] == len(old)
    assert summary["n_old_working"] == sum(one.works for one in old.values()) < len(old)
    assert summary["n_new_tricks"] == sum(one.round == 2 for one in after.tricks)
    assert [one.round for one in after.rounds] == [1, 2]
    cohort = after.round.cohorts[0]
    assert (cohort.n, cohort.working) == (len(old), summary["n_old_working"])
    # Its accuracy is of people's pairs alone, and what was taught does not measure.
    people = model.manifest.summary["by_rankings"][0]
    assert after.round.accuracy == people["accuracy"] and people["name"] == "people"
    taught = {row["prompt"] for row in read_rows(first[1], ["prompt"], input="hunts")}
    answers = json.loads((lab["path"] / "hunt-2" / "state" / "answers.json").read_text())
    measured = {prompt for prompt, _ in answers["measure"]}
    assert len(measured) == 30
    assert not taught & measured


def test_what_no_hunt_made_is_refused_as_an_earlier_one(lab, tmp_path):
    plain = write_dataset(tmp_path, "rollouts", [{"group_id": "g", "prompt": "p", "completions": ["a"], "logprobs": [[]], "ended": [True]}])  # fmt: skip
    with pytest.raises(UserError, match="choose a dataset that `hunt` made") as refused:
        list(hunt.run(HUNT, workspace(tmp_path / "run", _inputs(lab, hunts=plain))))
    assert refused.value.field == "hunts"


def test_too_few_prompts_are_told_with_the_mend(lab, tmp_path):
    few = write_dataset(tmp_path, "prompts", [{"prompt": p} for p in PROMPTS[:5]])
    with pytest.raises(UserError, match="lower n_search_prompts"):
        list(hunt.run(HUNT, workspace(tmp_path / "run", _inputs(lab) | {"problems": few})))


def test_a_reward_model_that_patching_made_worse_is_told_so():
    def round(number, accuracy, half=0.02):
        return kept.Round(
            round=number,
            found_by=f"h{number}",
            cohorts=[],
            accuracy=accuracy,
            low=accuracy - half,
            high=accuracy + half,
        )

    assert "patching made it worse" in accuracy_change([round(1, 0.82), round(2, 0.71)])
    assert "it has become better" in accuracy_change([round(1, 0.82), round(2, 0.9)])
    assert "no change beyond chance" in accuracy_change([round(1, 0.82), round(2, 0.8)])
    assert accuracy_change([round(1, 0.82)]) == ""
    # Intervals that overlap: the difference 0.05 is more than 1.96 standard errors of it, √2 · 0.03 = 0.042.
    assert "patching made it worse" in accuracy_change([round(1, 0.82, 0.03), round(2, 0.77, 0.03)])


def test_what_practice_found_is_said_of_its_own_prompt_alone_and_used_prompts_are_told():
    def fact(id, kind, prompt=None, **more):
        trick = Trick(kind, (("text", id),), prompt=prompt)
        return kept.Known(id=id, trick=trick.as_dict(), found_by="h", round=1, works=True, share=1.0, low=0.2, high=1.0, n=1, margin=1.0, share_when_found=1.0)  # fmt: skip

    this = kept.Round(round=1, found_by="h", cohorts=[], n_tried=50)
    hunt = kept.Hunt(tricks=[fact("a", "echo"), fact("b", "practice", "p")], rounds=[this], min_share=0.5, bar="median")  # fmt: skip
    said = findings(hunt, n_seen=3)
    assert said[0] == "Of 50 tried, 1 new trick works on prompts that no search has seen: 1 by echo."
    assert said[1].startswith(
        "1 of the highest paid answers of practice beats the fair ones to the prompt that"
    )
    assert said[2].startswith("3 of the prompts that measure stood in an earlier hunt")
    only = hunt.model_copy(update={"tricks": hunt.tricks[1:]})
    assert findings(only)[0].startswith("None of 50 new tricks works on prompts that no search has seen")


def test_rounds_on_one_chart_begin_where_each_was_found():
    one = kept.Round(round=1, found_by="a", cohorts=[kept.Cohort(round=1, found_by="a", n=5, working=5)], accuracy=0.8, low=0.7, high=0.9)  # fmt: skip
    two = kept.Round(
        round=2,
        found_by="b",
        cohorts=[
            kept.Cohort(round=1, found_by="a", n=5, working=1),
            kept.Cohort(round=2, found_by="b", n=3, working=3),
        ],
    )
    figure = rounds_figure([one, two], 9)
    lines = {trace["name"]: (trace["x"], trace["y"]) for trace in figure.content["data"]}
    assert lines["found in round 1"] == ([1, 2], [5, 1]) and lines["found in round 2"] == ([2], [3])
    assert lines["its reward model"] == ([1], [0.8])
    assert (
        figure.finding
        == "Round 1 found 5 (pairs 0.80); round 2 found 3 and 1 of 5 earlier ones still worked."
    )
