"""Stage 1, URL filtering: is the address itself reason enough to leave a page out?"""

import re
from functools import lru_cache
from urllib.parse import urlsplit

_PUNCTUATION = re.compile(r"[\W_]+")


def measure(url: str, banned_domains: tuple[str, ...], banned_words: tuple[str, ...]) -> dict[str, float]:
    """Hits of the two lists in an address; a domain covers all that lies below it."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:  # an address that is none has no host
        host = ""
    labels = host.split(".")
    domains = as_set(banned_domains)
    hits = sum(".".join(labels[start:]) in domains for start in range(len(labels)))
    words = as_set(banned_words)
    return {
        "banned_domain_hits": float(hits),
        "banned_word_hits": float(sum(word in words for word in _PUNCTUATION.split(url.lower()))),
    }


@lru_cache(8)
def as_set(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name.strip().lower().strip(".") for name in names)
