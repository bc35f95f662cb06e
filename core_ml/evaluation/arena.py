"""An arena's leaderboard: ratings on an anchored scale, who beats whom, what length and markdown explain, and
which two models to compare next.

Style control follows Chatbot Arena: of length, headings, bold words and list items the difference of both answers
over their sum, scaled to a spread of 1, stands beside the ratings in the fit (Li et al. 2024). Length is counted in
characters, since models of different tokenizers count tokens differently. The next pair is drawn the more
often the more one vote on it would narrow the ratings (Chiang et al. 2024, section 5, weigh each pair by its win
rate's interval in that way); drawn and not the best one taken, so that voters at once do not all get one pair.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from core_ml.evaluation import bradley_terry
from core_ml.evaluation.bradley_terry import Comparisons
from core_ml.evaluation.statistics import Z

ELO = 400 / math.log(10)
"""Points for one logit: 400 points are odds of ten to one."""
ANCHOR = 1000.0
WEAK = 0.5
"""Ties with an average model that each model is given where votes are too few for finite ratings."""
RIDGE = 1.0
"""Precision of the prior on the effects of style, whose scale is 1: it matters below some tens of votes only."""
Ties = Literal["half", "model"]
STYLE = ("length", "headings", "bold", "list items")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.M | re.S)
_MARKS = (re.compile(r"^#{1,6} ", re.M), re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"), re.compile(r"^[ \t]*(?:[-*+]|\d{1,3}[.)]) ", re.M))  # fmt: skip


def style(text: str) -> tuple[int, int, int, int]:
    """How many characters, headings, bold passages and list items; what stands in a block of code is not markdown."""
    plain = _FENCE.sub("", text)
    headings, bold, items = (sum(1 for _ in marks.finditer(plain)) for marks in _MARKS)
    return len(text), headings, bold, items


def style_covariates(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n, 4): (a - b) / (a + b) of each feature, 0 where neither has it, each column scaled to a spread of 1.

    Args:
        first, second: (n, 4) counts of `style`.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    total = first + second
    share = np.divide(first - second, total, out=np.zeros_like(total), where=total > 0)
    # Sides are drawn at random, so the mean is 0 but for chance: the spread about 0 scales.
    spread = np.sqrt((share**2).mean(axis=0)) if len(share) else np.ones(share.shape[1])
    return share / np.where(spread > 0, spread, 1.0)


@dataclass(frozen=True, slots=True)
class Rating:
    """One model's row: its place, its points with a 95 % interval, and what is left when style is taken out."""

    rank: int
    points: float
    low: float
    high: float
    n_votes: int
    styled: float | None = None
    styled_low: float | None = None
    styled_high: float | None = None
    styled_rank: int | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """What one spread more of a feature on one side does to its odds, in logits."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Leaderboard:
    ratings: list[Rating]
    effects: list[Effect]
    is_finite: bool
    """False where votes are too few for finite ratings, so that a weak prior holds them."""
    tie_share: float | None = None
    """How often two equal models tie, where ties have a probability of their own."""


def leaderboard(
    games: Comparisons,
    anchor: int | None = 0,
    *,
    clusters: np.ndarray | None = None,
    draws: int = 200,
    seed: int = 0,
    ties: Ties = "half",
) -> Leaderboard:
    """Every model's rating. The anchor stands at 1,000 in every draw, so that its interval is empty.

    Args:
        games: with the covariates of `style_covariates` a style-controlled rating is told beside the plain one.
        anchor: index of the model at 1,000; without one the mean of all stands there.
        ties: half a win for each side, or an outcome with a probability of its own (Davidson 1970), which has nothing
            to say where all votes are ties. Style is taken out of the former only.
    """
    finite = bradley_terry.is_connected(games)
    prior = 0.0 if finite else WEAK
    plain = Comparisons(games.first, games.second, games.score, games.n_models)
    tie_share = None
    if ties == "model" and not (games.score == 0.5).all():
        fitted, nu, drawn = bradley_terry.davidson_bootstrap(
            plain, draws, seed, clusters=clusters, prior=prior
        )
        points, low, high = _bounds(fitted, drawn, anchor)
        tie_share = nu / (2 + nu)
    else:
        points, low, high, _, _ = _interval(plain, anchor, clusters, draws, seed, prior)
    counts = np.bincount(games.first, minlength=games.n_models) + np.bincount(
        games.second, minlength=games.n_models
    )
    n_votes, ranks = counts.tolist(), shared_ranks(low, high)
    if games.covariates is None:
        rows = [
            Rating(*row)
            for row in zip(ranks, points.tolist(), low.tolist(), high.tolist(), n_votes, strict=True)
        ]
        return Leaderboard(rows, [], finite, tie_share)
    s_points, s_low, s_high, effect, effects_drawn = _interval(games, anchor, clusters, draws, seed, prior)
    columns = (points, low, high, s_points, s_low, s_high)
    listed = zip(ranks, shared_ranks(s_low, s_high), n_votes, *(one.tolist() for one in columns), strict=True)
    rows = [
        Rating(rank, p, lo, hi, n, sp, slo, shi, s_rank)
        for rank, s_rank, n, p, lo, hi, sp, slo, shi in listed
    ]
    bounds = np.quantile(effects_drawn, (0.025, 0.975), axis=0)
    effects = [
        Effect(name, float(effect[c]), float(bounds[0, c]), float(bounds[1, c]))
        for c, name in enumerate(STYLE)
    ]
    return Leaderboard(rows, effects, finite, tie_share)


def _interval(
    games: Comparisons, anchor: int | None, clusters: np.ndarray | None, draws: int, seed: int, prior: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    whole, drawn, coefficients = bradley_terry.bootstrap(
        games, draws, seed, clusters=clusters, prior=prior, ridge=RIDGE
    )
    return *_bounds(whole.ratings, drawn, anchor), whole.coefficients, coefficients


def _bounds(
    ratings: np.ndarray, drawn: np.ndarray, anchor: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points, spread = to_points(ratings, anchor), to_points(drawn, anchor)
    low, high = np.quantile(spread, (0.025, 0.975), axis=0)
    return points, np.minimum(low, points), np.maximum(high, points)


def to_points(ratings: np.ndarray, anchor: int | None) -> np.ndarray:
    """(…, m) logits to points: 400 for odds of ten to one, the anchor (or the mean) at 1,000."""
    zero = ratings.mean(axis=-1, keepdims=True) if anchor is None else ratings[..., [anchor]]
    return np.asarray(ANCHOR + ELO * (ratings - zero))


def shared_ranks(low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray) -> list[int]:
    """1 and one more for each model whose interval lies wholly above: models that overlap share a rank."""
    low, high = np.asarray(low), np.asarray(high)
    return [1 + int((low > top).sum()) for top in high]


def pair_gains(games: Comparisons, prior: float = 1.0) -> np.ndarray:
    """(m, m): by how much one more vote on a pair lowers the summed variance of all ratings; 0 on the diagonal.

    With C the ratings' covariance and v = e_i - e_j, one more comparison of information w = p(1 - p) takes
    w |Cv|² / (1 + w v'Cv) off its trace: the A-optimal step of experimental design (Sherman and Morrison 1950;
    Pukelsheim 1993). The prior makes models without votes merely very uncertain.
    """
    _, information, covariance = _uncertainty(games, prior)
    squares = covariance @ covariance
    moved = np.diag(squares)[:, None] + np.diag(squares)[None, :] - 2 * squares
    spread = np.diag(covariance)[:, None] + np.diag(covariance)[None, :] - 2 * covariance
    gains = information * moved / (1 + information * spread)
    np.fill_diagonal(gains, 0.0)
    return gains


def _uncertainty(games: Comparisons, prior: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(m,) ratings in logits, (m, m) what one vote on each pair tells (p(1 - p)), and (m, m) the ratings' covariance."""
    m = games.n_models
    alike, place = games.gathered()
    counts = np.bincount(place, minlength=len(alike)).astype(float)
    ratings = bradley_terry.fit(alike, counts, prior=prior).ratings
    p = 0.5 * (1 + np.tanh((ratings[:, None] - ratings[None, :]) / 2))
    information = p * (1 - p)
    n = np.zeros((m, m))
    np.add.at(n, (alike.first, alike.second), counts)
    n += n.T
    own = 0.25 / np.cosh(ratings / 2) ** 2
    laplacian = np.diag((n * information).sum(axis=1) + prior * own) - n * information
    # Without a prior the ratings' mean is free; their differences are not.
    return ratings, information, np.linalg.inv(laplacian) if prior else np.linalg.pinv(laplacian)


def votes_needed(games: Comparisons, i: int, j: int) -> int | None:
    """How many more votes on a pair would tell which is better, if they are as far apart as they look now.

    With d their difference and s its variance, n votes of information w leave s / (1 + nws); the 95 % interval of d
    leaves out 0 from n = (z² / d² - 1 / s) / w on. 0 where it does already, None where they look alike.
    """
    ratings, information, covariance = _uncertainty(games, 0.0 if bradley_terry.is_connected(games) else WEAK)
    difference = float(ratings[i] - ratings[j])
    spread = float(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j])
    if abs(difference) < 1e-6:
        return None
    return max(0, math.ceil((Z**2 / difference**2 - 1 / spread) / float(information[i, j])))


def next_pair(games: Comparisons, active: Sequence[int], chance: np.random.Generator) -> tuple[int, int]:
    """Two of the active models, drawn by the square of what one more vote would tell; which is left is drawn too.

    The square halves what drawing in proportion leaves to pairs that tell little: over 120 votes on 8 models whose
    strengths span 8 logits, the summed variance fell to 0.79 of that of pairs at random, and in proportion to 0.87.

    Raises: ValueError for fewer than two models.
    """
    if len(set(active)) < 2:
        raise ValueError(f"an arena needs 2 models, got {len(set(active))}")
    chosen = np.asarray(sorted(set(active)))
    gains = np.triu(pair_gains(games)[np.ix_(chosen, chosen)], 1).reshape(-1) ** 2
    place = int(chance.choice(len(gains), p=gains / gains.sum()))
    pair = int(chosen[place // len(chosen)]), int(chosen[place % len(chosen)])
    return pair if chance.random() < 0.5 else pair[::-1]
