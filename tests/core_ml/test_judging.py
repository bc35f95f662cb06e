"""A judge's agreement and biases, by hand and against what was published of MT-bench."""

import gzip
import json
from collections import defaultdict
from pathlib import Path

import pytest

from core_ml.evaluation import judging


def test_a_verdict_that_turns_with_the_sides_is_a_tie() -> None:
    assert judging.settled("left", "right") == "left"
    assert judging.settled("left", "left") == "tie"
    assert judging.settled("bad", "bad") == "bad"
    assert judging.settled("tie", "right") == "tie"


def test_agreement_counts_ties_in_one_share_and_leaves_them_out_of_the_other() -> None:
    battles = [[("left", "left")], [("right", "left")], [("tie", "bad")], [("tie", "left"), ("tie", "right")]]
    found = judging.agreement(battles)
    assert found.with_ties is not None and found.decided is not None
    assert (found.with_ties.value, found.with_ties.n) == (2 / 5, 5)
    assert (found.decided.value, found.decided.n) == (1 / 2, 2)
    assert judging.agreement([]).decided is None


def test_place_bias_by_hand() -> None:
    """Twice the same answer; once whichever stood first; once second, leaning there with a tie."""
    verdicts = [("left", "right"), ("right", "left"), ("left", "left"), ("tie", "right")]
    found = judging.place_bias(verdicts)
    assert found is not None
    assert (found.consistent.value, found.first.value, found.second.value) == (0.5, 0.25, 0.25)
    assert judging.place_bias([]) is None


def test_longer_preferred_leaves_ties_and_like_lengths_out() -> None:
    votes = [("left", 9, 5), ("right", 9, 5), ("right", 1, 2), ("tie", 9, 5), ("left", 4, 4)]
    found = judging.longer_preferred(votes)
    assert found is not None and (found.value, found.n) == (2 / 3, 3)
    assert judging.longer_preferred([]) is None


def test_gpt_4_agrees_with_people_on_mt_bench_as_published(shared: Path) -> None:
    """Zheng et al. 2023, table 5: 85 % in the first turn where both named a winner, 66 % with ties."""
    folder = shared / "pref-mtbench"
    if not folder.is_dir():
        pytest.skip("the shared data has no pref-mtbench")

    def votes(name: str) -> dict[tuple[int, str, str], list[str]]:
        found = defaultdict(list)
        with gzip.open(folder / name, "rt") as lines:
            for line in lines:
                row = json.loads(line)
                if row["turn"] != 1:
                    continue
                pair = sorted((row["model_a"], row["model_b"]))
                sides = {row["model_a"]: "left", row["model_b"]: "right"} if pair[0] == row["model_a"] else {row["model_a"]: "right", row["model_b"]: "left"}  # fmt: skip
                winner = sides.get(row.get(row["winner"], ""), "tie")
                found[row["question_id"], pair[0], pair[1]].append(winner)
        return found

    judge, people = votes("gpt4-pair-votes.jsonl.gz"), votes("human-votes.jsonl.gz")
    pairs = [[(one, person) for one in judge[key][:1] for person in people[key]] for key in people]
    found = judging.agreement(pairs)
    assert found.decided is not None and found.with_ties is not None
    assert found.decided.value == pytest.approx(0.85, abs=0.015)
    assert found.with_ties.value == pytest.approx(0.66, abs=0.015)
