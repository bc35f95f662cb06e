"""Check that every page is accounted for, write the artifacts, and tell what became of the pages."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from core_ml.crawl.config import CrawlConfig
from core_ml.crawl.funnel import Funnel
from core_ml.errors import UserError
from core_ml.events import Event, Figure, Log, Sample, Summary
from core_ml.workspace import Workspace

N_SAMPLES = 8


def shards(config: CrawlConfig, workspace: Workspace) -> list[str]:
    return ["all"]


def run_shard(shard: str, config: CrawlConfig, workspace: Workspace) -> Iterator[Event]:
    from core_ml.crawl.table import n_rows, read_columns

    read = [json.loads((part / "note.json").read_text()) for part in workspace.shards("extract")]
    cleaned = sorted(path for part in workspace.shards("clean") for path in part.glob("note-*.json"))
    made = [json.loads(path.read_text()) for path in cleaned]
    funnel = Funnel()
    for note in [*read, *made]:
        funnel.merge(note["funnel"])
    n_pages, n_documents = sum(note["n_pages"] for note in read), sum(note["n_documents"] for note in made)
    refuse_nothing(n_pages, n_documents, funnel, read)
    funnel.check(n_pages, n_documents)
    decisions = [path for part in workspace.shards("clean") for path in sorted(part.glob("decisions-*"))]
    kept = Counter(kept for path in decisions for (kept,) in read_columns(path, "kept"))
    assert kept[True] == n_documents and kept.total() == n_pages, (kept, n_pages, n_documents)

    warnings = [sentence for note in read for sentence in note["notes"]]
    skipped: Counter[str] = Counter()
    for note in read:
        skipped.update(note["skipped"])
    rendered = [json.loads((part / "note.json").read_text()) for part in workspace.shards("render")]
    warnings += [f"the module {name} could not be rendered" for note in rendered for name in note["lost"]]
    began = workspace.read_json("began.json")
    text_bytes = sum(note["text_bytes"] for note in made)
    headline: dict[str, Any] = {
        "n_pages": n_pages,
        "n_documents": n_documents,
        "kept_share": round(n_documents / n_pages, 4),
        "bytes_html": sum(note["html_bytes"] for note in read),
        "bytes_extracted": sum(note["text_bytes"] for note in read),
        "bytes_text": text_bytes,
        "seconds": round(time.time() - began, 1),
    }
    told = funnel.to_json()
    yield from write_pages(workspace, headline, rendered)
    summary = {**headline, "funnel": told, "skipped": dict(skipped), "warnings": warnings[:50]}
    writer = workspace.create("documents", "dataset", form="documents")
    for name in ("documents", "decisions"):
        parts = sorted(path for part in workspace.shards("clean") for path in part.glob(f"{name}-*.parquet"))
        parts = [path for path in parts if n_rows(path)]
        for number, path in enumerate(parts):
            shutil.copyfile(path, writer.path / f"{name}-{number:05d}.parquet")
    yield workspace.made("documents", writer.finish(summary))
    for sentence in warnings:
        yield Log(sentence, "warning")
    yield figure(told)
    yield from samples(workspace)
    yield Summary(headline)
    yield Log(
        f"{n_documents:,} documents ({text_bytes / 1e6:.1f} MB) of {n_pages:,} pages in {headline['seconds']:.0f} s"
    )


def refuse_nothing(n_pages: int, n_documents: int, funnel: Funnel, read: list[dict[str, Any]]) -> None:
    """Raises UserError for a crawl without a page or without a document: an empty dataset helps nobody."""
    damage = "".join(f" ({sentence})" for note in read for sentence in note["notes"][:1])
    if n_pages == 0:
        skipped: Counter[str] = Counter()
        for note in read:
            skipped.update(note["skipped"])
        instead = ", ".join(f"{count:,} {kind}" for kind, count in skipped.most_common(3))
        raise UserError(
            f"there is no page in the files{f', only {instead}' if instead else ''}{damage}", field="path"
        )
    if n_documents == 0:
        rule, count = funnel.biggest_loss()
        raise UserError(
            f"nothing is left of {n_pages:,} pages: most, {count:,}, fell to {rule}{damage}",
            field=rule if rule in CrawlConfig.model_fields else "path",
            hint="Relax that threshold, or empty it to turn the rule off.",
        )


def write_pages(
    workspace: Workspace, headline: dict[str, Any], rendered: list[dict[str, Any]]
) -> Iterator[Event]:
    """The rendered pages as an artifact of their own, in the order in which they were read."""
    if not rendered:
        return
    writer = workspace.create("pages", "dataset", form="pages", name=f"{workspace.name} pages")
    pieces = workspace.read_json("pieces.json")
    for number, piece in enumerate(pieces):
        shutil.copyfile(
            workspace.stage_dir("render") / piece["path"], writer.path / f"pages-{number:05d}.warc.gz"
        )
    kinds: Counter[str] = Counter()
    for note in rendered:
        kinds.update(note["pages"])
    summary = {"n_pages": headline["n_pages"], "bytes_html": headline["bytes_html"], "kinds": dict(kinds)}
    yield workspace.made("pages", writer.finish(summary))


def figure(funnel: list[dict[str, Any]]) -> Figure:
    rows = [
        [row["title"], row["in"], row["kept"], row["dropped"], row["failed"], main_rule(row)]
        for row in funnel
    ]
    lost = max(funnel, key=lambda row: row["dropped"])
    return Figure(
        name="funnel",
        step=0,
        title="Where the pages went",
        content={
            "columns": ["Stage", "In", "Kept", "Dropped", "Failed", "Rule that dropped most"],
            "rows": rows,
        },
        finding=f"Of {funnel[0]['in']:,} pages {funnel[-1]['kept']:,} were kept; most fell to {lost['title']}, "
        f"{lost['dropped']:,}.",
    )


def main_rule(row: dict[str, Any]) -> str:
    rule, count = next(iter(row["rules"].items()), ("", 0))
    return f"{rule} ({count:,})" if rule else ""


def samples(workspace: Workspace) -> Iterator[Event]:
    """Documents evenly spread over the dataset, for a person to read."""
    from core_ml.crawl.table import read_rows

    paths = sorted(path for part in workspace.shards("clean") for path in part.glob("documents-*.parquet"))
    total = sum(
        json.loads(path.read_text())["n_documents"]
        for part in workspace.shards("clean")
        for path in part.glob("note-*.json")
    )
    wanted = {total * number // N_SAMPLES for number in range(N_SAMPLES)}
    for number, row in enumerate(row for path in paths for row in read_rows(path)):
        if number in wanted:
            yield Sample(0, row["url"], row["text"][:1000], {"id": row["id"], "language": row["language"]})
