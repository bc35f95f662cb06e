"""Gold against proxy: how far a policy may move before what it gains on the proxy stops being a gain.

A proxy reward model is right about answers like those it was trained on. As a policy moves away from the chat model, by a
distance d = √KL, the proxy goes on rising while a gold judgement rises and then falls: d(α − β ln d) by reinforcement
learning, d(α − βd) by taking the best of n. Gold is measured from the chat model's own answers, so that it is 0 at d = 0.

Departures from the paper: the curve is fitted to measured points with their errors, the peak has an interval, and the
point at which gold was measured to be highest stands beside the curve's peak, because that depends on how far the points
reach. Source: Gao, Schulman and Hilton 2022, arXiv:2210.10760. Needs numpy only, so that pages may use it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

Form = Literal["rl", "best_of_n"]
MIN_POINTS = 3
"""Distances above 0: two would always be fitted without a rest."""
DRAWS = 1000
LEVEL = 0.025
"""Chance, one-sided, at which a run that never changed is said to have fallen."""
FARTHEST = 50.0
"""Largest exponent of a peak; beyond it a curve that hardly bends has none."""
OPEN = 10.0  # times as far as was measured: where an interval's end is told as open


@dataclass(frozen=True, slots=True)
class Peak:
    """The point at which gold was measured to be highest; `low` and `high` hold d with 95 % of the redrawn curves."""

    index: int
    d: float
    gold: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Gold as a function of d, where there are points enough, and where it peaks.

    `alpha`, `beta`, `r2` and their intervals are None with fewer than three distances above 0 (`is_fitted` is false).
    `peak_d`, `peak_interval` and `peak_gold` are None also where the curve does not bend down (beta ≤ 0). The upper end of
    an interval is infinite where more than one in forty of the redrawn curves never turns. A peak beyond `reach` is an
    extrapolation, and not to be believed (`peak_is_inside`).
    """

    form: Form
    measured_peak: Peak | None
    reach: float
    """The largest distance measured."""
    alpha: float | None = None
    beta: float | None = None
    alpha_interval: tuple[float, float] | None = None
    beta_interval: tuple[float, float] | None = None
    peak_d: float | None = None
    peak_interval: tuple[float, float] | None = None
    peak_gold: float | None = None
    r2: float | None = None

    @property
    def is_fitted(self) -> bool:
        return self.alpha is not None

    @property
    def bends_down(self) -> bool:
        """Whether the curve turns by more than chance: beta's interval lies above 0."""
        return self.beta_interval is not None and self.beta_interval[0] > 0

    @property
    def peak_is_inside(self) -> bool:
        return self.peak_d is not None and self.peak_d <= self.reach

    def curve(self, d: Sequence[float] | np.ndarray) -> np.ndarray:
        """Gold at distances d, (n,) of any range. Raises: ValueError where nothing was fitted."""
        if self.alpha is None or self.beta is None:
            raise ValueError(f"no curve: it takes {MIN_POINTS} distances above 0")
        return _design(np.asarray(d, dtype=float), self.form) @ np.array([self.alpha, self.beta])

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows no infinity: an open end is None."""

        def pair(ends: tuple[float, float] | None) -> list[float | None] | None:
            return None if ends is None else [_finite(end) for end in ends]

        peak = self.measured_peak
        return {
            "form": self.form,
            "alpha": _finite(self.alpha),
            "beta": _finite(self.beta),
            "alpha_interval": pair(self.alpha_interval),
            "beta_interval": pair(self.beta_interval),
            "peak_d": _finite(self.peak_d),
            "peak_interval": pair(self.peak_interval),
            "peak_gold": _finite(self.peak_gold),
            "r2": _finite(self.r2),
            "reach": self.reach,
            "measured_peak": peak
            and {name: _finite(getattr(peak, name)) for name in ("index", "d", "gold", "low", "high")},
        }


def fit(
    d: Sequence[float] | np.ndarray,
    gold: Sequence[float] | np.ndarray,
    sem: Sequence[float] | np.ndarray | None = None,
    form: Form = "rl",
    draws: int = DRAWS,
    seed: int = 0,
    *,
    redrawn: np.ndarray | None = None,
) -> Fit:
    """The curve by least squares, with intervals from curves redrawn.

    Args:
        d: (n,) √KL in √nats an answer; points that are not finite are left out.
        gold: (n,) what gold says, above what it says of the chat model.
        sem: (n,) standard errors of `gold`: points count by them, and curves are redrawn with them, or with what the
            points leave over of the fit where that is more (Birge 1932).
        redrawn: (B, n) gold of the same points under a resampling of prompts or of whole runs, where that was done: it
            knows how the errors of points hang together. It takes the place of `sem` in the intervals.
    Raises: ValueError when lengths differ or a distance is negative.
    """
    x, y = np.asarray(d, dtype=float), np.asarray(gold, dtype=float)
    s = None if sem is None else np.asarray(sem, dtype=float)
    if x.shape != y.shape or (s is not None and s.shape != x.shape):
        raise ValueError(f"{len(x)} distances, {len(y)} gold values and their errors must be equally many")
    use = np.isfinite(x) & np.isfinite(y)
    if (x[use] < 0).any():
        raise ValueError(f"a distance is at least 0, and {x[use].min():g} is among them")
    places = np.flatnonzero(use)
    if not len(places):
        return Fit(form, None, 0.0)
    x, y, s = x[use], y[use], None if s is None else s[use]
    rng = np.random.default_rng(seed)
    noise = _noise(s, y)
    # A point without error is the chat model itself, or nobody knows: the smallest error of the others.
    weight = np.ones(len(x)) if noise is None else 1 / noise**2
    design, far = _design(x, form), x > 0
    enough = len(np.unique(x[far])) >= MIN_POINTS
    theta = _solve(design[far], y[None, far], weight[far])[0] if enough else None
    if redrawn is not None:
        again = np.asarray(redrawn, dtype=float)[:, use]
    else:
        again = _redraw(design, y, noise, theta, weight, far, draws, rng)
    best = int(np.argmax(y))
    tops = x[np.argmax(again, axis=1)]
    peak = Peak(int(places[best]), float(x[best]), float(y[best]), *_ends(tops))
    if theta is None:
        return Fit(form, peak, float(x.max()))
    alpha, beta = float(theta[0]), float(theta[1])
    many = _solve(design[far], again[:, far], weight[far])
    peak_d = float(_peaks(theta[None], form)[0])
    has_peak = math.isfinite(peak_d)
    rest = y[far] - design[far] @ theta
    about = y[far] - np.average(y[far], weights=weight[far])
    total = float((weight[far] * about**2).sum())
    found = Fit(
        form,
        peak,
        float(x.max()),
        alpha,
        beta,
        _ends(many[:, 0]),
        _ends(many[:, 1]),
        peak_d if has_peak else None,
        _ends(_peaks(many, form)) if has_peak else None,
        None,
        1 - float((weight[far] * rest**2).sum()) / total if total > 0 else None,
    )
    if not has_peak:
        return found
    return replace(found, peak_gold=float(found.curve([peak_d])[0]))


def _design(d: np.ndarray, form: Form) -> np.ndarray:
    """(n, 2): gold is these times (alpha, beta)."""
    if form == "best_of_n":
        return np.stack([d, -d * d], axis=1)
    return np.stack([d, -d * np.log(np.where(d > 0, d, 1.0))], axis=1)  # d ln d goes to 0 with d


def _solve(design: np.ndarray, gold: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(B, 2) for (B, n) curves over the same points."""
    root = np.sqrt(weight)
    solved: np.ndarray = (np.linalg.pinv(design * root[:, None]) @ (gold * root).T).T
    return solved


def _peaks(theta: np.ndarray, form: Form) -> np.ndarray:
    """(B,) where each of (B, 2) curves turns; infinite where it does not, 0 where it falls from the beginning."""
    alpha, beta = theta[:, 0], theta[:, 1]
    bends = beta > 0
    ratio = alpha / np.where(bends, beta, 1.0)
    if form == "best_of_n":
        where = np.maximum(0.0, ratio / 2)
    else:
        where = np.where(ratio - 1 < FARTHEST, np.exp(np.minimum(ratio - 1, FARTHEST)), np.inf)
    return np.where(bends, where, np.inf)


def _noise(sem: np.ndarray | None, gold: np.ndarray) -> np.ndarray | None:
    if sem is None or not (np.isfinite(sem) & (sem > 0)).any():
        return None
    known = np.isfinite(sem) & (sem > 0)
    return np.where(known, sem, sem[known].min())


def _redraw(
    design: np.ndarray,
    gold: np.ndarray,
    noise: np.ndarray | None,
    theta: np.ndarray | None,
    weight: np.ndarray,
    far: np.ndarray,
    draws: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """(draws, n) curves as another measurement might have given them; what is at distance 0 is 0 by definition."""
    shape = (draws, len(gold))
    if theta is not None:
        rest = (gold - design @ theta)[far]
        freedom = max(1, int(far.sum()) - 2)
        spread = math.sqrt(float((weight[far] * rest**2).sum()) / freedom)
        # With errors known `spread` is Birge's ratio, without them it is the scatter about the fit.
        scale = spread / np.sqrt(weight) if noise is None else noise * max(1.0, spread)
    else:
        scale = np.zeros(len(gold)) if noise is None else noise
    redrawn: np.ndarray = gold + rng.standard_normal(shape) * np.where(far, scale, 0.0)
    return redrawn


def _ends(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of redrawn values, of which some may be infinite."""
    low, high = np.quantile(values, (0.025, 0.975), method="nearest")
    return float(low), float(high)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def z_below_best(n_looks: int) -> float:
    """By how many standard errors a look has to stand below the best of `n_looks` to be worse by more than chance.

    The best of many looks is better than it will be again, so that the level is divided by the others (Bonferroni).
    """
    return NormalDist().inv_cdf(1 - LEVEL / max(1, n_looks - 1))


def finding(found: Fit) -> str:
    """What gold did, in a sentence or two."""
    peak = found.measured_peak
    if peak is None:
        return "Gold was not measured."
    measured = f"Gold was highest at √KL {peak.d:.2f} ({peak.gold:+.2f})"
    if not found.is_fitted:
        return f"{measured}; a curve takes at least {MIN_POINTS} looks away from the chat model."
    if found.peak_d is None or found.peak_interval is None or not found.bends_down:
        return f"{measured}; the fitted curve does not turn by more than chance up to √KL {found.reach:.2f}."
    low, high = found.peak_interval
    # Curves that hardly bend turn anywhere: an end at such a distance says no more than that there is none.
    ends = f"{low:.2f} to {high:.2f}" if high <= OPEN * found.reach else f"{low:.2f} and open above"
    said = f"{measured}; the fitted curve peaks at √KL {found.peak_d:.2f} (95 % {ends})"
    return said + (
        "." if found.peak_is_inside else f", which lies beyond what was measured ({found.reach:.2f})."
    )


def best_of_n_kl(n: int | float) -> float:
    """KL of the best of n answers to one answer, in nats; exact for distinct scores (Hilton 2023), else an upper bound.

    Source: Stiennon et al. 2020, arXiv:2009.01325; Beirami et al. 2024, arXiv:2401.01879.
    """
    if n < 1:
        raise ValueError(f"the best of {n} answers is none")
    return math.log(n) - (n - 1) / n


def powers_of_two(largest: int) -> list[int]:
    """1, 2, 4, … up to `largest`, which is the last one whether or not it is a power."""
    found = [2**i for i in range(largest.bit_length()) if 2**i <= largest]
    return found if found[-1] == largest else [*found, largest]


def best_of_n(proxy: np.ndarray, values: np.ndarray, ns: Sequence[int]) -> np.ndarray:
    """What `values` are expected to be of the answer that the proxy likes best among n, without bias from one draw.

    Of N answers the i-th worst is the best of a random n of them with chance C(i-1, n-1) / C(N, n); answers that the proxy
    scores alike share their chances.

    Args:
        proxy: (P, N) scores of N answers to each of P prompts.
        values: (P, N) what is averaged: the proxy itself, or gold.
        ns: K numbers of answers, each from 1 to N.
    Returns: (P, K).
    Raises: ValueError when an n is out of range.
    Source: Nakano et al. 2021, arXiv:2112.09332, appendix I.
    """
    n_answers = proxy.shape[1]
    if any(not 1 <= n <= n_answers for n in ns):
        raise ValueError(f"the best of n needs 1 ≤ n ≤ {n_answers}, got {list(ns)}")
    chances = np.array([_chances(n_answers, n) for n in ns])  # (K, N)
    found = np.empty((len(proxy), len(ns)))
    for row, (scores, worth) in enumerate(zip(proxy, values, strict=True)):
        _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
        # Alike answers stand in a row when sorted: each is worth the mean of them.
        mean = np.bincount(place, worth) / count
        found[row] = chances @ np.repeat(mean, count)
    return found


def _chances(n_answers: int, n: int) -> list[float]:
    return [
        math.exp(_ln_choose(i - 1, n - 1) - _ln_choose(n_answers, n)) if i >= n else 0.0
        for i in range(1, n_answers + 1)
    ]


def _ln_choose(a: int, b: int) -> float:
    return math.lgamma(a + 1) - math.lgamma(b + 1) - math.lgamma(a - b + 1)
