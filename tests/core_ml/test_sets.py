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
