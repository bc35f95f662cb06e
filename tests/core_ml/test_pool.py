"""A sharded recipe in a pool of processes, as the shell runs it, whose first process is killed."""

import json
import subprocess
import sys
import time
from pathlib import Path

from core_ml.events import Done
from tests.core_ml.crawled import crawl, prose, rows, write_jsonl


def until(true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    listing = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True)
    return listing.stdout.strip()[:1] not in ("", "Z")


def test_the_pool_ends_with_its_parent_and_the_next_one_clears_up(tmp_path: Path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for part in range(3):
        texts = [prose(part * 1000 + n, 40) for n in range(200)]
        write_jsonl(corpus / f"{part}.jsonl", [{"text": text} for text in texts])
    config = {"source": "documents", "path": str(corpus)}
    command = [sys.executable, "-m", "core_ml", "crawl", "--preset", "fineweb", "--processes", "2"]
    command += ["--config", json.dumps(config), "--out", str(tmp_path / "out")]
    extracted = tmp_path / "out" / ".state" / "stages" / "extract"
    begun: list[Path] = []

    def two_at_work() -> bool:
        begun[:] = extracted.glob(".*.tmp")
        return len(begun) == 2

    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(two_at_work)
    finally:
        parent.kill()
        parent.wait()
    pool = [int(path.name.split(".")[-2]) for path in begun]
    assert parent.pid not in pool
    until(lambda: not any(map(is_alive, pool)))

    assert isinstance(crawl(tmp_path / "out", config, "fineweb", processes=2)[-1], Done)
    assert list(extracted.glob(".*")) == []
    crawl(tmp_path / "undisturbed", config, "fineweb")
    assert rows(tmp_path / "out", "documents") == rows(tmp_path / "undisturbed", "documents")
