"""Rankings as pairs: read, split, counted, and a model's order of them beside people's."""

import pytest

from core_ml.errors import UserError
from core_ml.evaluation.statistics import clustered, paired_change, wilson
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
from core_ml.feedback.reward_report import beside_people, findings, outcomes
from tests.core_ml.models import (
    ranking,
    write_dataset,
)

SUM = "What is 1 + 2?"


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
