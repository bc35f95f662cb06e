"""What can be said of a response without understanding it: its length, its form, its repetitions.

People's preferences follow such features far, and a small network finds them slowly. So they are weighed by a
logistic regression on the training pairs, and the network learns what that leaves over. A part of the weighing may
be left out when a response is scored: leave out length, and what length explains is neither learned nor rewarded.
Sources: the known bias is kept apart while learning and dropped afterwards, as the bias product of Clark et al.
2019, arXiv:1909.03683, section 3.2, and, for length, Dubois et al. 2024, arXiv:2404.04475.
"""

import math
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np

from core_ml.feedback.pairs import Group, folds

WORD = re.compile(r"\w+")
SENTENCE = re.compile(r"[.!?](?:\s|$)")
BREAK = re.compile(r"[.!?\n]+")
ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
REFUSAL = re.compile(r"\b(?:sorry|cannot|can't|unable|as an ai)\b", re.IGNORECASE)
LINK = re.compile(r"https?://|\bwww\.")
TEMPLATE = re.compile(
    r"###|\b(?:instruction|input|output|question|answer|explanation):|</?[a-z]+>|\\begin\b", re.IGNORECASE
)
"""What a network copies from the templates that it was taught with, and goes on writing after its answer."""
ENDS = (".", "!", "?", '"', "'", ")", "`", ":", "”")
ABOUT_ITSELF, TO_THE_READER = {"i", "me", "my"}, {"you", "your"}


@lru_cache(maxsize=1024)
def _words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(text.lower()))


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = _words(text)
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def _repetition(text: str) -> float:
    threes = _grams(text, 3)
    return 1 - len(set(threes)) / len(threes) if threes else 0.0


def _repeated_sentences(text: str) -> float:
    sentences = [part.strip().lower() for part in BREAK.split(text) if part.strip()]
    return 1 - len(set(sentences)) / len(sentences) if sentences else 0.0


def _sentence_length(text: str) -> float:
    return math.log1p(len(_words(text)) / max(1, sum(bool(part.strip()) for part in BREAK.split(text))))


def _variety(text: str) -> float:
    words = _words(text)
    return len(set(words)) / math.sqrt(len(words)) if words else 0.0


def _echo(prompt: str, text: str) -> float:
    words = set(_words(text))
    return len(words & set(_words(prompt))) / len(words) if words else 0.0


def _taken_up(prompt: str, text: str) -> float:
    words = set(_words(prompt))
    return len(words & set(_words(text))) / len(words) if words else 0.0


def _copied(prompt: str, text: str) -> float:
    fours = set(_grams(text, 4))
    return len(fours & set(_grams(prompt, 4))) / len(fours) if fours else 0.0


def _compressed(text: str) -> float:
    raw = text.encode("utf-8", "replace")
    return len(zlib.compress(raw)) / max(20, len(raw))  # some bytes are zlib's own


def _share_of(text: str, some: set[str]) -> float:
    words = _words(text)
    return sum(word in some for word in words) / max(1, len(words))


LENGTH = ("characters", "lines", "sentences", "variety", "words", "new words", "paragraphs", "great length")
"""Features that grow with length."""
FEATURES: dict[str, Callable[[str, str], float]] = {
    "characters": lambda prompt, text: math.log1p(len(text)),
    "lines": lambda prompt, text: math.log1p(text.count("\n")),
    "sentences": lambda prompt, text: math.log1p(len(SENTENCE.findall(text))),
    "variety": lambda prompt, text: _variety(text),
    "words": lambda prompt, text: math.log1p(len(_words(text))),
    "new words": lambda prompt, text: math.log1p(len(set(_words(text)) - set(_words(prompt)))),
    "paragraphs": lambda prompt, text: math.log1p(text.count("\n\n")),
    # From about 660 characters on length may count otherwise.
    "great length": lambda prompt, text: max(0.0, math.log1p(len(text)) - 6.5),
    "length of words": lambda prompt, text: np.mean([len(w) for w in _words(text)] or [0]).item(),
    "length of sentences": lambda prompt, text: _sentence_length(text),
    "items of lists": lambda prompt, text: math.log1p(len(ITEM.findall(text))),
    "code": lambda prompt, text: float("```" in text),
    "links": lambda prompt, text: float(bool(LINK.search(text))),
    "digits": lambda prompt, text: sum(c.isdigit() for c in text) / max(1, len(text)),
    "marks": lambda prompt, text: sum(not c.isalnum() and not c.isspace() for c in text) / max(1, len(text)),
    "capitals": lambda prompt, text: sum(c.isupper() for c in text) / max(1, len(text)),
    "begins small": lambda prompt, text: float(text.strip()[:1].islower()),
    "begins blank": lambda prompt, text: float(text[:1].isspace()),
    "ends": lambda prompt, text: float(text.rstrip().endswith(ENDS)),
    "question at the end": lambda prompt, text: float(text.rstrip().endswith("?")),
    "questions": lambda prompt, text: math.log1p(text.count("?")),
    "exclamations": lambda prompt, text: math.log1p(text.count("!")),
    "repetition": lambda prompt, text: _repetition(text),
    "repeated sentences": lambda prompt, text: _repeated_sentences(text),
    "compressed": lambda prompt, text: _compressed(text),
    "echo of the prompt": _echo,
    "prompt taken up": _taken_up,
    "copied from the prompt": _copied,
    "template": lambda prompt, text: float(bool(TEMPLATE.search(text))),
    "about itself": lambda prompt, text: _share_of(text, ABOUT_ITSELF),
    "to the reader": lambda prompt, text: _share_of(text, TO_THE_READER),
    "refusal": lambda prompt, text: float(bool(REFUSAL.search(text))),
    "empty": lambda prompt, text: float(not text.strip()),
}
RIDGES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
FEW_PROMPTS = 10


@dataclass(frozen=True, slots=True)
class Surface:
    """A linear weighing of features, each in standard deviations of the responses that it was fitted to."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: tuple[float, ...]
    left_out: tuple[str, ...] = ()
    """Features that count while the network learns and not when a response is scored."""

    def scores(self, prompts: Sequence[str], texts: Sequence[str], whole: bool = False) -> list[float]:
        """One number for each response; `whole` counts what is left out as well."""
        kept = [whole or name not in self.left_out for name in self.names]
        weights = np.array(self.weights) * kept
        return (_standard(_table(self.names, prompts, texts), self.mean, self.std) @ weights).tolist()

    def as_dict(self) -> dict[str, Any]:
        return {name: list(getattr(self, name)) for name in self.__slots__}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Raises: ValueError for what `as_dict` does not make."""
        numbers = [tuple(float(x) for x in fields[name]) for name in ("mean", "std", "weights")]
        names, left_out = tuple(fields["names"]), tuple(fields["left_out"])
        finite = all(math.isfinite(x) for row in numbers for x in row) and all(x > 0 for x in numbers[1])
        if not set(names) <= FEATURES.keys() or {len(row) for row in numbers} != {len(names)} or not finite:
            raise ValueError("its features do not fit their weights")
        return cls(names, numbers[0], numbers[1], numbers[2], left_out)


def fit(
    groups: Iterable[Group], names: Sequence[str], left_out: Sequence[str] = (), ridge: float | None = 1.0
) -> Surface:
    """Weigh features such that their differences give the log-odds of all pairs; every ranking counts its weight.

    Newton's method on the logistic likelihood with a quadratic penalty, which is convex: it has one answer.

    Args:
        ridge: the penalty on each weight, in pairs; None takes the one of RIDGES with which prompts that were left
            out come out likeliest.
    """
    groups = [group for group in groups if group.pairs()]
    tables = [_table(names, [group.prompt] * len(group.completions), group.completions) for group in groups]
    if ridge is None:
        ridge = _best_ridge(groups, tables)
    mean, std, weights = _weigh(groups, tables, ridge)
    return Surface(
        tuple(names), tuple(mean.tolist()), tuple(std.tolist()), tuple(weights.tolist()), tuple(left_out)
    )


def _best_ridge(groups: Sequence[Group], tables: Sequence[np.ndarray]) -> float:
    parts = folds(groups, 5, seed=0)
    if len({group.prompt for group in groups}) < FEW_PROMPTS:
        return 30.0  # too few to tell: the one that is most often best on people's preferences
    loss = dict.fromkeys(RIDGES, 0.0)
    for train, left in parts:
        for ridge in RIDGES:
            mean, std, weights = _weigh([groups[i] for i in train], [tables[i] for i in train], ridge)
            margins, counts = _pairs([groups[i] for i in left], [tables[i] for i in left], mean, std)
            loss[ridge] += float((counts * np.logaddexp(0, -margins @ weights)).sum())
    return min(RIDGES, key=loss.__getitem__)


def _weigh(
    groups: Sequence[Group], tables: Sequence[np.ndarray], ridge: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature, and its weight."""
    everything = np.concatenate(tables)
    mean, std = everything.mean(0), everything.std(0)
    std[std < 1e-9] = 1.0
    x, weight = _pairs(groups, tables, mean, std)
    found = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ found, -30, 30)))  # of each pair as it was labelled
        gradient = x.T @ (weight * (1 - p)) - ridge * found
        curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + ridge * np.eye(x.shape[1])
        step = np.linalg.solve(curvature, gradient)
        found = found + step
        if np.abs(step).max() < 1e-9:
            break
    return mean, std, found


def _pairs(
    groups: Sequence[Group], tables: Sequence[np.ndarray], mean: np.ndarray, std: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(pairs, features) of the better response less the worse, and how much each pair counts."""
    differences, counts = [], []
    for group, table in zip(groups, tables, strict=True):
        standard = _standard(table, mean, std)
        for ranking in group.rankings:
            for better, worse in ranking.pairs():
                differences.append(standard[better] - standard[worse])
                counts.append(ranking.weight)
    return np.array(differences), np.array(counts)


def _table(names: Sequence[str], prompts: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    rows = [[FEATURES[name](*pair) for name in names] for pair in zip(prompts, texts, strict=True)]
    return np.array(rows, dtype=float).reshape(len(rows), len(names))


def _standard(table: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    # A response far outside of those that were ranked is not to win by that alone.
    return np.clip((table - np.array(mean)) / np.array(std), -4, 4)
