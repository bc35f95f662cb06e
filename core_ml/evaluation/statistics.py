"""Intervals for shares, since a share of sixty problems is not a number but a range."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.959964  # two-sided 95 %


@dataclass(frozen=True, slots=True)
class Share:
    """A share or a mean with its 95 % interval, from `n` observations."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f}, n = {self.n})"


def wilson(successes: float, n: int) -> Share:
    """The share of successes with Wilson's score interval, which stays inside 0 and 1 at small n.

    Raises: ValueError when n is 0. Source: Wilson 1927, JASA 22(158).
    """
    if n < 1:
        raise ValueError("a share of nothing has no interval")
    p = successes / n
    denominator = 1 + Z**2 / n
    center = (p + Z**2 / (2 * n)) / denominator
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / denominator
    return Share(p, max(0.0, min(center - half, p)), min(1.0, max(center + half, p)), n)


def clustered(outcomes: Sequence[Sequence[float]], draws: int = 1000, seed: int = 0) -> Share | None:
    """The mean of outcomes from 0 to 1, or of their differences, that come in clusters, with a bootstrap interval over those.

    Pairs of one prompt share its answers, so they are not independent; resampling prompts respects that. A single prompt
    says nothing of others: its interval is all that outcomes can be.
    Returns None when there is no outcome. Source: Efron and Tibshirani 1993, chapter 8.
    """
    groups = [group for group in outcomes if len(group)]
    if not groups:
        return None
    sums = np.array([sum(group) for group in groups], dtype=float)
    counts = np.array([len(group) for group in groups], dtype=float)
    if len(groups) == 1:
        least = -1.0 if min(groups[0]) < 0 else 0.0
        return Share(float(sums[0] / counts[0]), least, 1.0, int(counts[0]))
    rng = np.random.default_rng(seed)
    # As many clusters as there are, drawn with replacement: the counts of each draw are multinomial.
    weights = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=draws)
    means = (weights @ sums) / (weights @ counts)
    low, high = np.quantile(means, (0.025, 0.975))
    return Share(float(sums.sum() / counts.sum()), float(low), float(high), int(counts.sum()))


def mean(values: Sequence[float]) -> Share:
    """A mean with its normal interval. Raises: ValueError for no values."""
    if not len(values):
        raise ValueError("a mean of nothing has no interval")
    array = np.asarray(values, dtype=float)
    half = Z * array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else math.inf
    return Share(float(array.mean()), float(array.mean() - half), float(array.mean() + half), len(array))


def paired_change(before: Sequence[float], after: Sequence[float]) -> Share:
    """The mean change of the same problems, with its interval; the pairing takes out how hard they are."""
    return mean([b - a for a, b in zip(before, after, strict=True)])
