"""A disk that fills up in the middle: the run says so in one sentence, and nothing half-finished is visible."""

import json
import os
import random
import subprocess
import sys

import pytest

from core_ml import artifact
from core_ml.events import Done, Failed
from core_ml.execute import execute
from core_ml.recipes import get
from core_ml.workspace import Workspace
from tests.core_ml.crawled import OFF, crawl, rows


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


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Six files of text that does not compress, 120 kB each: a shard of one fits on the small disk, six do not."""
    folder = tmp_path_factory.mktemp("corpus")
    chance = random.Random(0)
    for part in range(6):
        texts = (" ".join(f"{chance.getrandbits(64):016x}" for _ in range(350)) for _ in range(20))
        (folder / f"{part}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return folder


@pytest.mark.parametrize("processes", [1, 2])
def test_a_sharded_run_on_a_full_disk_keeps_whole_shards_only(small_disk, corpus, tmp_path, processes):
    config = {**OFF, "source": "documents", "path": str(corpus)}
    *_, last = crawl(small_disk / "out", config, processes=processes)
    assert isinstance(last, Failed) and "disk is full" in last.message, last
    assert list(artifact.scan(small_disk)) == []
    stages = small_disk / "out" / ".state" / "stages"
    assert list(stages.rglob(".*")) == [], "what was begun is cleared away, which gives the space back"
    finished = {path: path.stat().st_ino for path in (stages / "extract").iterdir()}
    assert 0 < len(finished) < 6

    command = ["mount", "-o", "remount,size=20m", str(small_disk)]
    subprocess.run(command, check=True)
    assert isinstance(crawl(small_disk / "out", config, processes=processes)[-1], Done)
    assert {path: path.stat().st_ino for path in finished} == finished, "what was finished is not done again"
    crawl(tmp_path / "roomy", config)
    assert rows(small_disk / "out", "documents") == rows(tmp_path / "roomy", "documents")
    artifact.Folder(small_disk / "out" / "documents").verify()
