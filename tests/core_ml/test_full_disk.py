"""A disk that fills up in the middle: the run says so in one sentence, and nothing half-finished is visible."""

import os
import subprocess
import sys

import pytest

from core_ml import artifact
from core_ml.events import Failed
from core_ml.execute import execute
from core_ml.recipes import get
from core_ml.workspace import Workspace


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 kB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount a small file system for this test")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def workspace(out, state):
    return Workspace(out, state, {}, artifact.Origin(recipe="conversations"), "test", "test")


def test_a_full_disk_finishes_nothing_half_way(small_disk, tmp_path):
    recipe = get("conversations")
    config = recipe.config(n_conversations=60_000, n_problems=10, n_held_out=4)
    *_, last = execute(recipe, config, workspace(small_disk / "out", tmp_path / "state"))
    assert isinstance(last, Failed)
    assert "disk is full" in last.message and last.traceback is not None
    assert list(artifact.scan(small_disk)) == []
    left = [path for path in (small_disk / "out").rglob("*") if path.is_file()]
    assert left == [], "what was begun is cleared away, which gives the space back"


def test_a_state_that_cannot_be_written_leaves_the_one_before(small_disk):
    place = workspace(small_disk / "out", small_disk / "state")
    place.save_state(1, lambda folder: (folder / "weights").write_bytes(b"1" * 100_000))
    with pytest.raises(OSError, match="space"):
        place.save_state(2, lambda folder: (folder / "weights").write_bytes(b"2" * 400_000))
    step, folder = place.latest_state()
    assert step == 1 and (folder / "weights").read_bytes() == b"1" * 100_000
