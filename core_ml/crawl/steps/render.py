"""Render this machine's Python documentation to HTML pages, as `pydoc` does, in a child that may misbehave."""

import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from core_ml.crawl.config import CrawlConfig
from core_ml.errors import UserError
from core_ml.events import Event, Log, Progress
from core_ml.workspace import Workspace

SKIPPED = frozenset(
    # Programs that open windows or browsers, tests, and modules that are no library.
    [
        "antigravity",
        "this",
        "idlelib",
        "turtledemo",
        "lib2to3",
        "test",
        "tkinter",
        "turtle",
        "__main__",
        "__phello__",
        "__hello__",
    ]
)
TOPICS = "topics"
GROUPS = 4
SILENCE = 30.0
"""Seconds without a page after which a module is given up; the slowest page takes a tenth of one."""
FILES = {"topic": "0-topics", "module": "1-modules", "class": "2-members", "function": "2-members"}

ENVIRONMENT = {
    # Nothing is handed down: pages show default values, and `os.environ` with all its secrets is one. There is no
    # display and no browser.
    "PATH": os.defpath,
    "HOME": "/nonexistent",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "BROWSER": "true",
    "PYTHONPATH": str(Path(__file__).resolve().parents[3]),
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "SETUPTOOLS_USE_DISTUTILS": "stdlib",
}


def shards(config: CrawlConfig, workspace: Workspace) -> list[str]:
    """Groups of top-level modules of about equal size; none when the pages come from elsewhere."""
    from core_ml.crawl import sources

    workspace.write_json("began.json", time.time())
    if config.source != "python-docs" or workspace.has("pages") or workspace.has("documents") or config.path:
        if not (workspace.has("pages") or workspace.has("documents")):
            sources.look_at(config)  # a wrong path is told before anything is queued
        return []
    groups = balanced(names_of(config))
    workspace.write_json("modules.json", groups)
    return [f"{number:02d}" for number in range(len(groups))]


def names_of(config: CrawlConfig) -> list[str]:
    """Raises UserError for a module that is no part of the standard library."""
    library = sorted(sys.stdlib_module_names - SKIPPED)
    unknown = [name for name in config.modules if name not in {*library, TOPICS}]
    if unknown:
        raise UserError(
            f"{unknown[0]!r} is no module of the standard library that can be rendered", field="modules"
        )
    return list(config.modules) or [TOPICS, *library]


def balanced(names: list[str]) -> list[list[str]]:
    """At most four groups: the largest module left goes to the group that is smallest so far."""
    groups: list[list[str]] = [[] for _ in range(min(GROUPS, len(names)))]
    sizes = [0] * len(groups)
    for size, name in sorted(((source_size(name), name) for name in names), reverse=True):
        smallest = sizes.index(min(sizes))
        groups[smallest].append(name)
        sizes[smallest] += size
    return [sorted(group) for group in groups]


def source_size(name: str) -> int:
    """Bytes of a module's source, a rough measure of its documentation; found without importing it."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return 0
    if found is None or not found.has_location or not found.origin:
        return 20_000  # built in: its documentation comes out of the interpreter
    path = Path(found.origin)
    if found.submodule_search_locations is None:
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.parent.rglob("*.py"))


def run_shard(shard: str, config: CrawlConfig, workspace: Workspace) -> Iterator[Event]:
    from core_ml.crawl.warc import write_page

    names = workspace.read_json("modules.json")[int(shard)]
    folder = workspace.shard_dir
    assert folder is not None
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    began, n_bytes, done = time.monotonic(), 0, 0
    pages: Counter[str] = Counter()
    lost: list[str] = []
    files: dict[str, BinaryIO] = {}
    with ExitStack() as stack:
        nowhere = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for message in rendered(names, lost, nowhere):
            if "html" in message:
                html = message["html"].encode("utf-8", "replace")
                name = FILES[message["kind"]]
                if name not in files:
                    files[name] = stack.enter_context((folder / f"{name}.warc.gz").open("wb"))
                write_page(files[name], address(message["kind"], message["name"]), html, date)
                pages[message["kind"]] += 1
                n_bytes += len(html)
            done += "end" in message
            yield Progress(done, len(names), "modules", "rendering")
    told = ", ".join(f"{count:,} of kind {kind}" for kind, count in sorted(pages.items()))
    yield Log(
        f"rendered {pages.total():,} pages ({told}; {n_bytes / 1e6:.1f} MB) of {len(names)} modules "
        f"in {time.monotonic() - began:.1f} s"
    )
    if lost:
        yield Log(f"gave up on modules that ended or hung the process: {', '.join(lost)}", "warning")
    note = {"pages": dict(pages), "html_bytes": n_bytes, "lost": lost}
    (folder / "note.json").write_text(json.dumps(note))


def address(kind: str, name: str) -> str:
    """One host for each top-level module, so that whoever splits pages by host splits them by module."""
    host = TOPICS if kind == "topic" else name.partition(".")[0]
    return f"http://{host.lower()}.pydoc.internal/{name}.html"


def rendered(names: list[str], lost: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Messages of as many child processes as it takes; a module that ended or hung one is added to `lost`.

    The children work in `folder`, so that whatever a module writes falls there.
    """
    left = list(names)
    while left:
        current = left[0]
        for message in from_child(left, folder):
            current = message.get("begin", current)
            if "end" in message:
                left.remove(message["end"])
            yield message
        if left:
            lost.append(current)
            left.remove(current)


def from_child(names: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Messages of one child until it is done, dies, or is silent for too long; it never outlives this generator."""
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", "core_ml.crawl.pydoc_child", str(writing)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[writing],
        cwd=folder,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    os.close(writing)
    try:
        assert child.stdin is not None
        child.stdin.write("\n".join(names).encode())
        child.stdin.close()
        yield from messages(reading)
    finally:
        os.close(reading)
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        child.wait()


def messages(pipe: int) -> Iterator[dict[str, Any]]:
    """Lines of JSON from a pipe until it closes or nothing comes for `SILENCE` seconds.

    An empty message every half second of waiting gives the run a chance to be stopped.
    """
    buffer, last = b"", time.monotonic()
    while time.monotonic() - last < SILENCE:
        if not select.select([pipe], [], [], 0.5)[0]:
            yield {}
            continue
        data, last = os.read(pipe, 1 << 20), time.monotonic()
        if not data:
            return
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            yield json.loads(line)
