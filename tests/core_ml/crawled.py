"""Small files to crawl, and a crawl run in this process."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from core_ml import artifact, recipes
from core_ml.crawl import warc
from core_ml.events import Event
from core_ml.execute import execute, read_config, read_inputs
from core_ml.workspace import Workspace

OFF: dict[str, Any] = {
    name: None
    for name, field in recipes.get("crawl").config.model_fields.items()
    if name.startswith(("min_", "max_")) and name not in ("max_nesting", "min_text_chars")
} | {"languages": [], "drop_javascript_lines": False, "drop_policy_lines": False}
"""Every threshold turned off, for tests that turn one on."""


NOUNS = [
    "river",
    "garden",
    "station",
    "letter",
    "window",
    "market",
    "harbour",
    "orchard",
    "teacher",
    "kitchen",
    "bridge",
    "winter",
    "village",
    "captain",
]
VERBS = [
    "reached",
    "painted",
    "followed",
    "mended",
    "opened",
    "crossed",
    "noticed",
    "carried",
    "answered",
    "visited",
    "forgot",
    "measured",
]
PLACES = ["near", "behind", "beside", "above", "below", "within", "beyond", "towards"]


def prose(seed: int, sentences: int = 14) -> str:
    """English of our own that the published thresholds keep, with no long sequence of words twice."""
    pick = random.Random(seed).choice
    return "\n".join(
        f"The {pick(NOUNS)} {pick(VERBS)} a {pick(NOUNS)} {pick(PLACES)} the {pick(NOUNS)}, and {pick(NOUNS)} of "
        f"{pick(NOUNS)} {pick(VERBS)} with {pick(NOUNS)} that {pick(VERBS)} {pick(PLACES)} every {pick(NOUNS)}."
        for _ in range(sentences)
    )


def html(text: str) -> bytes:
    paragraphs = "".join(f"<p>{line}</p>" for line in text.split("\n"))
    return f"<!doctype html><html><body><main><article>{paragraphs}</article></main></body></html>".encode()


def write_warc(path: Path, pages: dict[str, bytes]) -> Path:
    with path.open("wb") as out:
        for url, body in pages.items():
            warc.write_page(out, url, body, "2026-01-02T03:04:05Z")
    return path


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    """Rows as lines of JSON; a string stands for itself, to write lines that are none."""
    lines = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(lines) if path.name.endswith(".gz") else lines)
    return path


def crawl(
    out: Path,
    config: dict[str, Any],
    preset: str | None = None,
    inputs: dict[str, list[Path]] | None = None,
    processes: int = 1,
) -> list[Event]:
    recipe = recipes.get("crawl")
    workspace = Workspace(
        out,
        out / ".state",
        read_inputs(recipe, inputs or {}),
        artifact.Origin(recipe="crawl"),
        "abcd",
        "test",
    )
    return list(execute(recipe, read_config(recipe, config, preset), workspace, processes=processes))


def rows(out: Path, table: str) -> list[dict[str, Any]]:
    """The rows of `documents` or `decisions`."""
    files = artifact.Folder(out / "documents").files(".parquet")
    return [row for path in files if path.name.startswith(table) for row in pq.read_table(path).to_pylist()]


def summary(out: Path) -> dict[str, Any]:
    return artifact.Folder(out / "documents").manifest.summary
