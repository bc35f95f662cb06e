"""Groups that a judge has seen: pairs, orders and measures, by hand."""

import pytest

from core_ml.feedback import judge_report
from core_ml.feedback.judged import Judged, distinct, pairs_of, row, said_of
from core_ml.feedback.sets.ranked import Ranked, Vote
from core_ml.feedback.verdicts import Heard, append, read

LONG, BRIEF = "a long answer", "short"
FIRST, SECOND = ("left", "right"), ("right", "left")
"""Verdicts by place that stay with the earlier, or with the later answer when the sides are swapped."""


def group(completions, votes=(), id="g", **metadata):
    cast = [Vote(f"person {n}", order) for n, order in enumerate(votes)]
    return Ranked(id, "a question", completions, cast, metadata)


def test_alike_answers_are_one_and_are_not_judged_against_each_other():
    same = group(["x", "y", "x", "z"])
    assert distinct(same) == {0: [0, 2], 1: [1], 3: [3]}
    assert pairs_of(same, None, 0) == [(0, 1), (0, 3), (1, 3)]
    assert pairs_of(group(["x", "x"]), None, 0) == []


def test_drawn_pairs_are_a_ring_through_all_answers_first():
    many = group([str(n) for n in range(7)])
    pairs = pairs_of(many, 7, seed=3)
    assert len(pairs) == len(set(pairs)) == 7 and all(i < j for i, j in pairs)
    assert sorted(index for pair in pairs for index in pair) == sorted(list(range(7)) * 2)
    assert pairs == pairs_of(many, 7, seed=3) != pairs_of(many, 7, seed=4)
    assert len(pairs_of(many, 1000, 0)) == 21
    assert len(set(pairs_of(many, 20, 0))) == 20


def test_an_order_follows_wins_less_losses_and_a_verdict_that_turns_is_a_tie():
    judged = Judged(group(["p", "q", "r"]), {(0, 1): FIRST, (0, 2): ("left", "left"), (1, 2): SECOND})
    assert judged.outcomes() == {(0, 1): "left", (0, 2): "tie", (1, 2): "right"}
    assert judged.order() == [[0, 2], [1]]


def test_a_circle_of_verdicts_is_a_tie_of_all():
    judged = Judged(group(["p", "q", "r"]), {(0, 1): FIRST, (1, 2): FIRST, (0, 2): SECOND})
    assert judged.order() == [[0, 1, 2]]


def test_a_chain_of_drawn_pairs_orders_answers_that_never_met():
    judged = Judged(group(["p", "q", "r"]), {(0, 1): SECOND, (1, 2): SECOND})
    assert judged.order() == [[2], [1], [0]]


def test_alike_answers_share_a_place_and_unjudged_ones_are_left_out():
    judged = Judged(group(["x", "y", "x", "z"]), {(0, 1): SECOND})
    assert judged.order() == [[1], [0, 2]]


def test_a_row_keeps_the_sources_metadata_and_is_marked():
    found = row(Judged(group(["p", "q"], battle=7), {(0, 1): FIRST}, 2.0), "judge:m", {"model": "m"})
    assert (found["labeler"], found["simulated"], found["order"], found["seconds"]) == (
        "judge:m",
        True,
        [[0], [1]],
        2,
    )
    assert found["metadata"] == {"battle": 7, "judge": {"model": "m", "verdicts": [[0, 1, "left", "right"]]}}


def test_a_persons_order_says_which_of_two_they_prefer():
    assert said_of(Vote("p", [[2], [0, 1]]), (0, 2)) == "right"
    assert said_of(Vote("p", [[2], [0, 1]]), (0, 1)) == "tie"
    assert said_of(Vote("p", [[0, 1]], all_bad=True), (0, 1)) == "bad"
    assert said_of(Vote("p", [[1]]), (0, 1)) is None


@pytest.fixture
def by_length():
    """A judge that prefers the longer answer wherever it stands, beside people of whom some do."""
    first, second, tie = [[0], [1]], [[1], [0]], [[0, 1]]
    return [
        Judged(group([LONG, BRIEF], [first, first], "g1", task="add"), {(0, 1): FIRST}),
        Judged(group([BRIEF, LONG], [first, second], "g2", task="add"), {(0, 1): SECOND}),
        Judged(group([LONG, BRIEF], [tie, first], "g3", task="spell"), {(0, 1): FIRST}),
        Judged(group([BRIEF, LONG], [first], "g4", task="spell"), {(0, 1): SECOND}),
    ]


def test_agreement_with_people_and_among_them_by_hand(by_length):
    found = judge_report.measured(by_length)
    # Votes that name a winner: 1 1 | 0 1 | 1 | 0; one more is a tie, with which the judge disagrees.
    assert (found.agreement.decided.value, found.agreement.decided.n) == (4 / 6, 6)
    assert (found.agreement.with_ties.value, found.agreement.with_ties.n) == (4 / 7, 7)
    # The last group has one vote only; of the third group's two, one is a tie.
    assert (found.shared.decided.value, found.shared.decided.n) == (4 / 5, 5)
    assert (found.people.decided.value, found.people.decided.n) == (1 / 2, 2)
    assert (found.people.with_ties.value, found.people.with_ties.n) == (1 / 3, 3)
    assert found.agreement.decided.low < 4 / 6 < found.agreement.decided.high


def test_biases_by_hand(by_length):
    found = judge_report.measured(by_length)
    assert found.place.consistent.value == 1 and found.place.first.value == 0
    assert (found.longer.value, found.longer.n) == (1, 4)
    assert (found.people_longer.value, found.people_longer.n) == (4 / 6, 6)
    assert found.longer_wins.value == 4 / 6
    assert (found.ties.value, found.people_ties.value) == (0, 1 / 7)
    assert (found.source, [(name, share.value) for name, share in found.by_source]) == (
        "task",
        [("add", 3 / 4), ("spell", 1 / 2)],
    )


def _many(verdicts, votes=((0, 1),), n=100):
    return [
        Judged(group([LONG, BRIEF], [[[a], [b]] for a, b in votes], str(k)), {(0, 1): verdicts(k)})
        for k in range(n)
    ]


def test_a_judge_that_leans_to_a_place_is_told_so_in_a_sentence():
    found = judge_report.measured(_many(lambda k: ("left", "left") if k % 3 == 0 else FIRST, n=99))
    assert found.place.first.value == found.ties.value == pytest.approx(1 / 3)
    said = judge_report.findings(found)[0]
    assert said.startswith("It prefers whichever answer stands first in 33% of battles")
    assert said.endswith("do not trust it.")
    few = judge_report.findings(judge_report.measured(_many(lambda k: ("left", "left") if k else FIRST, n=2)))
    assert few[0].endswith("2 battles are too few to say more.")


def test_a_judge_that_turns_as_often_as_a_coin_is_told_so():
    sides = [FIRST, SECOND, ("left", "left"), ("right", "right")]
    said = judge_report.findings(judge_report.measured(_many(lambda k: sides[k % 4])))
    assert said[0].startswith("Its verdict turns with the sides in 50% of battles, as a coin's would")
    rarely = judge_report.findings(
        judge_report.measured(_many(lambda k: sides[2 + k % 2] if k < 10 else FIRST))
    )
    assert rarely[0].endswith("and judges 90% alike in both orders.")


def test_a_judge_as_good_as_people_and_one_that_only_counts_letters_are_told_apart():
    brief = [(0, 1), (0, 1)]
    good = [
        Judged(group([BRIEF, LONG] if k % 2 else [LONG, BRIEF], [[[0], [1]]] * 2, str(k)), {(0, 1): FIRST})
        for k in range(100)
    ]
    said = " ".join(judge_report.findings(judge_report.measured(good)))
    assert 'the rule "longer wins" reaches 50%' in said and "as far as people do" in said
    said = " ".join(judge_report.findings(judge_report.measured(_many(lambda k: FIRST, brief))))
    assert 'not measurably better than the rule "longer wins"' in said


def test_figures_carry_every_share_and_say_what_they_show(by_length):
    events = {event.name: event for event in judge_report.figures(judge_report.measured(by_length), 4)}
    assert list(events) == ["judge", "judge_agreement", "judge_biases", "judge_by_source"]
    assert all(event.finding for event in events.values())
    table = {row[0]: row[1:] for row in events["judge"].content["rows"]}
    assert table["the judge, with people"][0] == 0.667 and table["the judge, with people"][3] == 6


def test_what_was_heard_outlives_a_kill_and_a_torn_line_was_never_written(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    assert read(path) == {}
    with path.open("a") as file:
        append(file, Heard(3, ["left", None], ["A", "hm"], seconds=1.5))
        append(file, Heard(1, ["tie", "tie"], logprobs=[[0.0], [-1.0]]))
        file.write('{"battle": 2, "verd')
    assert read(path) == {
        3: Heard(3, ["left", None], ["A", "hm"], seconds=1.5),
        1: Heard(1, ["tie", "tie"], logprobs=[[0.0], [-1.0]]),
    }
    with path.open("a") as file:
        append(file, Heard(2, ["left", "right"]))
    assert sorted(read(path)) == [1, 2, 3] and not read(path)[3].readable
