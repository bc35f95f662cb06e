"""Rankings, pairs, and the reward model."""

import math
import random

import pytest
import torch

from core_ml.errors import UserError
from core_ml.evaluation.statistics import clustered, paired_change, wilson
from core_ml.events import Figure, Metric, Resumed, Summary
from core_ml.feedback.pairs import (
    Group,
    Ranking,
    agrees_with_two,
    first_difference,
    folds,
    labelers_agree,
    length_wins,
    like_length,
    read_rankings,
    split,
)
from core_ml.feedback.reward_loss import bradley_terry
from core_ml.feedback.reward_model import RewardModel
from core_ml.feedback.reward_report import beside_people, findings, outcomes
from core_ml.feedback.reward_training import Trainer
from core_ml.recipes.reward import RewardConfig, run
from tests.core_ml.models import (
    ranking,
    small_model,
    small_tokenizer,
    workspace,
    write_checkpoint,
    write_dataset,
)

SUM = "What is 1 + 2?"


def test_bradley_terry_of_known_rewards_is_what_the_logistic_function_says():
    rewards = torch.tensor([2.0, 0.0, -1.0])
    # -log sigmoid(d) = log(1 + e^-d): differences 2, 3 and 1 of the pairs below.
    by_hand = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-3)) + math.log(1 + math.exp(-1))) / 3
    assert bradley_terry(rewards, [(0, 1), (0, 2), (1, 2)]).item() == pytest.approx(by_hand, rel=1e-6)
    assert bradley_terry(rewards, [(1, 0)]).item() == pytest.approx(math.log(1 + math.exp(2)), rel=1e-6)
    assert bradley_terry(torch.zeros(2), [(0, 1)]).item() == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="at least one pair"):
        bradley_terry(rewards, [])


def test_a_ranking_makes_all_pairs_but_those_that_are_tied():
    assert Ranking("ada", False, ((2,), (0, 3), (1,))).pairs() == [(2, 0), (2, 3), (2, 1), (0, 1), (3, 1)]
    assert Ranking("ada", False, ((0, 1, 2),)).pairs() == []
    assert Ranking("ada", False, ((0, 1),), all_bad=True).pairs() == []
    assert Ranking("ada", False, ((1,), (0,)), all_bad=True).pairs() == [(1, 0)]


def test_rankings_of_several_labelers_are_gathered_by_group_and_damaged_ones_counted(tmp_path):
    answers = ["3", "The sum is 3.", "no"]
    rows = [
        ranking("g1", SUM, answers, [[1], [0], [2]]),
        ranking("g1", SUM, answers, [[1], [0, 2]], labeler="bot", simulated=True),
        ranking("g2", "Who are you?", answers, [[0], [1]], labeler="eve"),
        ranking("g2", "Who are you?", answers, [[0], [7]]),  # no such answer
        ranking("g1", SUM, answers, [[0], [0]]),  # twice the same
        ranking("g1", "Another prompt", answers, [[0], [1]]),  # not this group's prompt
        ranking("g3", SUM, answers, [[0, 1, 2]], all_bad=True),
    ]
    rankings = read_rankings(write_dataset(tmp_path, "rankings", rows))
    assert [len(group.rankings) for group in rankings.groups] == [2, 1, 1]
    counts = rankings.counts()
    assert (counts["n_rankings"], counts["n_rankings_people"], counts["n_rankings_simulated"]) == (4, 3, 1)
    assert (counts["n_people"], counts["n_damaged"], counts["n_all_bad"]) == (2, 3, 1)
    # 3 pairs of ada, 2 of the bot, 1 of eve, none of the tie.
    assert counts["n_pairs"] == 6


def test_a_ranking_weighs_what_its_row_says_and_one_by_default(tmp_path):
    answers = ["3", "no"]
    weights = [0.4, 2, "much", float("nan"), -1.0, True]
    rows = [ranking(f"g{i}", SUM, answers, [[0], [1]], metadata={"weight": w}) for i, w in enumerate(weights)]
    rows += [ranking(f"h{i}", SUM, answers, [[0], [1]]) for i in range(3)]
    rankings = read_rankings(write_dataset(tmp_path, "rankings", rows))
    assert [group.rankings[0].weight for group in rankings.groups] == [0.4, 2.0, 1.0, 1.0, 1.0]
    assert (rankings.counts()["n_weighted"], rankings.n_damaged) == (2, 4)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ranking("g", SUM, ["a", "b"], [[5]])] * 3, "3 of 3 rankings"),
        ([ranking("g", SUM, ["a", "b"], [[0, 1]])], "prefers one answer to another"),
        ([], "has no rows"),
    ],
)
def test_rankings_that_teach_nothing_are_refused_with_the_mend(tmp_path, rows, message):
    with pytest.raises(UserError, match=message) as refused:
        read_rankings(write_dataset(tmp_path, "rankings", rows))
    assert refused.value.field == "rankings"


def test_no_prompt_stands_on_both_sides_of_the_split():
    groups = [Group(str(i), f"prompt {i // 3}", ("a", "b")) for i in range(60)]
    train, held_out = split(groups, 0.25, seed=1)
    assert not {g.prompt for g in train} & {g.prompt for g in held_out}
    assert len({g.prompt for g in held_out}) == 5  # a quarter of 20 prompts
    # A prompt stays where it is while others come and go.
    more = [*groups, Group("x", "another", ("a", "b"))]
    moved = {g.prompt for g in split(more, 0.25, seed=1)[1]} ^ {g.prompt for g in held_out}
    assert len(moved) <= 1
    with pytest.raises(UserError, match="rank more groups"):
        split(groups[:3], 0.25, seed=1)


def test_each_prompt_is_held_out_by_one_fold():
    groups = [Group(str(i), f"prompt {i // 3}", ("a", "b")) for i in range(60)]
    parts = folds(groups, 4, seed=1)
    assert sorted(i for _, held_out in parts for i in held_out) == list(range(60))
    for train, held_out in parts:
        assert sorted(train + held_out) == list(range(60)) and len(held_out) == 15
        assert not {groups[i].prompt for i in train} & {groups[i].prompt for i in held_out}


def test_the_rules_without_learning_and_the_criteria_are_those_of_a_ruler():
    assert length_wins("long answer", "short", 1) == 1
    assert length_wins("long answer", "short", -1) == 0
    assert length_wins("same", "same", 1) == 0.5
    assert like_length("x" * 10, "x" * 9)
    assert not like_length("x" * 10, "x" * 8)
    assert first_difference(SUM, "The sum is 3.", "The sum is 4.") == "correct"
    assert first_difference(SUM, "The sum is 3.", "3") == "complete"
    assert first_difference(SUM, "The sum is 3.", "The sum is 3. I hope that helps.") == "short"
    assert first_difference("Write a poem.", "a", "b") is None


def test_held_out_pairs_are_counted_by_criterion_beside_the_rules():
    group = Group(
        "g", SUM, ("The sum is 3.", "The sum is 4.", "3"), [Ranking("a", False, ((0,), (2,), (1,)))]
    )
    # Pairs: 0>2 differs in complete, 0>1 in correct, 2>1 in correct; the rewards get 2>1 wrong.
    found = outcomes([group], [[2.0, 1.0, 0.0]])
    assert found["all"] == [[1.0, 1.0, 0.0]]
    assert found["complete"] == [[1.0]]
    assert found["correct"] == [[1.0, 0.0]]
    # Lengths 13, 13 and 1: "longer wins" gets 0>2, a half of 0>1 and not 2>1.
    assert found["longer wins"] == [[1.0, 0.5, 0.0]]
    assert found["shorter wins"] == [[0.0, 0.5, 1.0]]
    assert found["like length"] == [[1.0]]


def test_groups_of_one_prompt_are_one_piece_of_evidence():
    first = [Ranking("a", False, ((0,), (1,)))]
    groups = [Group(str(i), f"prompt {i // 5}", ("a", "bb"), first) for i in range(10)]
    # The model is right on all groups of one prompt and wrong on all of the other: anything from 0 to 1 may be so.
    found = outcomes(groups, [[2.0, 1.0]] * 5 + [[1.0, 2.0]] * 5)
    assert found["all"] == [[1.0] * 5, [0.0] * 5]
    share = clustered(found["all"])
    assert (share.value, share.low, share.high, share.n) == (0.5, 0.0, 1.0, 10)


def test_a_model_stands_beside_two_labelers_on_the_pairs_that_both_ordered():
    rankings = [Ranking("a", False, ((0,), (1,), (2,))), Ranking("b", False, ((1,), (0,), (2,)))]
    alone = Group("h", "Who are you?", ("a", "b"), [Ranking("a", False, ((0,), (1,)))])
    groups, rewards = [Group("g", SUM, ("a", "b", "c"), rankings), alone], [[3, 2, 1], [1, 2]]
    # The labelers dispute 0 and 1, so that any model is with one of them; on the other two all three agree.
    assert agrees_with_two(groups, rewards) == [[0.5, 1.0, 1.0], []]
    found = outcomes(groups, rewards)
    assert (found["two labelers"], found["labelers"]) == ([[0.5, 1.0, 1.0], []], [[0.0, 1.0, 1.0], []])
    counts = {"n_rankings_simulated": 0, "n_damaged": 0, "n_rankings": 9, "n_rankings_people": 9}
    shares = {name: clustered(hits) for name, hits in found.items() if clustered(hits)}
    said = " ".join(findings(shares, counts, beside_people(groups, rewards)))
    # Agreement 2 of 3, the model 2.5 of 3; one prompt proves nothing of others.
    assert "cannot be told yet. The difference is +17 points (-100 to +100)" in said
    del shares["labelers"]
    assert any("ordered by two people, so nothing says" in sentence for sentence in findings(shares, counts))


def two_people(n, disputed, wrong):
    """Groups of two answers and their scores: people dispute the first, a model is wrong about the last."""
    groups, rewards = [], []
    for i in range(n):
        orders = ((0,), (1,)), ((1,), (0,)) if i < disputed else ((0,), (1,))
        told = [Ranking(name, False, order) for name, order in zip("ab", orders, strict=True)]
        groups.append(Group(str(i), f"p{i}", ("x", "y"), told))
        rewards.append([0, 1] if i >= n - wrong else [1, 0])
    return groups, rewards


def test_a_model_passes_for_a_labeler_only_where_the_margin_is_proved():
    # All alike: of n prompts 3/n may be otherwise, unseen; 59 leave more than the margin open, and 61 do not.
    assert beside_people(*two_people(59, 0, 0)).verdict == "unknown"
    assert beside_people(*two_people(59, 0, 0)).needed == 60
    assert beside_people(*two_people(61, 0, 0)).verdict == "as good"
    worse = beside_people(*two_people(100, 0, 20))
    assert (worse.verdict, worse.difference.value, worse.needed) == ("worse", -0.2, 100)
    # Where people dispute a pair any order agrees with one of them: half a comparison more than they have.
    better = beside_people(*two_people(100, 40, 0))
    assert (better.verdict, better.difference.value) == ("as good", 0.2)
    # 1 of 20 wrong: 5 points below. To be surely below, the interval, ±1.96 · sqrt(0.05 · 0.95 / 20) = ±9.6 points, must
    # narrow to 5, and 3/n as well: 20 · 3.65 = 73 and 60 prompts.
    close = beside_people(*two_people(20, 0, 1))
    assert (close.verdict, close.difference.value) == ("unknown", -0.05)
    assert 60 <= close.needed <= 80
    assert beside_people([Group("g", "p", ("x", "y"), [])], [[0, 1]]) is None


def test_programs_that_rank_are_no_people():
    """Lea and Lou dispute the one pair; two judges that share Lea's view would make the agreement 3 of 6."""
    votes = [
        ("lea", False, 0),
        ("lou", False, 1),
        ("judge", True, 0),
        ("other judge", True, 0),
        ("lea", False, 0),
    ]
    group = Group(
        "g", "p", ("x", "y"), [Ranking(who, sim, ((best,), (1 - best,))) for who, sim, best in votes]
    )
    # Lea's second ranking stands against Lou's and not against her own.
    assert labelers_agree([group]) == [[0.0, 0.0]]
    assert labelers_agree([group], simulated=True) == [[1.0]]
    assert agrees_with_two([group], [[1, 0]]) == [[0.5, 0.5]]
    found = outcomes([group], [[1, 0]])
    shares = {name: share for name, hits in found.items() if (share := clustered(hits))}
    counts = {"n_rankings_simulated": 2, "n_damaged": 0, "n_rankings": 5, "n_rankings_people": 3}
    said = " ".join(findings(shares, counts, beside_people([group], [[1, 0]])))
    assert "On 2 comparisons of two people, they agree with each other on 0%" in said
    assert "Programs agree with each other on 100% (0% to 100%) of 1 comparisons" in said


def test_rankings_by_programs_alone_are_said_to_tell_nothing_of_people():
    group = Group("g", "p", ("x", "y"), [Ranking(name, True, ((0,), (1,))) for name in "ab"])
    shares = {name: share for name, hits in outcomes([group], [[1, 0]]).items() if (share := clustered(hits))}
    assert "labelers" not in shares and beside_people([group], [[1, 0]]) is None
    counts = {"n_rankings_simulated": 2, "n_damaged": 0, "n_rankings": 2, "n_rankings_people": 0}
    said = " ".join(findings(shares, counts))
    assert "Only programs ranked here, no person" in said and "ask for two rankings" not in said


def test_labelers_are_compared_on_the_pairs_that_both_order():
    rankings = [Ranking("a", False, ((0,), (1,), (2,))), Ranking("b", False, ((1,), (0,), (2,)))]
    # 0>1 against 1>0 is a dispute; 0>2 and 1>2 are agreed.
    assert labelers_agree([Group("g", SUM, ("a", "b", "c"), rankings)]) == [[0.0, 1.0, 1.0]]
    assert labelers_agree([Group("g", SUM, ("a", "b", "c"), rankings[:1])]) == [[]]
    # Of the three answers the last is twice as long as either other: only the dispute is of like length.
    assert labelers_agree([Group("g", SUM, ("a", "b", "cc"), rankings)], like=True) == [[0.0]]


def test_intervals_are_those_of_the_textbook():
    # Wilson for 8 of 10, worked out by hand: centre 0.7169, half 0.2267.
    share = wilson(8, 10)
    assert (share.low, share.high) == (pytest.approx(0.4902, abs=2e-4), pytest.approx(0.9433, abs=2e-4))
    assert (wilson(0, 10).low, wilson(10, 10).high) == (0.0, 1.0)
    same = clustered([[1.0, 1.0], [1.0]])
    assert (same.value, same.low, same.high, same.n) == (1.0, 1.0, 1.0, 3)
    assert clustered([[], []]) is None
    # One prompt says nothing of others, however many pairs it has; nor does a difference there say who is better.
    alone, change = clustered([[1.0, 0.0, 0.0]]), clustered([[1.0, -1.0, 1.0]])
    assert (alone.low, alone.high, alone.n) == (0, 1, 3) and (change.low, change.high) == (-1, 1)
    # Whole clusters agree within themselves, so ten pairs of two prompts say no more than two.
    wide = clustered([[1.0] * 5, [0.0] * 5])
    assert (wide.low, wide.high) == (0.0, 1.0)
    # Differences 1, 0, 0, 1: mean a half, standard deviation 0.5774, half width 1.96 * 0.5774 / 2.
    change = paired_change([0, 0, 1, 0], [1, 0, 1, 1])
    assert change.value == 0.5
    assert change.high - change.value == pytest.approx(1.959964 * 0.57735 / 2, rel=1e-4)


def test_a_reward_model_that_learned_only_length_is_told_so():
    counts = {"n_rankings_simulated": 0, "n_damaged": 0, "n_rankings": 9, "n_rankings_people": 9}
    shares = {"all": wilson(70, 100), "longer wins": wilson(72, 100), "shorter wins": wilson(28, 100)}
    said = " ".join(findings(shares, counts))
    assert "not measurably better than the rule" in said and "No held-out pair is of like length" in said
    shares["like length"] = wilson(22, 40)  # 0.40 to 0.69
    assert any(
        sentence.startswith("It has learned nothing but length") for sentence in findings(shares, counts)
    )
    shares["like length"] = wilson(32, 40)  # 0.65 to 0.90
    said = " ".join(findings(shares, counts))
    assert "learned more than length" in said and "nothing but length" not in said
    shares["all"] = wilson(52, 100)
    assert any("not measurably better than chance" in sentence for sentence in findings(shares, counts))


def groups_to_learn() -> list[dict]:
    """Thirty prompts; labelers want the whole sentence, then the bare answer, then the wrong one."""
    rows = []
    for i in range(30):
        answers = [f"{i + 1}", f"The sum is {i + 1}.", f"The sum is {i + 2}. I hope that helps."]
        rows.append(ranking(f"g{i}", f"What is {i} + 1?", answers, [[1], [0], [2]], simulated=i % 2 == 0))
    return rows


def test_it_learns_one_batch_by_heart():
    tokenizer = small_tokenizer()
    model = small_model(tokenizer.vocab_size).with_value_head()
    group = Group("g", SUM, ("3", "The sum is 3.", "no"), [Ranking("a", False, ((1,), (0,), (2,)))])
    trainer = Trainer(tokenizer, [group], model.config.max_seq_len)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    first, _ = trainer.loss(model, [0])
    assert first.item() == pytest.approx(math.log(2), abs=1e-6)  # a new value head scores everything 0
    for _ in range(60):
        loss, accuracy = trainer.loss(model, [0])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.02
    assert accuracy == 1.0


def test_scores_do_not_depend_on_what_else_is_scored():
    tokenizer = small_tokenizer()
    model = small_model(tokenizer.vocab_size, value_head=True)
    reward = RewardModel(model, tokenizer, mean=1.0, std=2.0)
    texts = ["3", "The sum is 3.", "3", "It is called lom. I hope that helps."]
    together = reward.score([SUM] * 4, texts)
    assert together[0] == together[2]
    alone = [reward.score([SUM], [text])[0] for text in texts]
    # bfloat16 rounds padded and unpadded products alike to about three digits.
    assert together == pytest.approx(alone, abs=0.02)
    raw = RewardModel(model, tokenizer).score([SUM] * 4, texts)
    assert together == pytest.approx([(value - 1) / 2 for value in raw], abs=1e-6)


SMALL = RewardConfig(epochs=6, lr=3e-3, tokens_per_step=600, eval_every=5, held_out_share=0.3, threads=1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    path = tmp_path_factory.mktemp("reward")
    return {
        "checkpoint": write_checkpoint(path, "chat"),
        "rankings": write_dataset(path, "rankings", groups_to_learn()),
    }


MEASURED = {"memory_gb", "tokens_per_second", "joules_per_token"}


def curve(events):
    return [
        (event.step, {name: value for name, value in event.values.items() if name not in MEASURED})
        for event in events
        if isinstance(event, Metric)
    ]


def test_it_orders_pairs_of_prompts_it_never_saw_and_says_how_sure_it_is(tmp_path, inputs):
    events = list(run(SMALL, workspace(tmp_path, inputs)))
    assert events[0] == Resumed(-1)
    summary = [event for event in events if isinstance(event, Summary)][-1].values
    assert summary["val_accuracy"] > 0.85
    assert summary["val_accuracy_low"] <= summary["val_accuracy"] <= summary["val_accuracy_high"]
    assert summary["n_held_out_prompts"] == 9
    assert (summary["n_rankings_simulated"], summary["n_rankings_people"]) == (15, 15)
    assert {"held_out_pairs", "held_out_accuracy"} <= {e.name for e in events if isinstance(e, Figure)}
    from core_ml import artifact

    folder = artifact.Folder(tmp_path / "out" / "checkpoint")
    assert folder.manifest.role == "reward"
    reward = RewardModel.load(folder)
    better, worse = reward.score(
        ["What is 3 + 1?"] * 2, ["The sum is 4.", "The sum is 5. I hope that helps."]
    )
    assert better > worse


def test_a_run_on_rankings_by_length_says_that_it_learned_nothing_else(tmp_path, inputs):
    rng, rows = random.Random(0), []
    for i in range(40):
        short, *long = ("".join(rng.choices("abcdefgh ", k=k)) for k in (4, 30, 30))
        order = [[1], [2], [0]] if rng.random() < 0.5 else [[2], [1], [0]]  # of two long ones either
        rows.append(ranking(f"g{i}", f"prompt {i}", [short, *long], order))
    rankings = write_dataset(tmp_path / "by length", "rankings", rows)
    events = list(run(SMALL, workspace(tmp_path, inputs | {"rankings": rankings})))
    found = [event for event in events if isinstance(event, Summary)][-1].values
    # Of three pairs the rule has two, and half of the third.
    assert found["val_accuracy_longer_wins"] == pytest.approx(5 / 6, abs=1e-3)
    assert found["val_accuracy"] > 0.7
    assert any(
        said.startswith("It has learned nothing but length: of 12 pairs") for said in found["findings"]
    )


def test_the_same_seed_gives_the_same_losses_and_a_stopped_run_goes_on_to_the_bit(tmp_path, inputs):
    whole = curve(run(SMALL, workspace(tmp_path / "whole", inputs)))
    again = curve(run(SMALL, workspace(tmp_path / "again", inputs)))
    assert whole == again
    stopped = []
    for stop_at in (3, 7, 9):
        events = run(SMALL, workspace(tmp_path / "stopped", inputs))
        for event in events:
            stopped.append(event)
            if isinstance(event, Metric) and event.step >= stop_at:
                break
        events.close()
    stopped += list(run(SMALL, workspace(tmp_path / "stopped", inputs)))
    assert curve(stopped) == whole
    sums = [
        {file.path: file.sha256 for file in _folder(tmp_path / name).manifest.files}
        for name in ("whole", "stopped")
    ]
    assert sums[0] == sums[1]


def _folder(path):
    from core_ml import artifact

    return artifact.Folder(path / "out" / "checkpoint")
