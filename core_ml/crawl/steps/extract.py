"""Read the files and judge each page by itself: address, extraction, language, Gopher; then sign what is left."""

import json
import time
from collections.abc import Iterator
from typing import Any

from core_ml.crawl import sources
from core_ml.crawl.config import CrawlConfig
from core_ml.crawl.funnel import Funnel
from core_ml.crawl.page import Failure, Page, Reading
from core_ml.crawl.rules import Decision, decide
from core_ml.events import Event, Log, Progress
from core_ml.workspace import Workspace

SIGNED_CHARS = 1_000_000
"""Texts of so many characters are signed together; a longer one alone."""


def shards(config: CrawlConfig, workspace: Workspace) -> list[str]:
    pieces = sources.find(config, workspace)
    workspace.write_json("pieces.json", [piece.model_dump() for piece in pieces])
    return [f"{number:05d}" for number in range(len(pieces))]


def run_shard(shard: str, config: CrawlConfig, workspace: Workspace) -> Iterator[Event]:
    import numpy as np

    from core_ml.crawl import minhash
    from core_ml.crawl.table import ROWS, Table

    piece = sources.Piece.model_validate(workspace.read_json("pieces.json")[int(shard)])
    folder = workspace.shard_dir
    assert folder is not None
    began, funnel, reading = time.monotonic(), Funnel(), Reading()
    n_pages, html_bytes, text_bytes = 0, 0, 0
    texts: list[str] = []
    n_chars = 0
    signed: list[minhash.Signatures] = []
    with Table(folder / "rows.parquet", ROWS) as table:
        for page in sources.read(piece, config, workspace, reading):
            n_pages += 1
            row = failed(page, funnel) if isinstance(page, Failure) else judge(page, config, funnel)
            row["source"] = piece.path
            if isinstance(page, Page):
                html_bytes += len(page.html or b"")
                text_bytes += len((row["text"] or "").encode())
            if row["kept"]:
                texts.append(row["text"])
                n_chars += len(row["text"])
            else:
                row["text"] = (row["text"] or "")[:2000]
            table.write(row)
            if n_chars >= SIGNED_CHARS:
                if config.max_similarity is not None:
                    signed.append(minhash.signatures(texts))
                texts, n_chars = [], 0
            if n_pages % 10 == 0:
                yield Progress(n_pages, None, "pages", f"reading {piece.path}")
    if config.max_similarity is not None:
        signed.append(minhash.signatures(texts))
        np.save(folder / "signatures.npy", np.concatenate(signed))
    note = {
        "n_pages": n_pages,
        "html_bytes": html_bytes,
        "text_bytes": text_bytes,
        "notes": reading.notes,
        "skipped": dict(reading.skipped),
        "funnel": funnel.to_json(),
    }
    (folder / "note.json").write_text(json.dumps(note))
    for sentence in reading.notes:
        yield Log(sentence, "warning")
    left = funnel.rows["gopher"].kept
    passed = "".join(f", passed over {count:,} {kind}" for kind, count in reading.skipped.most_common(4))
    yield Log(
        f"{piece.path}: {n_pages:,} pages in {time.monotonic() - began:.1f} s, {left:,} left by Gopher's rules{passed}"
    )


def failed(page: Failure, funnel: Funnel) -> dict[str, Any]:
    """A page that could not be read fails at the first stage."""
    funnel.enter("url")
    funnel.fail("url", page.reason)
    return {
        "id": page.id, "url": page.url, "text": page.detail, "metadata": "{}",
        "stage": "url", "rule": page.reason, "kept": False, "failed": True,
    }  # fmt: skip


def judge(page: Page, config: CrawlConfig, funnel: Funnel) -> dict[str, Any]:
    """The row of a page after the four stages that need no other page; later measures of a dropped one are null."""
    from core_ml.crawl import extraction, language, quality, repetition, url_filter

    row: dict[str, Any] = {
        "id": page.id, "url": page.url, "text": page.text, "date": page.date,
        "metadata": json.dumps(page.metadata, ensure_ascii=False), "kept": True, "failed": False,
    }  # fmt: skip

    def dropped(stage: str, measures: dict[str, float]) -> bool:
        row.update(measures)
        return settle(row, decide(stage, measures, config), stage, funnel)

    funnel.enter("url")
    if dropped("url", url_filter.measure(page.url, config.banned_domains, config.banned_url_words)):
        return row

    funnel.enter("extraction")
    if page.html is None:
        row["text"] = extraction.tidy(page.text)
    else:
        size = {"html_bytes": float(len(page.html)), "nesting": float(extraction.nesting(page.html))}
        if dropped_now := decide("extraction", size, config):
            row.update(size)
            settle(row, dropped_now, "extraction", funnel)
            return row
        row.update(size)
        try:
            row["text"] = extraction.extract(extraction.decode(page.html, page.charset), config.main_content)
        except (ValueError, RuntimeError, UnicodeError) as error:
            row |= {
                "stage": "extraction",
                "rule": "extraction_error",
                "kept": False,
                "failed": True,
                "text": str(error),
            }
            funnel.fail("extraction", "extraction_error")
            return row
    if dropped("extraction", {"text_chars": float(len(row["text"]))}):
        return row

    funnel.enter("language")
    row["language"], score = language.detect(row["text"], config.languages)
    if dropped("language", {"language_score": score}):
        return row

    funnel.enter("gopher")
    dropped("gopher", repetition.measure(row["text"]) | quality.measure(row["text"]))
    return row


def settle(row: dict[str, Any], decision: Decision | None, stage: str, funnel: Funnel) -> bool:
    """Write a stage's decision into a page's row and into the count; true when it dropped the page."""
    if decision is None:
        funnel.keep(stage)
        return False
    funnel.drop(stage, decision.rule)
    row |= {
        "stage": stage, "rule": decision.rule, "kept": False,
        "value": decision.value, "threshold": decision.threshold,
    }  # fmt: skip
    return True
