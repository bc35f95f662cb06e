"""Finish each page: drop near-copies, clean lines by C4's and our own rules, replace personal data, write both tables."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core_ml.crawl.config import CrawlConfig
from core_ml.crawl.funnel import Funnel
from core_ml.crawl.rules import decide
from core_ml.crawl.steps.extract import settle
from core_ml.events import Event, Log, Progress
from core_ml.workspace import Workspace


def shards(config: CrawlConfig, workspace: Workspace) -> list[str]:
    """One for each shard of `extract`; a single one where lines are counted across the corpus, page after page."""
    if config.max_line_repeats is not None:
        return ["all"]
    return [part.name for part in workspace.shards("extract")]


def run_shard(shard: str, config: CrawlConfig, workspace: Workspace) -> Iterator[Event]:
    from core_ml.crawl.custom import LineCounts

    parts = workspace.shards("extract")
    counts = LineCounts()
    for part in parts:
        if shard in ("all", part.name):
            yield from clean_part(part, config, workspace, counts)


def clean_part(part: Path, config: CrawlConfig, workspace: Workspace, counts: Any) -> Iterator[Event]:
    from core_ml.crawl.table import DECISIONS, DOCUMENTS, SHOWN_CHARS, Table, read_rows

    folder = workspace.shard_dir
    assert folder is not None
    began, funnel, text_bytes = time.monotonic(), Funnel(), 0
    duplicates = verdicts(part, config, workspace)
    with (
        Table(folder / f"documents-{part.name}.parquet", DOCUMENTS) as documents,
        Table(folder / f"decisions-{part.name}.parquet", DECISIONS) as decisions,
    ):
        for number, row in enumerate(read_rows(part / "rows.parquet"), 1):
            if row["kept"]:
                judge(row, next(duplicates), config, funnel, counts)
            if row["kept"]:
                documents.write(row)
                text_bytes += len(row["text"].encode())
            decisions.write(row | {"text": row["text"][:SHOWN_CHARS]})
            if number % 100 == 0:
                yield Progress(number, None, "pages", "cleaning")
    note = {"n_documents": documents.n_rows, "text_bytes": text_bytes, "funnel": funnel.to_json()}
    (folder / f"note-{part.name}.json").write_text(json.dumps(note))
    entered = funnel.rows["minhash"].entered
    if entered:
        took = time.monotonic() - began
        yield Log(
            f"cleaned {entered:,} pages of part {part.name} in {took:.1f} s: {documents.n_rows:,} documents"
        )


def verdicts(
    part: Path, config: CrawlConfig, workspace: Workspace
) -> Iterator[tuple[float | None, str | None]]:
    """(similarity, id of the page that it copies) of each page that Gopher's rules left, in their order."""
    import numpy as np

    if config.max_similarity is None:
        while True:
            yield None, None
    with np.load(workspace.shards("dedup")[0] / f"{part.name}.npz") as found:
        for similarity, leader in zip(found["similarity"].tolist(), found["leader"].tolist(), strict=True):
            yield (None if similarity != similarity else similarity), leader.decode() or None


def judge(
    row: dict[str, Any],
    duplicate: tuple[float | None, str | None],
    config: CrawlConfig,
    funnel: Funnel,
    counts: Any,
) -> None:
    """The last four stages of one page, written into its row."""
    from core_ml.crawl import c4, custom, pii

    def dropped(stage: str, measures: dict[str, float]) -> bool:
        row.update(measures)
        return settle(row, decide(stage, measures, config), stage, funnel)

    funnel.enter("minhash")
    similarity, row["duplicate_of"] = duplicate
    if dropped("minhash", {} if similarity is None else {"similarity": similarity}):
        return

    funnel.enter("c4")
    row["text"], lines = c4.clean(row["text"], config)
    funnel.remove_lines("c4", lines)
    if dropped("c4", c4.measure(row["text"])):
        return

    funnel.enter("custom")
    before = row["text"]
    row["text"], lines = custom.clean(before, config, counts)
    if dropped("custom", custom.measure(row["text"])):
        row["text"] = row["text"] or before
        return
    funnel.remove_lines("custom", lines)
    counts.count(row["text"])

    funnel.enter("pii")
    row["text"], replaced = pii.replace(row["text"], config.replace_emails, config.replace_ips)
    row.update(replaced)
    if any(replaced.values()):
        funnel.change("pii")
    funnel.keep("pii")
