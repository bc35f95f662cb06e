"""What travels through a crawl: a page as it was read, and a page that could not be."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Page:
    """One page of a source: `html` with its declared `charset`, or `text` where there is nothing to extract."""

    id: str
    url: str
    html: bytes | None = None
    charset: str | None = None
    text: str = ""
    date: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Failure:
    """A page that could not be read; `reason` is a key of `rules.FAILURES`, `detail` says where it stands."""

    id: str
    url: str
    reason: str
    detail: str


@dataclass
class Reading:
    """What a reader tells beside the pages: sentences about damage, and records that are no pages, by kind."""

    notes: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def page_id(source: str, position: int) -> str:
    """The same page of the same file has the same id in every run.

    16 hexadecimal digits: at 10 million pages two of them collide with a probability of 3 in 1,000,000.
    """
    return hashlib.sha256(f"{source}\0{position}".encode()).hexdigest()[:16]
