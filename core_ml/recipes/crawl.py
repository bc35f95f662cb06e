"""Crawl: web pages become documents, through FineWeb's eight stages, with a reason for every page that is dropped."""

from pathlib import Path
from typing import Any

from core_ml.crawl.config import CrawlConfig
from core_ml.crawl.steps import clean, dedup, extract, finish, render
from core_ml.recipe import Cost, Input, Output, Preset, Recipe, Stage

# What a second of one core reads, measured on pages of 5 kB; large pages are read faster.
BYTES_A_SECOND = 1_500_000
PYTHON_DOCS_SECONDS = 40.0
PYTHON_DOCS_BYTES = 60_000_000


def cost(config: CrawlConfig, inputs: dict[str, list[dict[str, Any]]]) -> Cost:
    """From the sizes of the files; a folder is summed, and what cannot be seen from here is not guessed."""
    given = [summary for name in ("pages", "documents") for summary in inputs.get(name, [])]
    if given:
        size = sum(int(summary.get("bytes_html") or summary.get("bytes_text") or 0) for summary in given)
        return Cost(seconds=size / BYTES_A_SECOND or None, facts={})
    if config.source == "python-docs":
        share = min(len(config.modules) / 200, 1.0) or 1.0
        return Cost(
            seconds=5 + PYTHON_DOCS_SECONDS * share,
            memory_bytes=400_000_000,
            disk_bytes=int(PYTHON_DOCS_BYTES * share),
            facts={"pages": f"about {int(7000 * share):,}"},
        )
    if not config.path or not Path(config.path).exists():
        return Cost()
    path = Path(config.path)
    files = [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]
    size = sum(found.stat().st_size for found in files)
    # Compressed files hold about four times their size.
    return Cost(
        seconds=5 + 4 * size / BYTES_A_SECOND,
        memory_bytes=500_000_000,
        disk_bytes=3 * size,
        facts={"files": f"{len(files):,}", "size": f"{size / 1e6:,.1f} MB"},
    )


REFERENCE: dict[str, Any] = {
    "source": "python-docs",
    # Signatures and examples look like no language: half of the pages would fall below FineWeb's 0.65.
    "min_language_score": 0.2,
    # Reference documentation repeats itself by design: separators, signatures, inherited methods.
    **{f"max_dup_{part}_ratio": None for part in ("line", "paragraph", "line_char", "paragraph_char")},
    **{f"max_dup_{n}_gram_ratio": None for n in range(5, 11)},
    # Short entries are its nature; what is only a signature goes all the same.
    "min_words": 20,
    "max_mean_word_length": 15.0,
    "max_symbol_ratio": 0.2,
    "min_alpha_ratio": 0.6,
    "min_stop_words": 1,
    # Exceptions and codecs differ in few words, and their own lines are worth keeping.
    "max_similarity": 0.85,
    # Headings, signatures and examples are lines of few words, no sentences, and full of braces.
    "min_line_words": None,
    "drop_javascript_lines": False,
    "drop_policy_lines": False,
    "max_curly_brackets": None,
    "min_sentences": None,
    "min_line_punct_ratio": None,
    "max_short_line_ratio": None,
    "max_newline_ratio": None,
    # Every class page repeats its module's page, and every class what `object` has.
    "drop_path_lines": True,
    "banned_lines": ["Module Reference", "(built-in)"],
    "max_line_repeats": 1,
    "min_chars": 200,
}
DOZEN = (
    "argparse", "base64", "calendar", "collections", "csv", "datetime",
    "fractions", "json", "logging", "random", "statistics", "textwrap",
)  # fmt: skip

RECIPE = Recipe(
    kind="crawl",
    title="Crawl",
    stage="pages",
    explanation="Turns web pages into documents worth reading, and keeps for each dropped page the rule and the value.",
    config=CrawlConfig,
    takes={
        "pages": Input(
            "dataset",
            ("pages",),
            optional=True,
            description="WARC files of an earlier crawl, instead of a source.",
        ),
        "documents": Input(
            "dataset",
            ("documents",),
            optional=True,
            description="Documents to filter anew, instead of a source.",
        ),
    },
    makes={
        "documents": Output(
            "dataset", "documents", description="What was kept, and the decision on every page."
        ),
        "pages": Output(
            "dataset", "pages", optional=True, description="The pages as rendered, when they were."
        ),
    },
    stages=(
        Stage("render", "Rendering pages", render.shards, render.run_shard),
        Stage("extract", "Reading and judging pages", extract.shards, extract.run_shard),
        Stage("dedup", "Finding near-copies", dedup.shards, dedup.run_shard),
        Stage("clean", "Cleaning documents", clean.shards, clean.run_shard),
        Stage("finish", "Checking and writing", finish.shards, finish.run_shard),
    ),
    presets=(
        Preset(
            "python-docs",
            "Python documentation",
            "This machine's own Python documentation: about 7,000 pages, of which some 1,000 documents (2.6 MB) stay. "
            "Each line is kept once in the whole corpus, since four fifths of the pages repeat other pages. FineWeb's "
            "thresholds are for prose and would drop most of a reference, so these are relaxed or off: language "
            "score, repetition, share of words with a letter, stop words, word length, and C4's and FineWeb's rules "
            "on sentences, short lines and braces.",
            REFERENCE,
        ),
        Preset(
            "fineweb",
            "FineWeb",
            "The published thresholds of FineWeb, which are Gopher's and C4's: for English web pages. Name a path.",
            {"source": "warc"},
        ),
        Preset(
            "small",
            "A dozen modules",
            "Twelve modules of the Python documentation with the thresholds of the large preset, in a few seconds.",
            {**REFERENCE, "modules": list(DOZEN)},
        ),
    ),
    why=(
        "Why drop so much?",
        "Most of the web is menus, spam, copies and other languages than yours. A model fed with it spends its "
        "parameters on it. The order of the stages and the thresholds are FineWeb's.",
        "Penedo et al. 2024, arXiv:2406.17557; Rae et al. 2021, arXiv:2112.11446",
    ),
    cost=cost,
)
