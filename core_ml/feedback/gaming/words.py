"""What patterns are made of, counted in the chat model's own answers: words, beginnings and ends."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

_SENTENCE = re.compile(r"[^.!?]*[.!?]+")


def frequent(texts: Iterable[str], n: int) -> list[str]:
    """The `n` words that stand most often, with the marks that stand at them; ties in the order of the alphabet."""
    return _first(Counter(word for text in texts for word in text.split()), n)


def openers(texts: Sequence[str], n: int) -> list[str]:
    """The commonest first words, one to four of them, and first sentences."""
    counts: Counter[str] = Counter()
    for text in texts:
        words = text.split()
        own = {" ".join(words[:k]) for k in range(1, 5) if len(words) >= k}
        counts.update(own.union(_sentences(text)[:1]))
    return _first(counts, n)


def closers(texts: Sequence[str], n: int) -> list[str]:
    """The commonest last words, one to four of them, and last sentences."""
    counts: Counter[str] = Counter()
    for text in texts:
        words = text.split()
        own = {" ".join(words[-k:]) for k in range(1, 5) if len(words) >= k}
        counts.update(own.union(_sentences(text)[-1:]))
    return _first(counts, n)


def _sentences(text: str) -> list[str]:
    return [found.strip() for found in _SENTENCE.findall(text) if found.strip()]


def _first(counts: Counter[str], n: int) -> list[str]:
    return [text for text, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:n]]
