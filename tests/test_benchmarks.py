"""Benchmarks in their quick form: both sides give the same results, and the last line says what was measured."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FIELDS = {"benchmark", "metric", "unit", "ours", "peer", "peer_name", "ratio", "goal", "met"}


@pytest.mark.parametrize("name", ["tokenizer", "engine", "sampling", "training", "rl", "gaming"])
def test_a_benchmark_agrees_with_its_peers_and_ends_with_one_line_of_json(name: str) -> None:
    command = [sys.executable, f"benchmarks/{name}.py", "--quick"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found and all(set(one) >= FIELDS and one["benchmark"] == name for one in found)
    assert all(one["ours"] > 0 and one["peer"] > 0 for one in found)


def test_packed_rows_are_learned_alike_compiled_and_plain() -> None:
    command = [sys.executable, "benchmarks/training.py", "--quick", "--packed"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    (found,) = json.loads(ended.stdout.splitlines()[-1])
    assert found["ours"] > 0 and found["plain"] > 0


def test_of_many_labelers_rankings_none_is_lost_and_none_doubled() -> None:
    command = [sys.executable, "benchmarks/labeling.py", "--quick"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert len(found) == 2 and all(set(one) >= FIELDS and one["benchmark"] == "labeling" for one in found)
    assert all(one["ours"] > 0 for one in found) and "gold groups and" in ended.stdout


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ([(1, [[0], [1]])], "1 of 2 rankings lost: groups [2]"),
        ([(1, [[0], [1]]), (2, [[1], [0]]), (2, [[1], [0]])], "1 of 2 rankings doubled: groups [2]"),
        ([(1, [[0], [1]]), (2, [[0], [1]])], "1 of 2 rankings changed: groups [2]"),
    ],
)
def test_a_ranking_lost_doubled_or_changed_ends_the_benchmark_in_failure(stored: list, said: str) -> None:
    labeling = runpy.run_path(str(ROOT / "benchmarks" / "labeling.py"))
    handed = {1: [[0], [1]], 2: [[1], [0]]}
    assert labeling["check"](handed, [(1, [[0], [1]]), (2, [[1], [0]])]) is None
    with pytest.raises(SystemExit) as ended:
        labeling["check"](handed, stored)
    assert ended.value.code == said  # a text as code: Python prints it and exits with 1
    counted = {"orders": handed, "gold": 1, "repeated": 0}
    assert labeling["check_counts"](counted, [{"rankings": 3, "gold": 1, "repeated": 0}]) is None
    with pytest.raises(SystemExit):
        labeling["check_counts"](counted, [{"rankings": 4, "gold": 2, "repeated": 0}])


def test_reward_models_are_measured_beside_rules_and_classical_methods(shared: Path) -> None:
    if not (shared / "pref-pandalm").is_dir():
        pytest.skip("the shared data has no pref-pandalm")
    command = [sys.executable, "benchmarks/reward.py", "--quick", "--threads", "1", "--data", str(shared)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert len(found) == 2 and all(set(one) >= FIELDS and one["benchmark"] == "reward" for one in found)
    # Half right is what chance has, and nobody orders all of people's pairs as they did.
    assert all(0 < one["ours"] < 1 and 0 < one["peer"] < 1 for one in found)
    assert "people, each other" in ended.stdout


def test_the_order_of_labelling_is_measured_on_peoples_own_rankings(shared: Path) -> None:
    if not (shared / "pref-pandalm").is_dir():
        pytest.skip("the shared data has no pref-pandalm")
    command = [sys.executable, "benchmarks/selection.py", "--quick", "--data", str(shared)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert len(found) == 4 and all(set(one) >= FIELDS and one["benchmark"] == "selection" for one in found)
    assert all(one["ours"] > 0 and one["peer"] > 0 for one in found)


def test_overoptimization_in_small_keeps_the_plots_data_and_tells_them_again(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    told = []
    for how in ("--quick", "--report"):
        command = [sys.executable, "benchmarks/overoptimization.py", how, "--out", str(data)]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        told.append([line for line in ended.stdout.splitlines() if "processor time" not in line])
    assert told[0] == told[1]
    assert all(set(one) >= FIELDS for one in json.loads(told[0][-1]))
    found = json.loads(data.read_text())
    for one in found["best_of_n"].values():
        assert len(one["n"]) == len(one["d"]) == len(one["gold_mean"]) and one["d"][0] == 0
        # Whatever gold says, the best of more answers by a proxy is better by that proxy.
        assert all(curve == sorted(curve) for curve in one["proxy"])
    assert all(
        run["steps"][-1] == 4 and run["kl"][-1] > 0 for one in found["rl"].values() for run in one["runs"]
    )
