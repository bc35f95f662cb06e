"""Which documents are kept for validation: whole groups, so that a page's near copies do not stand on both sides."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

MAX_KEYS = 200_000  # beyond that a threshold on the hash is exact enough, and the keys need not be remembered
MIN_GROUPS = 20
MAX_GROUP_SHARE = 0.25


def _host(url: str, id: str) -> str:
    return urlsplit(url).hostname or id


def _page(url: str, id: str) -> str:
    """The last part of the path up to its first dot: json for …/json.decoder.html, a module of a manual."""
    path = urlsplit(url).path.rstrip("/")
    return path.rpartition("/")[2].partition(".")[0] or id


LEVELS: dict[str, Callable[[str, str], str]] = {"host": _host, "page": _page, "document": lambda url, id: id}


@dataclass(frozen=True)
class Split:
    """`level` tells what a group is; `chosen` are the groups for validation, None for those below the share."""

    level: str
    share: float
    chosen: frozenset[str] | None

    def is_validation(self, url: str, id: str) -> bool:
        key = key_of(self.level, url, id)
        return place(key) < self.share if self.chosen is None else key in self.chosen

    def to_json(self) -> dict[str, Any]:
        chosen = None if self.chosen is None else sorted(self.chosen)
        return {"level": self.level, "share": self.share, "chosen": chosen}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Split":
        chosen = found["chosen"]
        return cls(found["level"], found["share"], None if chosen is None else frozenset(chosen))


def key_of(level: str, url: str, id: str) -> str:
    try:
        return LEVELS[level](url, id)
    except ValueError:  # urlsplit's, for an address that is none
        return id


def place(key: str) -> float:
    """A number in [0, 1) that is always the same for the same key."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=8).digest()) / 2**64


class Sizes:
    """Bytes of text by group, at every level; the sizes of parts of a corpus add up to those of the whole."""

    def __init__(self) -> None:
        self.total = 0
        self.groups: dict[str, Counter[str]] = {level: Counter() for level in LEVELS}

    def add(self, url: str, id: str, size: int) -> None:
        self.total += size
        for level, counter in self.groups.items():
            # One group more than may be remembered tells that there are too many.
            if len(counter) <= MAX_KEYS:
                counter[key_of(level, url, id)] += size

    def merge(self, other: "Sizes") -> None:
        self.total += other.total
        for level, counter in self.groups.items():
            if len(counter) <= MAX_KEYS:
                counter.update(other.groups[level])

    def to_json(self) -> dict[str, Any]:
        return {"total": self.total, "groups": self.groups}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Sizes":
        sizes = cls()
        sizes.total = found["total"]
        sizes.groups = {level: Counter(found["groups"][level]) for level in LEVELS}
        return sizes

    def split(self, share: float) -> Split:
        """Split by host, or where there are few hosts by page, or else by document.

        Args:
            share: of all bytes that is wanted for validation.
        """
        for level, counter in self.groups.items():
            if len(counter) > MAX_KEYS:
                return Split(level, share, None)
            fits = len(counter) >= MIN_GROUPS and max(counter.values()) <= MAX_GROUP_SHARE * self.total
            if level == "document" or fits:
                chosen = _fill(counter, share * self.total)
                if chosen:
                    return Split(level, share, frozenset(chosen))
        return Split("document", share, frozenset())


def choose(documents: Iterable[tuple[str, str, int]], share: float) -> Split:
    """The split of documents given as (url, id, bytes of text)."""
    sizes = Sizes()
    for url, id, size in documents:
        sizes.add(url, id, size)
    return sizes.split(share)


def _fill(sizes: Counter[str], goal: float) -> list[str]:
    """Groups in the order of their hashes, passing over those that would overfill; at least the smallest."""
    chosen, taken = [], 0
    for key in sorted(sizes, key=place):
        if taken + sizes[key] <= 1.1 * goal:
            chosen.append(key)
            taken += sizes[key]
    if not chosen and len(sizes) > 1:
        chosen = [min(sizes, key=lambda key: (sizes[key], place(key)))]
    return chosen
