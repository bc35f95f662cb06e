"""How far labelers agree: by pairs of answers, by the answers' places, by flag, each labeler with the others.

A ranking says of each pair of answers that it names: the first is better, both are tied, or the second is better.
Two labelers' verdicts on one pair then stand in one of four ways, and a tie is treated so:

* `agreement` takes a tie for a third verdict: a share of all pairs that two labelers both judged. A tie against an
  order is a disagreement, a tie against a tie an agreement.
* `agreement_ordered` leaves out each pair that either of the two tied, as a reward model does.
* `alpha` is Krippendorff's, ordinal: a tie lies between the two orders. `alpha_nominal` takes the three as unlike.
* `alpha_places` is ordinal too, over answers in place of pairs: tied answers stand at the mean of their places.
* `tau_b` is Kendall's, the mean over pairs of labelers who ranked one group.

A pair of answers in a group that two labelers ranked counts once for each two of its labelers. Intervals come from a
bootstrap over groups, since what one group says hangs together. All is added up a group at a time: memory does not
grow with the groups. Beyond N_BLOCKS groups, blocks of them are drawn, dealt in the order in which they come.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from core_ml.feedback import alpha

N_RESAMPLES = 1000  # the error of a bound is then well below the interval's width
N_BLOCKS = 2048  # resampled units at most; their number makes an interval's own width uncertain by 1.6 %
MAX_PLACES = 16  # answers of a group whose places count for alpha_places; larger groups count by pairs alone
MAX_LABELERS = 1000  # who are told apart, and MAX_BETWEEN pairs of them; a crowd's others count in the totals
MAX_BETWEEN = 10_000
ALL_BAD = "all bad"

VERDICTS = np.array([-1.0, 0.0, 1.0])  # the first is better, tied, the second is better
PLACES = np.arange(1, MAX_PLACES + 0.5, 0.5)
SAME, BOTH_TIED, ONE_TIED, OPPOSITE = range(4)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one labeler says of one group: an order, best first, and flags by answer."""

    labeler: str
    order: Sequence[Sequence[int]]
    all_bad: bool = False
    flags: Mapping[int, Iterable[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """A measure with its 95 % bootstrap interval; None where the data do not say."""

    value: float | None
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}


def places(order: Sequence[Sequence[int]], n: int) -> np.ndarray:
    """(n,) place of each answer, 1 for the best, tied answers at the mean of theirs; NaN where it is not named.

    Raises: ValueError when an answer is out of range or named twice.
    """
    found = np.full(n, np.nan)
    taken = 0
    for tied in order:
        for index in tied:
            if not 0 <= index < n or not np.isnan(found[index]):
                raise ValueError(f"an order names each of 0 to {n - 1} at most once: {order}")
            found[index] = taken + (len(tied) + 1) / 2
        taken += len(tied)
    return found


def verdicts(places: np.ndarray) -> np.ndarray:
    """(L, P) -1, 0 or 1 for each labeler and pair of answers, of (L, n) places; NaN for a pair not judged."""
    first, second = np.triu_indices(places.shape[1], 1)
    return np.sign(places[:, first] - places[:, second])


def compared(verdicts: np.ndarray) -> np.ndarray:
    """(4, L, L) how many pairs each two labelers judge alike, both tie, one of them ties, and judge oppositely."""
    judged = ~np.isnan(verdicts)
    signs = np.nan_to_num(verdicts)
    ordered, tied = np.abs(signs), judged & (signs == 0)
    balance, both = signs @ signs.T, ordered @ ordered.T
    both_tied = tied.astype(float) @ tied.T
    one_tied = judged.astype(float) @ judged.T - both - both_tied
    return np.stack([(both + balance) / 2, both_tied, one_tied, (both - balance) / 2])


def tau_b(verdicts: np.ndarray) -> np.ndarray:
    """(L, L) Kendall's tau-b of each two labelers over the pairs both judged; NaN where one of them ties all.

    Source: Kendall 1945, "The treatment of ties in ranking problems".
    """
    judged = (~np.isnan(verdicts)).astype(float)
    signs = np.nan_to_num(verdicts)
    ordered = np.abs(signs) @ judged.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return (signs @ signs.T) / np.sqrt(ordered * ordered.T)


class Agreement:
    """Adds up what labelers say, a group at a time; ask for `result()` at the end."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed  # fixed, so that a page says the same at every reload
        self.n_groups = self.n_compared = self.n_rankings = 0
        self._pairs = _Blocks(4 + 9)
        self._places = _Blocks(len(PLACES) ** 2)
        self._taus: list[float] = [0.0, 0.0]
        self._labelers: defaultdict[str, _Blocks] = defaultdict(lambda: _Blocks(4 + 9))
        self._with_self: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(4))
        self._n_by_labeler: defaultdict[str, int] = defaultdict(int)
        self._between: defaultdict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(4))
        self._marks: defaultdict[str, _Blocks] = defaultdict(lambda: _Blocks(2 + 4))
        self._unmarked = _Blocks(2 + 4)
        self._unmarked_groups = _Blocks(2 + 4)

    def add(self, n: int, judgements: Sequence[Judgement]) -> float | None:
        """Count one group of n answers, with all that was said of it.

        A labeler's second ranking of a group counts for their agreement with themselves and for nothing else.
        Returns: the mean tau-b of its labelers, None when there is none: the lower, the more disputed.
        Raises: ValueError when an order names an answer that is not there, or one twice.
        """
        found = [places(judgement.order, n) for judgement in judgements]
        self.n_groups += 1
        self.n_rankings += len(judgements)
        first: dict[str, int] = {}
        for i, judgement in enumerate(judgements):
            self._n_by_labeler[judgement.labeler] += 1
            if first.setdefault(judgement.labeler, i) != i:
                again = verdicts(np.stack([found[first[judgement.labeler]], found[i]]))
                self._with_self[judgement.labeler] += compared(again)[:, 0, 1]
        if len(first) < 2:
            return None
        block = self.n_compared % N_BLOCKS
        self.n_compared += 1
        chosen = [judgements[i] for i in first.values()]
        self._add_flags(block, n, chosen)
        stood = np.stack([found[i] for i in first.values()])
        if n <= MAX_PLACES:
            self._places.add(block, alpha.coincidences(alpha.counts(stood, PLACES)))
        return self._add_pairs(block, [judgement.labeler for judgement in chosen], verdicts(stood))

    def _add_pairs(self, block: int, labelers: list[str], said: np.ndarray) -> float | None:
        ways = compared(said)
        upper = np.triu_indices(len(labelers), 1)
        counts = alpha.counts(said, VERDICTS)
        self._pairs.add(block, ways[:, *upper].sum(axis=1), alpha.coincidences(counts))
        others = ways.sum(axis=2) - np.diagonal(ways, axis1=1, axis2=2)
        for i, labeler in enumerate(labelers):
            if labeler in self._labelers or len(self._labelers) < MAX_LABELERS:
                self._labelers[labeler].add(block, others[:, i], _own_coincidences(said[i], counts))
        for i, j in combinations(range(len(labelers)), 2):
            a, b = sorted((labelers[i], labelers[j]))
            if (a, b) in self._between or len(self._between) < MAX_BETWEEN:
                self._between[a, b] += ways[:, i, j]
        taus = tau_b(said)[upper]
        taus = taus[~np.isnan(taus)]
        self._taus = [self._taus[0] + float(taus.sum()), self._taus[1] + len(taus)]
        return float(taus.mean()) if len(taus) else None

    def _add_flags(self, block: int, n: int, judgements: Sequence[Judgement]) -> None:
        """Marks of answers, and of groups for "all bad". What no labeler flags counts for every flag alike."""
        marked: dict[str, np.ndarray] = {}
        for i, judgement in enumerate(judgements):
            for index, names in judgement.flags.items():
                for name in names:
                    marked.setdefault(name, np.zeros((len(judgements), n)))[i, index] = 1
        nothing = np.zeros((len(judgements), n))
        self._unmarked.add(block, *_mark_counts(nothing))
        for name, ratings in marked.items():
            # Kept as the difference from no mark, so that a flag seen late has its earlier groups too.
            self._marks[name].add(
                block, *(a - b for a, b in zip(_mark_counts(ratings), _mark_counts(nothing), strict=True))
            )
        all_bad = np.array([[float(judgement.all_bad)] for judgement in judgements])
        self._unmarked_groups.add(block, *_mark_counts(all_bad))

    def result(self) -> dict[str, Any]:
        """All measures, ready for JSON; `labelers`, `between` and `flags` hold those of each, the largest first."""
        weights = self._weights()
        coincidences = self._pairs.drawn(weights)[:, 4:].reshape(-1, 3, 3)
        ways = self._pairs.total[:4]
        tau, n_taus = self._taus
        return {
            "groups": self.n_groups,
            "groups_compared": self.n_compared,
            "rankings": self.n_rankings,
            "n_labelers": len(self._n_by_labeler),
            "pairs": round(ways.sum()),
            **_shares(self._pairs, weights),
            "alpha": _alpha(coincidences, "ordinal").as_dict(),
            "alpha_nominal": _alpha(coincidences, "nominal").as_dict(),
            "alpha_places": _alpha(
                self._places.drawn(weights).reshape(-1, len(PLACES), len(PLACES)), "ordinal"
            ).as_dict(),
            "tau_b": tau / n_taus if n_taus else None,
            "labelers": self._by_labeler(weights, coincidences),
            "between": self._by_pair(),
            "flags": self._by_flag(weights),
        }

    def _weights(self) -> np.ndarray:
        """(1 + N_RESAMPLES, blocks) how often each block counts: all once, then draws with replacement."""
        n = min(self.n_compared, N_BLOCKS)
        whole = np.ones((1, n))
        if n < 2:
            return whole
        drawn = np.random.default_rng(self._seed).multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES)
        return np.concatenate([whole, drawn])

    def _by_labeler(self, weights: np.ndarray, all_coincidences: np.ndarray) -> list[dict[str, Any]]:
        found = []
        for labeler, n in sorted(self._n_by_labeler.items(), key=lambda item: (-item[1], item[0]))[
            :MAX_LABELERS
        ]:
            entry: dict[str, Any] = {"labeler": labeler, "rankings": n, "pairs": 0}
            blocks = self._labelers.get(labeler)
            if blocks is not None:
                own = blocks.drawn(weights)[:, 4:].reshape(-1, 3, 3)
                entry |= {"pairs": round(blocks.total[:4].sum()), **_shares(blocks, weights)}
                entry["alpha"] = _alpha(all_coincidences, "ordinal", own).as_dict()
            again = self._with_self.get(labeler)
            if again is not None and again.sum():
                entry["with_self"] = {"pairs": round(again.sum()), "agreement": _share(again)}
            found.append(entry)
        return found

    def _by_pair(self) -> list[dict[str, Any]]:
        found = [
            {"labelers": list(labelers), "pairs": round(ways.sum()), "agreement": _share(ways)}
            | {"agreement_ordered": _share_ordered(ways)}
            for labelers, ways in self._between.items()
            if ways.sum()
        ]
        return sorted(found, key=lambda entry: (-entry["pairs"], entry["labelers"]))

    def _by_flag(self, weights: np.ndarray) -> list[dict[str, Any]]:
        answers = self._unmarked.drawn(weights)
        found = [
            _flag(name, answers + marks.drawn(weights), "answers") for name, marks in self._marks.items()
        ]
        all_bad = self._unmarked_groups.drawn(weights)
        if all_bad[0, 2:].reshape(2, 2)[1].sum():
            found.append(_flag(ALL_BAD, all_bad, "groups"))
        return sorted(found, key=lambda entry: (-entry["share"], entry["flag"]))


class _Blocks:
    """Sums of `width` numbers by block of groups; only blocks that were added to take room."""

    def __init__(self, width: int) -> None:
        self._sums: defaultdict[int, np.ndarray] = defaultdict(lambda: np.zeros(width))
        self._width = width

    def add(self, block: int, *parts: np.ndarray) -> None:
        self._sums[block] += np.concatenate([part.ravel() for part in parts])

    @property
    def total(self) -> np.ndarray:
        return sum(self._sums.values(), np.zeros(self._width))

    def drawn(self, weights: np.ndarray) -> np.ndarray:
        """(draws, width) sums with each block as often as the draw has it."""
        if not self._sums:
            return np.zeros((len(weights), self._width))
        return weights[:, list(self._sums)] @ np.stack(list(self._sums.values()))


def _own_coincidences(said: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(3, 3) the coincidences in which one labeler has a part, of said (P,) verdicts and all counts (P, 3)."""
    own = (said[:, None] == VERDICTS).astype(float)
    given = counts.sum(axis=1)
    fits = (given >= 2) & (own.sum(axis=1) > 0)
    with_others = own[fits].T @ ((counts[fits] - own[fits]) / (given[fits, None] - 1))
    return with_others + with_others.T


def _mark_counts(ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(2,) pairs of labelers who mark alike and all pairs, and (2, 2) coincidences, of (L, units) marks."""
    counts = alpha.counts(ratings, np.array([0.0, 1.0]))
    n = len(ratings)
    alike = (counts * (counts - 1) / 2).sum()
    return np.array([alike, counts.shape[0] * n * (n - 1) / 2]), alpha.coincidences(counts)


def _flag(name: str, drawn: np.ndarray, unit: str) -> dict[str, Any]:
    coincidences = drawn[:, 2:].reshape(-1, 2, 2)
    marked, n = float(coincidences[0, 1].sum()), float(coincidences[0].sum())
    return {
        "flag": name,
        "unit": unit,
        "marked": round(marked),
        "share": marked / n if n else 0.0,
        "agreement": _measured(drawn[:, 0], drawn[:, 1]).as_dict(),
        "alpha": _alpha(coincidences, "nominal").as_dict(),
    }


def _share(ways: np.ndarray) -> float | None:
    return float((ways[SAME] + ways[BOTH_TIED]) / ways.sum()) if ways.sum() else None


def _share_ordered(ways: np.ndarray) -> float | None:
    ordered = ways[SAME] + ways[OPPOSITE]
    return float(ways[SAME] / ordered) if ordered else None


def _shares(blocks: _Blocks, weights: np.ndarray) -> dict[str, Any]:
    ways = blocks.drawn(weights)[:, :4]
    ordered = ways[:, SAME] + ways[:, OPPOSITE]
    return {
        "agreement": _measured(ways[:, SAME] + ways[:, BOTH_TIED], ways.sum(axis=1)).as_dict(),
        "agreement_ordered": _measured(ways[:, SAME], ordered).as_dict(),
        "pairs_ordered": round(ordered[0]),
    }


def _measured(part: np.ndarray, whole: np.ndarray) -> Measured:
    with np.errstate(divide="ignore", invalid="ignore"):
        return _interval(np.where(whole > 0, part / whole, np.nan))


def _alpha(coincidences: np.ndarray, level: alpha.Level, part: np.ndarray | None = None) -> Measured:
    return _interval(alpha.of_coincidences(coincidences, level, part))


def _interval(values: np.ndarray) -> Measured:
    """The first is the measure, the others its bootstrap draws; a draw without a value is left out."""
    drawn = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]):
        return Measured(None, None, None)
    if not len(drawn):
        return Measured(float(values[0]), None, None)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Measured(float(values[0]), float(low), float(high))
