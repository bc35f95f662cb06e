"""Benchmarks in their quick form: both sides give the same results, and the last line says what was measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FIELDS = {"benchmark", "metric", "unit", "ours", "peer", "peer_name", "ratio", "goal", "met"}


@pytest.mark.parametrize("name", ["tokenizer", "engine", "sampling", "training"])
def test_a_benchmark_agrees_with_its_peers_and_ends_with_one_line_of_json(name: str) -> None:
    command = [sys.executable, f"benchmarks/{name}.py", "--quick"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found and all(set(one) >= FIELDS and one["benchmark"] == name for one in found)
    assert all(one["ours"] > 0 and one["peer"] > 0 for one in found)
