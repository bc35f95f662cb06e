"""Stage 7, custom rules: FineWeb's own three (arXiv:2406.17557, section 3.6), and lines repeated across the corpus."""

import re
from collections import Counter
from hashlib import blake2b

from core_ml.crawl.c4 import END_MARKS, join
from core_ml.crawl.config import CrawlConfig
from core_ml.crawl.repetition import duplicates

SHORT_LINE = 30
_PATH = re.compile(r"(?:/|~/|[A-Za-z]:\\|file:)[^\s]*")


class LineCounts:
    """How often each line was kept in the pages so far. 64 bits of a hash stand for a line."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def first_copies(self, lines: list[str], cap: int) -> list[bool]:
        """For each line whether it is among the first `cap` copies, and true for blank ones; only `count` counts."""
        here: Counter[int] = Counter()
        verdicts = []
        for line in lines:
            key = number(line)
            here[key] += 1
            verdicts.append(not line or self._counts[key] + here[key] <= cap)
        return verdicts

    def count(self, text: str) -> None:
        """A page was kept: its lines count from now on."""
        self._counts.update(number(line) for line in text.split("\n") if line)


def number(line: str) -> int:
    return int.from_bytes(blake2b(line.encode(), digest_size=8).digest(), "little")


def clean(text: str, config: CrawlConfig, counts: LineCounts) -> tuple[str, Counter[str]]:
    """The text without paths, banned lines and lines that the corpus has often enough; how many each rule dropped."""
    lines = text.split("\n")
    dropped: Counter[str] = Counter()
    kept = []
    for line in lines:
        if config.drop_path_lines and _PATH.fullmatch(line):
            dropped["drop_path_lines"] += 1
        elif line and line in config.banned_lines:
            dropped["banned_lines"] += 1
        else:
            kept.append(line)
    if config.max_line_repeats is not None:
        verdicts = counts.first_copies(kept, config.max_line_repeats)
        dropped["max_line_repeats"] += verdicts.count(False)
        kept = [line for line, first in zip(kept, verdicts, strict=True) if first]
    return join(kept), dropped


def measure(text: str) -> dict[str, float]:
    lines = [line for line in text.split("\n") if line]
    n_lines = max(len(lines), 1)
    return {
        "line_punct_ratio": sum(line.endswith(END_MARKS) for line in lines) / n_lines,
        "short_line_ratio": sum(len(line) <= SHORT_LINE for line in lines) / n_lines,
        "dup_char_ratio": duplicates(lines)[1],
        "newline_ratio": text.count("\n") / max(len(text.split()), 1),
        "chars": float(len(text)),
    }
