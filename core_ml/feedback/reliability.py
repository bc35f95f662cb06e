"""How reliable each labeler is, and what all of them together most likely mean: Dawid and Skene's model.

Each pair of answers has one true verdict that nobody sees (the first is better, tied, the second is better), and each
labeler a confusion matrix: how probably they say k where c is true. Both are fitted at once by expectation
maximisation, from the majority's view onwards; so a labeler counts by how far the others bear them out, and nobody
needs gold groups. Ordered categories of single answers are fitted by `fit` in the same way.

Departures: which answer of a pair is "the first" means nothing here, so confusions are kept equal when both are
exchanged, which doubles what is known of a labeler; and pseudo-votes keep a labeler with three votes from 0 and 1.
Source: Dawid and Skene 1979, "Maximum likelihood estimation of observer error-rates using the EM algorithm".
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import numpy as np

from core_ml.feedback.agreement import places, verdicts

MAX_ITERATIONS = 200
TOLERANCE = 1e-7
"""EM ends when the log-likelihood of a vote rises by less."""
SMOOTHING = 0.5
"""Pseudo-votes in each row of a confusion matrix, spread as all labelers' votes in that row are."""
FIRST, TIED, SECOND = range(3)


class Judged(Protocol):
    """A ranking, of whatever class: who says it, and the order, best first."""

    @property
    def labeler(self) -> str: ...
    @property
    def order(self) -> Sequence[Sequence[int]]: ...


@dataclass(frozen=True, slots=True)
class Fit:
    """prior: (K,); confusion: (L, K, K), true class by said class; posterior: (I, K); rising log_likelihood a vote."""

    prior: np.ndarray
    confusion: np.ndarray
    posterior: np.ndarray
    log_likelihood: list[float]


def fit(
    items: np.ndarray,
    labelers: np.ndarray,
    said: np.ndarray,
    n_classes: int,
    *,
    symmetric: bool = False,
    smoothing: float = SMOOTHING,
    max_iterations: int = MAX_ITERATIONS,
    tolerance: float = TOLERANCE,
) -> Fit:
    """Dawid and Skene's model of N votes of L labelers on I items in K classes.

    Args:
        items, labelers, said: (N,) int, numbered from 0 without gaps; said is the class voted for.
        symmetric: class c and K - 1 - c are mirror images (a pair of answers exchanged).
        smoothing: pseudo-votes a row; 0 is maximum likelihood, as in the paper.
    Raises: ValueError when there are no votes.
    """
    if not len(said):
        raise ValueError("no votes: there is nothing to measure reliability by")
    n_items, n_labelers = int(items.max()) + 1, int(labelers.max()) + 1
    cells = labelers.astype(np.int64) * n_classes + said  # of (L, K), by vote
    posterior = _sums(items * n_classes + said, np.ones(len(said)), n_items * n_classes)
    posterior = posterior.reshape(n_items, n_classes)
    posterior /= posterior.sum(axis=1, keepdims=True)
    likelihoods: list[float] = []
    while True:
        prior, confusion = _maximize(posterior, items, cells, n_labelers, symmetric, smoothing)
        posterior, found = _expect(prior, confusion, items, cells)
        likelihoods.append(found / len(said))
        gain = likelihoods[-1] - likelihoods[-2] if len(likelihoods) > 1 else np.inf
        if gain < tolerance or len(likelihoods) >= max_iterations:
            return Fit(prior, confusion, posterior, likelihoods)


def _sums(index: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    return np.bincount(index, weights=values, minlength=n)


def _maximize(
    posterior: np.ndarray,
    items: np.ndarray,
    cells: np.ndarray,
    n_labelers: int,
    symmetric: bool,
    smoothing: float,
) -> tuple[np.ndarray, np.ndarray]:
    n_classes = posterior.shape[1]
    prior = posterior.mean(axis=0)
    by_true = [_sums(cells, posterior[items, c], n_labelers * n_classes) for c in range(n_classes)]
    counts = np.stack(by_true).reshape(n_classes, n_labelers, n_classes).transpose(1, 0, 2)
    if symmetric:
        prior = (prior + prior[::-1]) / 2
        counts = counts + counts[:, ::-1, ::-1]
    together = counts.sum(axis=0)
    usual = np.divide(together, together.sum(axis=1, keepdims=True), out=np.full_like(together, 1 / n_classes), where=together.sum(axis=1, keepdims=True) > 0)  # fmt: skip
    counts = counts + smoothing * usual
    totals = counts.sum(axis=2, keepdims=True)
    # Without smoothing a labeler may never have met a class: then all votes there are as likely.
    return prior, np.divide(counts, totals, out=np.full_like(counts, 1 / n_classes), where=totals > 0)


def _expect(
    prior: np.ndarray, confusion: np.ndarray, items: np.ndarray, cells: np.ndarray
) -> tuple[np.ndarray, float]:
    """(I, K) how probable each class is for each item, and the log-likelihood of all votes."""
    n_classes = len(prior)
    n_items = int(items.max()) + 1
    with np.errstate(divide="ignore"):
        log_prior, log_confusion = np.log(prior), np.log(confusion)
    # What cannot be is worth -700: a true -inf would make nan of 0 · inf, and exp(-700) is nothing.
    log_confusion = np.maximum(log_confusion, -700)
    logits = np.stack(
        [
            max(log_prior[c], -700) + _sums(items, log_confusion[:, c].reshape(-1)[cells], n_items)
            for c in range(n_classes)
        ],
        axis=1,
    )
    top = logits.max(axis=1, keepdims=True)
    weights = np.exp(logits - top)
    totals = weights.sum(axis=1, keepdims=True)
    return weights / totals, float((top + np.log(totals)).sum())


@dataclass(frozen=True, slots=True)
class Consensus:
    """What all labelers together say of one group: an order, and the mean probability of its pairs' verdicts."""

    group_id: str
    order: list[list[int]]
    confidence: float
    pairs: dict[tuple[int, int], tuple[float, float, float]]
    """By pair of answers how probably the first is better, both are tied, the second is better."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """The fit of a dataset's pairs, by the names of labelers and the ids of groups."""

    labelers: list[str]
    n_votes: list[int]
    fit: Fit
    _groups: list[tuple[str, int, int]]
    _firsts: np.ndarray
    _seconds: np.ndarray

    def accuracies(self) -> dict[str, float]:
        """How probably each labeler's verdict on a pair is the true one."""
        found = np.einsum("c,lcc->l", self.fit.prior, self.fit.confusion)
        return {name: float(value) for name, value in zip(self.labelers, found, strict=True)}

    def weights(self) -> dict[str, float]:
        """What a labeler's pairs are worth to a reward model: 1 for a faultless one, 0 for one who guesses.

        Of pairs that the labeler orders, the share of right orders less that of wrong ones: where it is 0 or less,
        a coin would do as well, and their pairs are left out.
        """
        right, wrong = self._orders(FIRST), self._orders(SECOND)
        with np.errstate(invalid="ignore"):
            found = np.where(right + wrong > 0, (right - wrong) / (right + wrong), 0)
        return {name: max(0.0, float(value)) for name, value in zip(self.labelers, found, strict=True)}

    def _orders(self, said: int) -> np.ndarray:
        """(L,) probability of each verdict where the first is truly better; a true tie cannot be ordered rightly."""
        return self.fit.confusion[:, FIRST, said]

    def consensus(self) -> Iterator[Consensus]:
        for group_id, start, end in self._groups:
            probabilities = self.fit.posterior[start:end]
            pairs = {
                (int(i), int(j)): (float(p[FIRST]), float(p[TIED]), float(p[SECOND]))
                for i, j, p in zip(
                    self._firsts[start:end], self._seconds[start:end], probabilities, strict=True
                )
            }
            yield Consensus(group_id, consensus_order(pairs), float(probabilities.max(axis=1).mean()), pairs)

    def as_dict(self) -> list[dict[str, Any]]:
        """Each labeler, the most reliable first, ready for JSON."""
        accuracies, weights = self.accuracies(), self.weights()
        found = [
            {"labeler": name, "votes": n, "reliability": accuracies[name], "weight": weights[name]}
            for name, n in zip(self.labelers, self.n_votes, strict=True)
        ]
        return sorted(found, key=lambda entry: (-entry["reliability"], entry["labeler"]))


def consensus_order(pairs: dict[tuple[int, int], tuple[float, float, float]]) -> list[list[int]]:
    """An order by expected wins over the pairs; neighbours are tied where a tie is the likeliest of the three."""
    wins: dict[int, float] = {}
    met: dict[int, int] = {}
    for (i, j), (first, tied, second) in pairs.items():
        for index, won in ((i, first + tied / 2), (j, second + tied / 2)):
            wins[index] = wins.get(index, 0) + won
            met[index] = met.get(index, 0) + 1
    order: list[list[int]] = []
    for index in sorted(wins, key=lambda index: (-wins[index] / met[index], index)):
        before = order[-1][-1] if order else index
        verdict = pairs.get((min(before, index), max(before, index)))
        if verdict and verdict[TIED] >= max(verdict[FIRST], verdict[SECOND]):
            order[-1].append(index)
        else:
            order.append([index])
    return order


def of_groups(groups: Iterable[tuple[str, int, Sequence[Judged]]], **settings: Any) -> Reliability:
    """Reliability of all who ranked some groups.

    Args:
        groups: id, number of answers and rankings of each; a labeler's later rankings of one group are passed over.
        settings: of `fit`.
    Raises: ValueError when no ranking says anything of any pair, or an order is malformed.
    """
    numbers: dict[str, int] = {}
    votes: tuple[array[int], array[int], array[int]] = (array("i"), array("i"), array("b"))
    firsts, seconds = array("i"), array("i")
    spans: list[tuple[str, int, int]] = []
    for group_id, n, rankings in groups:
        once = {ranking.labeler: ranking for ranking in reversed(rankings)}
        if not once:
            continue
        said = verdicts(np.stack([places(ranking.order, n) for ranking in once.values()]))
        who = [numbers.setdefault(name, len(numbers)) for name in once]
        start = len(firsts)
        for pair, column in zip(combinations(range(n), 2), said.T, strict=True):
            given = [(labeler, int(v) + 1) for labeler, v in zip(who, column, strict=True) if not np.isnan(v)]
            if not given:
                continue
            for labeler, value in given:
                votes[0].append(len(firsts))
                votes[1].append(labeler)
                votes[2].append(value)
            firsts.append(pair[0])
            seconds.append(pair[1])
        if len(firsts) > start:
            spans.append((group_id, start, len(firsts)))
    items, labelers, verdict = (np.array(column, dtype=np.int64) for column in votes)
    if not len(items):
        raise ValueError("no votes: rank some groups of two or more answers")
    # Who handed in nothing but empty rankings has no votes and no reliability.
    voted, labelers = np.unique(labelers, return_inverse=True)
    names = np.array(list(numbers))[voted].tolist()
    found = fit(items, labelers, verdict, 3, symmetric=True, **settings)
    n_votes = np.bincount(labelers, minlength=len(names)).tolist()
    return Reliability(names, n_votes, found, spans, np.array(firsts), np.array(seconds))
