"""Stage 5, near-duplicates: MinHash signatures in buckets, as FineWeb sets them, and a check of every pair.

112 hashes of five-word sequences in 14 buckets of 8: two pages with Jaccard similarity s share a bucket with
probability 1 - (1 - s^8)^14, which is 0.56 at 0.72, 0.77 at 0.75 and 0.92 at 0.8. FineWeb drops all but one of
whatever is connected by shared buckets; here a page is compared with the pages that were kept before it, so
that each dropped page has one kept page that it resembles, and a similarity that can be shown.
"""

import re
from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

BUCKETS, HASHES = 14, 8
SHINGLE = 5
SEED = 1
MAX_COMPARED = 64
"""Kept pages of one bucket that a page is compared with, so that a bucket of boilerplate stays cheap."""
HASHED_TOGETHER = 100_000
"""Sequences in one call: a call for each document costs more than its hashes, and each takes 100 bytes."""
BLOCK = 10_000
_WORD = re.compile(r"\w+")
Signatures = NDArray[np.uint32]


def shingles(text: str) -> Iterator[str]:
    """All sequences of five words, in lower case and without punctuation; a shorter text is one sequence."""
    words = (match[0] for match in _WORD.finditer(text.lower()))
    block = list(islice(words, BLOCK))
    yield from _sequences(block)
    while more := list(islice(words, BLOCK)):
        block = [*block[1 - SHINGLE :], *more]
        yield from _sequences(block)


def _sequences(words: list[str]) -> list[str]:
    return [" ".join(words[start : start + SHINGLE]) for start in range(max(len(words) - SHINGLE + 1, 1))]


def signatures(texts: list[str]) -> Signatures:
    """(len(texts), 112) hashes: of each the least over a document's sequences, so a long one may be hashed in parts."""
    signed = np.full((len(texts), BUCKETS * HASHES), np.iinfo(np.uint32).max, dtype=np.uint32)
    parts: list[list[str]] = []
    numbers: list[int] = []
    n = 0
    for number, text in enumerate(texts):
        rest = shingles(text)
        while part := list(islice(rest, HASHED_TOGETHER - n)):
            parts.append(part)
            numbers.append(number)
            n += len(part)
            if n == HASHED_TOGETHER:
                _sign(signed, numbers, parts)
                parts, numbers, n = [], [], 0
    _sign(signed, numbers, parts)
    return signed


def _sign(signed: Signatures, numbers: list[int], parts: list[list[str]]) -> None:
    if parts:
        rows = RMinHash.digest_matrix_from_token_sets(parts, BUCKETS * HASHES, SEED).to_rows()
        np.minimum.at(signed, numbers, np.array(rows, dtype=np.uint32))


def cluster(signed: Signatures, max_similarity: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Compare each page with the kept pages before it that share a bucket.

    Args:
        signed: (N, 112) signatures in the order in which pages count as earlier and later.
        max_similarity: a page is dropped when it resembles a kept one more than this.
    Returns: (N,) greatest similarity to a kept earlier page, NaN where none shares a bucket; and (N,) the
        number of the kept page that a dropped one resembles most, -1 for kept pages.
    """
    similarity = np.full(len(signed), np.nan, dtype=np.float64)
    leader = np.full(len(signed), -1, dtype=np.int64)
    kept_in: dict[int, list[int]] = {}
    pages, buckets = shared_buckets(signed)
    ends = np.flatnonzero(np.diff(pages, append=-1)) + 1
    start = 0
    for end in ends.tolist():
        page, start, of_page = int(pages[start]), end, buckets[start:end].tolist()
        others = sorted({other for bucket in of_page for other in kept_in.get(bucket, ())})
        if others:
            alike = (signed[others] == signed[page]).mean(axis=1)
            best = int(alike.argmax())
            similarity[page] = alike[best]
            if alike[best] > max_similarity:
                leader[page] = others[best]
                continue
        for bucket in of_page:
            members = kept_in.setdefault(bucket, [])
            if len(members) < MAX_COMPARED:
                members.append(page)
    return similarity, leader


def shared_buckets(signed: Signatures) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(page, bucket) of every page that shares a bucket, sorted by page; lonely pages, by far the most, are left out."""
    multipliers = np.random.default_rng(SEED).integers(1, 1 << 63, HASHES, dtype=np.uint64) | np.uint64(1)
    pages, buckets, n_buckets = [], [], 0
    for column in range(0, BUCKETS * HASHES, HASHES):
        keys = (signed[:, column : column + HASHES].astype(np.uint64) * multipliers).sum(
            axis=1, dtype=np.uint64
        )
        _, bucket, counts = np.unique(keys, return_inverse=True, return_counts=True)
        crowded = np.flatnonzero(counts[bucket] > 1)
        pages.append(crowded)
        buckets.append(bucket[crowded] + n_buckets)
        n_buckets += len(counts)
    page, number = np.concatenate(pages), np.concatenate(buckets)
    order = np.argsort(page, kind="stable")
    return page[order], number[order]
