"""What can be said of a response without understanding it: its length, its form, its repetitions.

People's preferences follow such features far, and a small network finds them slowly. So they are weighed by a
logistic regression on the training pairs, and the network learns what that leaves over. A part of the weighing may
be left out when a response is scored: leave out length, and what length explains is neither learned nor rewarded.
Sources: the known bias is kept apart while learning and dropped afterwards, as the bias product of Clark et al.
2019, arXiv:1909.03683, section 3.2, and, for length, Dubois et al. 2024, arXiv:2404.04475.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from core_ml.feedback.pairs import Group

WORD = re.compile(r"\w+")
SENTENCE = re.compile(r"[.!?](?:\s|$)")
ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
REFUSAL = re.compile(r"\b(?:sorry|cannot|can't|unable|as an ai)\b", re.IGNORECASE)
ENDS = (".", "!", "?", '"', "'", ")", "`", ":", "”")


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _repetition(text: str) -> float:
    words = _words(text)
    threes = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(threes)) / len(threes) if threes else 0.0


def _variety(text: str) -> float:
    words = _words(text)
    return len(set(words)) / math.sqrt(len(words)) if words else 0.0


def _echo(prompt: str, text: str) -> float:
    words = set(_words(text))
    return len(words & set(_words(prompt))) / len(words) if words else 0.0


LENGTH = ("characters", "lines", "sentences", "variety")
"""Features that grow with length."""
FEATURES: dict[str, Callable[[str, str], float]] = {
    "characters": lambda prompt, text: math.log1p(len(text)),
    "lines": lambda prompt, text: math.log1p(text.count("\n")),
    "sentences": lambda prompt, text: math.log1p(len(SENTENCE.findall(text))),
    "variety": lambda prompt, text: _variety(text),
    "length of words": lambda prompt, text: np.mean([len(w) for w in _words(text)] or [0]).item(),
    "items of lists": lambda prompt, text: math.log1p(len(ITEM.findall(text))),
    "code": lambda prompt, text: float("```" in text),
    "digits": lambda prompt, text: sum(c.isdigit() for c in text) / max(1, len(text)),
    "marks": lambda prompt, text: sum(not c.isalnum() and not c.isspace() for c in text) / max(1, len(text)),
    "ends": lambda prompt, text: float(text.rstrip().endswith(ENDS)),
    "question at the end": lambda prompt, text: float(text.rstrip().endswith("?")),
    "repetition": lambda prompt, text: _repetition(text),
    "echo of the prompt": _echo,
    "refusal": lambda prompt, text: float(bool(REFUSAL.search(text))),
    "empty": lambda prompt, text: float(not text.strip()),
}


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
    groups: Iterable[Group], names: Sequence[str], left_out: Sequence[str] = (), ridge: float = 1.0
) -> Surface:
    """Weigh features such that their differences give the log-odds of all pairs; every ranking counts its weight.

    Newton's method on the logistic likelihood with a quadratic penalty, which is convex: it has one answer.

    Args:
        ridge: the penalty on each weight, in pairs.
    """
    groups = [group for group in groups if group.pairs()]
    tables = [_table(names, [group.prompt] * len(group.completions), group.completions) for group in groups]
    everything = np.concatenate(tables)
    mean, std = everything.mean(0), everything.std(0)
    std[std < 1e-9] = 1.0
    differences, counts = [], []
    for group, table in zip(groups, tables, strict=True):
        standard = _standard(table, mean, std)
        for ranking in group.rankings:
            for better, worse in ranking.pairs():
                differences.append(standard[better] - standard[worse])
                counts.append(ranking.weight)
    x, weight = np.array(differences), np.array(counts)
    found = np.zeros(len(names))
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ found, -30, 30)))  # of each pair as it was labelled
        gradient = x.T @ (weight * (1 - p)) - ridge * found
        curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + ridge * np.eye(len(names))
        step = np.linalg.solve(curvature, gradient)
        found = found + step
        if np.abs(step).max() < 1e-9:
            break
    return Surface(
        tuple(names), tuple(mean.tolist()), tuple(std.tolist()), tuple(found.tolist()), tuple(left_out)
    )


def _table(names: Sequence[str], prompts: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    rows = [[FEATURES[name](*pair) for name in names] for pair in zip(prompts, texts, strict=True)]
    return np.array(rows, dtype=float).reshape(len(rows), len(names))


def _standard(table: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    # A response far outside of those that were ranked is not to win by that alone.
    return np.clip((table - np.array(mean)) / np.array(std), -4, 4)
