"""Stage 4, first half: Gopher's measures of repetition (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1).

Shares of characters count the characters of words, without the space between them, and count each word once
however many repeated sequences cover it, as the paper asks for.
"""

import re

import numpy as np
from numpy.typing import NDArray

TOP = (2, 3, 4)
REPEATED = (5, 6, 7, 8, 9, 10)
_PARAGRAPH = re.compile(r"\n{2,}")


def measure(text: str) -> dict[str, float]:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    paragraphs = [part.strip() for part in _PARAGRAPH.split(text) if part.strip()]
    dup_lines, dup_line_chars = duplicates(lines)
    dup_paragraphs, dup_paragraph_chars = duplicates(paragraphs)
    return {
        "dup_line_ratio": dup_lines,
        "dup_paragraph_ratio": dup_paragraphs,
        "dup_line_char_ratio": dup_line_chars,
        "dup_paragraph_char_ratio": dup_paragraph_chars,
        **n_grams(text.split()),
    }


def duplicates(parts: list[str]) -> tuple[float, float]:
    """(share of parts that stood before, share of the characters in them)."""
    seen: set[str] = set()
    repeated = chars = total = 0
    for part in parts:
        total += len(part)
        if part in seen:
            repeated += 1
            chars += len(part)
        seen.add(part)
    return repeated / max(len(parts), 1), chars / max(total, 1)


def n_grams(words: list[str]) -> dict[str, float]:
    """Shares of characters in the top n-gram (n = 2, 3, 4) and in repeated n-grams (n = 5 to 10)."""
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.int64)
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    total = max(int(lengths.sum()), 1)
    measures, grams = {}, ids
    for n in range(2, REPEATED[-1] + 1):
        # An n-gram is its first n-1 words and the last one: two numbers, renumbered densely so that they stay small.
        starts = len(words) - n + 1
        if starts > 0:
            pairs = grams[:starts] * len(numbers) + ids[n - 1 :]
            _, first, grams, counts = np.unique(
                pairs, return_index=True, return_inverse=True, return_counts=True
            )
        if n in TOP:
            share = 0.0
            if starts > 0 and counts.max() > 1:
                # Of several most frequent ones the first on the page, as a person would find it.
                most = np.flatnonzero(counts == counts.max())
                top = most[first[most].argmin()]
                share = covered(grams == top, n, lengths) / total
            measures[f"top_{n}_gram_ratio"] = share
        if n in REPEATED:
            share = 0.0
            if starts > 0 and len(counts) < starts:
                again = np.ones(starts, dtype=bool)
                again[first] = False
                share = covered(again, n, lengths) / total
            measures[f"dup_{n}_gram_ratio"] = share
    return measures


def covered(starts: NDArray[np.bool_], n: int, lengths: NDArray[np.int64]) -> int:
    """Characters of all words that lie inside an n-gram beginning at one of `starts`, each word once."""
    edges = np.zeros(len(lengths) + 1, dtype=np.int64)
    edges[: len(starts)] += starts
    edges[n : n + len(starts)] -= starts
    return int(lengths[np.cumsum(edges[:-1]) > 0].sum())
