"""What a tokenizer makes of texts: how far a token reaches in each language and domain, and which tokens do nothing.

Words are what stands between white space, so languages that write none have no tokens a word. A learned token is
dead when it never stands in the texts that it was learned from: every time, a later merge took it in.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core_ml.tokenizer.tokenizer import Ids, Tokenizer

WITHOUT_SPACES = ("zh", "ja", "th", "lo", "km", "my", "bo", "yue", "wuu")
MAX_GROUPS = 12
RARE = 10
"""A token that stands fewer times in the texts it was learned from has been seen too seldom to be learned well."""

AT_ONCE = 500_000
Counts = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Text:
    """A text with what its row says of it; None where it says nothing."""

    text: str
    language: str | None = None
    domain: str | None = None


@dataclass
class Count:
    n_bytes: int = 0
    n_tokens: int = 0
    n_words: int = 0

    def add(self, n_bytes: int, n_tokens: int, n_words: int) -> None:
        self.n_bytes += n_bytes
        self.n_tokens += n_tokens
        self.n_words += n_words

    @property
    def bytes_per_token(self) -> float:
        return self.n_bytes / max(1, self.n_tokens)

    @property
    def tokens_per_word(self) -> float:
        return self.n_tokens / max(1, self.n_words)


@dataclass
class Measured:
    """Counts of texts, in all and by group, and of the sizes of their tokens."""

    total: Count = field(default_factory=Count)
    languages: dict[str, Count] = field(default_factory=dict)
    domains: dict[str, Count] = field(default_factory=dict)
    lengths: dict[int, int] = field(default_factory=dict)


def measure(tokenizer: Tokenizer, texts: Iterable[Text]) -> Measured:
    found = Measured()
    sizes = np.array([len(data) for data in tokenizer.token_bytes])
    lengths = np.zeros(int(sizes.max()) + 1, dtype=np.int64)

    def keyed() -> Iterator[tuple[Text, str]]:
        for text in texts:
            for groups, name in ((found.languages, text.language), (found.domains, text.domain)):
                if name:
                    groups.setdefault(name, Count()).add(0, 0, len(text.text.split()))
            found.total.add(0, 0, len(text.text.split()))
            yield text, text.text

    for text, ids in tokenizer.encode_arrays(keyed()):
        of_tokens = sizes[ids]
        n_bytes, n_tokens = int(of_tokens.sum()), len(ids)
        lengths += np.bincount(of_tokens, minlength=len(lengths))
        found.total.add(n_bytes, n_tokens, 0)
        for groups, name in ((found.languages, text.language), (found.domains, text.domain)):
            if name:
                groups[name].add(n_bytes, n_tokens, 0)
    found.lengths = {size: int(n) for size, n in enumerate(lengths) if n}
    return found


def rows(groups: dict[str, Count]) -> list[dict[str, Any]]:
    """Of each group its figures, the largest first; past the first few they are one."""
    ordered = sorted(groups.items(), key=lambda item: (-item[1].n_bytes, item[0]))
    kept = ordered[:MAX_GROUPS]
    if len(ordered) > MAX_GROUPS:
        others = Count()
        for _, count in ordered[MAX_GROUPS:]:
            others.add(count.n_bytes, count.n_tokens, count.n_words)
        kept.append((f"{len(ordered) - MAX_GROUPS:,} others", others))
    return [_row(name, count) for name, count in kept]


def _row(name: str, count: Count) -> dict[str, Any]:
    spaced = name.replace("_", "-").partition("-")[0] not in WITHOUT_SPACES
    return {
        "name": name[:80],
        "bytes": count.n_bytes,
        "bytes_per_token": round(count.bytes_per_token, 3),
        "tokens_per_word": round(count.tokens_per_word, 3) if spaced and count.n_words else None,
    }


def occurrences(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[Counts]:
    """How often each token stands in the texts so far, now and then and at last: one array of (vocab_size,)."""
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    waiting: list[Ids] = []
    n_waiting = 0
    for _, ids in tokenizer.encode_arrays((None, text) for text in texts):
        waiting.append(ids)
        n_waiting += len(ids)
        if n_waiting > AT_ONCE:
            counts += np.bincount(np.concatenate(waiting), minlength=len(counts))
            waiting, n_waiting = [], 0
            yield counts
    if waiting:
        counts += np.bincount(np.concatenate(waiting), minlength=len(counts))
    yield counts


def seldom(tokenizer: Tokenizer, counts: Counts) -> list[tuple[int, int]]:
    """Learned tokens that stand in the texts fewer than `RARE` times, with their counts, the rarest first."""
    learned = (id for id, data in enumerate(tokenizer.token_bytes) if len(data) > 1)
    found = [(id, int(counts[id])) for id in learned if counts[id] < RARE]
    return sorted(found, key=lambda item: (item[1], item[0]))
