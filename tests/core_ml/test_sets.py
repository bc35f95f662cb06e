"""Preference sets of others, read into rankings: the real ones, whose agreement is worked out anew here."""

import gzip
import json
from itertools import combinations

import krippendorff
import numpy as np
import pytest

from core_ml.evaluation.judge_prompt import reference_of
from core_ml.feedback.sets import exporting, known, measured, openassistant, stored
from core_ml.feedback.sets.ranked import Bad, Source, rankings


def source(path):
    def rows():
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield number, json.loads(line)

    return Source(path.name, rows)


def imported(folder, tmp_path):
    """The set in a folder as a Parquet file of rankings; every row of it is good."""
    found = []
    for path in sorted(folder.glob("*.jsonl*")):
        part = known.part_of(next(source(path).rows())[1])
        found += [(*part, source(path))] if part else []
    one, parts = known.whole(found)
    read = list(one.read(parts))
    assert not [entry for entry in read if isinstance(entry, Bad)]
    rows = (row | {"metadata": json.dumps(row["metadata"])} for _, ranked in read for row in rankings(ranked))
    exporting.write_parquet(rows, tmp_path / "rankings.parquet")
    return one.name, tmp_path / "rankings.parquet"


def folder_of(shared, name):
    """Each folder of the shared data may be left out alone, for its licence."""
    if not (shared / name).is_dir():
        pytest.skip(f"the shared data has no {name}")
    return shared / name


def held(found, ratings, pairs):
    """A measured agreement against the package on (labelers, pairs) ratings and against plain counts."""
    for key, level in (("alpha", "ordinal"), ("alpha_nominal", "nominal")):
        theirs = krippendorff.alpha(reliability_data=ratings, level_of_measurement=level)
        assert found[key]["value"] == pytest.approx(theirs)
    alike = [a == b for given in pairs for a, b in combinations(given, 2)]
    assert (found["pairs"], found["agreement"]["value"]) == (len(alike), pytest.approx(np.mean(alike)))


def test_agreement_of_pandalms_three_annotators(shared, tmp_path):
    name, path = imported(shared / "pref-pandalm", tmp_path)
    found = measured.measured([path])
    place = {1: -1, 0: 0, 2: 1}
    raw = [row for _, row in source(shared / "pref-pandalm" / "pairs.jsonl.gz").rows()]
    pairs = [[place[row[f"annotator{i}"]] for i in (1, 2, 3)] for row in raw]
    assert (name, found["labelers"], found["groups"]) == ("PandaLM", 3, len(raw))
    held(found["agreement"], np.array(pairs, dtype=float).T, pairs)


def test_agreement_of_llmfaos_crowd(shared, tmp_path):
    name, path = imported(shared / "pref-llmfao", tmp_path)
    found = measured.measured([path])
    place = {"left": -1, "tie": 0, "right": 1}
    raw = [row for _, row in source(shared / "pref-llmfao" / "crowd-comparisons.jsonl.gz").rows()]
    workers, ids = ({row[key]: None for row in raw} for key in ("worker", "id"))
    ratings = np.full((len(workers), len(ids)), np.nan)
    for row in raw:
        ratings[list(workers).index(row["worker"]), list(ids).index(row["id"])] = place[row["winner"]]
    assert (name, found["labelers"]) == ("LLMFAO", 124)
    held(found["agreement"], ratings, [column[~np.isnan(column)].tolist() for column in ratings.T])


def test_auto_js_labels_come_as_one_order_a_pair(shared, tmp_path):
    name, path = imported(folder_of(shared, "pref-autoj"), tmp_path)
    raw = [row for _, row in source(shared / "pref-autoj" / "pairs.jsonl.gz").rows()]
    found = {int(row["group_id"]): row for row in exporting.stored_rows([path])}
    assert name == "Auto-J" and len(found) == len(raw) == 1103
    order = {0: [[0], [1]], 1: [[1], [0]], 2: [[0, 1]]}
    for number, row in enumerate(raw, 1):
        own = found[number]
        assert own["order"] == order[row["label"]] and own["prompt"] == row["prompt"]
        assert own["completions"] == [row["response 1"], row["response 2"]]
        assert json.loads(own["metadata"])["scenario"] == row["scenario"] and not own["simulated"]
    told = measured.measured([path])
    # One label each: nobody is compared with anybody.
    assert (told["groups"], told["labelers"], told["agreement"]["pairs"]) == (1103, 1, 0)
    assert told["pairs"] == sum(row["label"] != 2 for row in raw)


def test_alpacaevals_judges_agree_as_counted_by_hand(shared, tmp_path):
    folder = folder_of(shared, "pref-alpacaeval")
    name, path = imported(folder, tmp_path)
    raw = [row for _, row in source(folder / "judgements.jsonl.gz").rows()]
    by_pair = {}
    for row in raw:
        value = row["preference"]
        verdict = 0 if value in (0, 1.5) else -1 if value < 1.5 else 1
        key = row["instruction_id"], row["model_1"], row["model_2"]
        by_pair.setdefault(key, {}).setdefault(
            row["judge"], verdict
        )  # a judge's second word counts for nothing
    found = measured.measured([path])
    assert (name, found["rankings"], found["groups"]) == ("AlpacaEval", len(raw), len(by_pair))
    assert (found["labelers"], found["simulated"], found["agreement"]["among"]) == (0, len(raw), "programs")
    judges = sorted({row["judge"] for row in raw})
    ratings = np.full((len(judges), len(by_pair)), np.nan)
    for column, given in enumerate(by_pair.values()):
        for judge, verdict in given.items():
            ratings[judges.index(judge), column] = verdict
    held(found["agreement"], ratings, [list(given.values()) for given in by_pair.values()])


def test_the_right_answers_of_mt_bench_come_along_for_a_judge(shared, tmp_path):
    _, path = imported(shared / "pref-mtbench", tmp_path)
    right = {
        row["question_id"]: row["reference"]
        for _, row in source(shared / "pref-mtbench" / "questions.jsonl").rows()
        if row.get("reference")
    }
    groups = list(stored.groups([path]))
    told = {
        int(group.group_id.split("-")[0]): group.metadata["reference"]
        for group in groups
        if "reference" in group.metadata
    }
    assert told == right and len(right) > 20
    for group in groups:
        turns = group.metadata.get("reference")
        assert reference_of(group.metadata) == ((turns and turns[0]) or None)


def test_trees_come_back_from_their_own_form_with_the_same_groups_and_orders(shared, tmp_path):
    _, path = imported(shared / "pref-oasst-trees", tmp_path)
    before = {group.group_id: group for group in stored.groups([path])}
    trees = [json.loads(line) for line in exporting.lines([path], "openassistant")]
    after = [group for i, tree in enumerate(trees) for group in openassistant.read(tree, i)]
    assert len(after) == len(before) > 100
    for group in after:
        was = before[group.group_id]
        assert group.prompt == was.prompt
        order = [sorted(group.completions[i] for i in tied) for tied in group.votes[0].order]
        assert order == [sorted(was.completions[i] for i in tied) for tied in was.votes[0].order]
