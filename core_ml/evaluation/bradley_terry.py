"""Ratings of models from comparisons of two at a time: Bradley–Terry, as arenas of language models use it.

A rating is a logit here: model i beats model j with probability sigmoid(r_i - r_j). Ties count as half a win for
each side, as Chatbot Arena counts them; `davidson` gives them a probability of their own, which an arena may choose. Style control adds
covariates (differences of length and markdown) beside the ratings, so that a rating says what is left when both
answers look alike. Where the literature draws comparisons anew for its intervals, weights are drawn here (the
Bayesian bootstrap): no draw then loses the only defeat of a model, which would send its rating to infinity.

Sources: Bradley and Terry 1952, Biometrika 39; Hunter 2004, Annals of Statistics 32; Davidson 1970, JASA 65;
Chiang et al. 2024, arXiv:2403.04132; Rubin 1981, Annals of Statistics 9; Li et al. 2024, "Does style matter?".
"""

import math
from dataclasses import dataclass

import numpy as np

MAX_STEP = 2.0
"""Longest Newton step in logits: an undamped one may leap over the optimum where a model hardly ever loses."""
MAX_STEPS = 500
PRECISE = 1e-9


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Votes as arrays, one entry a vote.

    Args:
        first, second: (n,) int; the models that were compared, as indices below `n_models`.
        score: (n,) float; 1 where the first won, 0 where the second did, 0.5 for a tie.
        covariates: (n, k) float; what else may have decided it, the first answer's less the second's.
    """

    first: np.ndarray
    second: np.ndarray
    score: np.ndarray
    n_models: int
    covariates: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not len(self.first) == len(self.second) == len(self.score):
            raise ValueError("first, second and score must be equally long")
        if len(self.first) and (self.first == self.second).any():
            raise ValueError("a model cannot be compared with itself")

    def __len__(self) -> int:
        return len(self.first)

    def gathered(self) -> tuple["Comparisons", np.ndarray]:
        """Alike comparisons as one, and (n,) int, which of them each one became. Covariates keep them apart."""
        if self.covariates is not None and self.covariates.shape[1]:
            return self, np.arange(len(self))
        rows = np.stack([self.first, self.second, self.score], axis=1)
        found, place = np.unique(rows, axis=0, return_inverse=True)
        first, second = found[:, 0].astype(int), found[:, 1].astype(int)
        return Comparisons(first, second, found[:, 2], self.n_models), place.reshape(-1)


@dataclass(frozen=True, slots=True)
class Fit:
    """Ratings in logits with mean 0, and the covariates' coefficients."""

    ratings: np.ndarray
    coefficients: np.ndarray


def wins(games: Comparisons) -> np.ndarray:
    """(m, m) float: how often the row beat the column, a tie as half a win for each."""
    m = games.n_models
    table = np.zeros((m, m))
    np.add.at(table, (games.first, games.second), games.score)
    np.add.at(table, (games.second, games.first), 1 - games.score)
    return table


def is_connected(games: Comparisons) -> bool:
    """Whether finite ratings exist: from every model a chain of wins leads to every other (Ford 1957)."""
    reach = (wins(games) > 0) | np.eye(games.n_models, dtype=bool)
    for _ in range(max(1, math.ceil(math.log2(max(2, games.n_models))))):
        reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    return bool(reach.all())


def fit(
    games: Comparisons,
    weights: np.ndarray | None = None,
    *,
    prior: float = 0.0,
    ridge: float = 0.0,
    start: Fit | None = None,
) -> Fit:
    """The likeliest ratings, by Newton's method.

    Args:
        weights: (n,) float; how much each comparison counts, 1 by default.
        prior: ties of each model with an imagined one of rating 0; above 0 no rating is infinite.
        ridge: precision of a normal prior on the covariates' coefficients; above 0 none of them is.
    Raises: ValueError where no finite ratings exist and `prior` is 0.
    """
    m = games.n_models
    x = games.covariates if games.covariates is not None else np.zeros((len(games), 0))
    k = x.shape[1]
    # A covariate that never differs says nothing and would make the system singular.
    varies = x.any(axis=0) if len(x) else np.zeros(k, dtype=bool)
    if not prior and not is_connected(games):
        raise ValueError("some model only wins or only loses against the others: give a prior")
    first, second, score = games.first, games.second, games.score
    weight = np.ones(len(games)) if weights is None else weights
    theta = np.zeros(m + k) if start is None else np.concatenate([start.ratings, start.coefficients])
    for _ in range(MAX_STEPS):
        p = _sigmoid(theta[first] - theta[second] + x @ theta[m:])
        residual, curve = weight * (score - p), weight * p * (1 - p)
        q = _sigmoid(theta[:m])
        gradient = np.concatenate([
            np.bincount(first, residual, m) - np.bincount(second, residual, m) + prior * (0.5 - q),
            x.T @ residual - ridge * theta[m:],
        ])  # fmt: skip
        hessian = np.zeros((m + k, m + k))
        np.add.at(hessian, (first, second), -curve)
        np.add.at(hessian, (second, first), -curve)
        degree = np.bincount(first, curve, m) + np.bincount(second, curve, m)
        hessian[range(m), range(m)] += degree + prior * q * (1 - q)
        if not prior:
            hessian[:m, :m] += 1 / m  # the ratings' mean is free: hold it where it is
        for c in range(k):
            pulled = curve * x[:, c]
            cross = np.bincount(first, pulled, m) - np.bincount(second, pulled, m)
            hessian[:m, m + c] = hessian[m + c, :m] = cross
        hessian[m:, m:] = (x * curve[:, None]).T @ x + np.diag(np.where(varies, ridge + 1e-12, 1.0))
        step = np.linalg.solve(hessian, gradient)
        longest = np.abs(step).max(initial=0.0)
        theta = theta + step * min(1.0, MAX_STEP / max(longest, PRECISE))
        if longest < PRECISE:
            break
    return Fit(theta[:m] - theta[:m].mean(), theta[m:])


def bootstrap(
    games: Comparisons,
    draws: int = 200,
    seed: int = 0,
    *,
    clusters: np.ndarray | None = None,
    prior: float = 0.0,
    ridge: float = 0.0,
) -> tuple[Fit, np.ndarray, np.ndarray]:
    """The fit, and under weights drawn anew (draws, m) ratings and (draws, k) coefficients.

    Args:
        clusters: (n,) int; comparisons that are not independent, such as several votes on one battle, share one.
    """
    if clusters is None:
        clusters = np.arange(len(games))
    _, clusters = np.unique(clusters, return_inverse=True)
    n_clusters = int(clusters.max(initial=-1)) + 1
    alike, place = games.gathered()

    def weighted(weights: np.ndarray, start: Fit | None = None) -> Fit:
        counts = np.bincount(place, weights, len(alike))
        return fit(alike, counts, prior=prior, ridge=ridge, start=start)

    whole = weighted(np.ones(len(games)))
    chance = np.random.default_rng(seed)
    drawn = [weighted(chance.exponential(size=n_clusters)[clusters], whole) for _ in range(draws)]
    return whole, np.array([one.ratings for one in drawn]), np.array([one.coefficients for one in drawn])


def davidson(
    games: Comparisons,
    weights: np.ndarray | None = None,
    *,
    prior: float = 0.0,
    start: tuple[np.ndarray, float] | None = None,
) -> tuple[np.ndarray, float]:
    """(m,) ratings and nu, where a tie has a probability of its own: nu·sqrt(e^ri e^rj) beside e^ri and e^rj.

    nu is 0 where nothing was tied; two equal models then tie with probability nu / (2 + nu).

    Args:
        weights, prior: as of `fit`.
        start: what another fit has found, to begin from.
    Raises: ValueError where no finite ratings exist and `prior` is 0, or where everything was tied.
    Source: Davidson 1970, JASA 65.
    """
    m = games.n_models
    ties = games.score == 0.5
    if not prior and not is_connected(games):
        raise ValueError("some model only wins or only loses against the others: give a prior")
    weight = np.ones(len(games)) if weights is None else weights
    if not (weight * ties).any():
        return fit(games, weights, prior=prior).ratings, 0.0
    if ties.all():
        raise ValueError("every comparison was tied: nu is infinite")
    # Of each comparison the statistic is half the difference (won 1/2, lost -1/2, tied 0) and whether it was tied.
    half = games.score - 0.5
    theta = np.zeros(m + 1)  # ratings, log nu
    if start is not None and start[1] > 0:
        theta = np.append(start[0], math.log(start[1]))
    first, second = games.first, games.second
    for _ in range(MAX_STEPS):
        d = (theta[first] - theta[second]) / 2
        odds = np.exp(np.stack([d, -d, np.broadcast_to(theta[m], d.shape)]) - np.abs(d))
        won, lost, tied = odds / odds.sum(axis=0)
        mean = (won - lost) / 2
        residual = weight * (half - mean)
        curve, cross = weight * ((won + lost) / 4 - mean**2), -weight * mean * tied
        q = _sigmoid(theta[:m])
        gradient = np.bincount(first, residual, m) - np.bincount(second, residual, m) + prior * (0.5 - q)
        hessian = np.zeros((m + 1, m + 1))
        np.add.at(hessian, (first, second), -curve)
        np.add.at(hessian, (second, first), -curve)
        degree = np.bincount(first, curve, m) + np.bincount(second, curve, m)
        hessian[range(m), range(m)] += degree + prior * q * (1 - q)
        if not prior:
            hessian[:m, :m] += 1 / m
        hessian[:m, m] = hessian[m, :m] = np.bincount(first, cross, m) - np.bincount(second, cross, m)
        hessian[m, m] = (weight * tied * (1 - tied)).sum()
        step = np.linalg.solve(hessian, np.append(gradient, (weight * (ties - tied)).sum()))
        longest = np.abs(step).max()
        theta = theta + step * min(1.0, MAX_STEP / max(longest, PRECISE))
        if longest < PRECISE:
            break
    return theta[:m] - theta[:m].mean(), float(np.exp(theta[m]))


def davidson_bootstrap(
    games: Comparisons,
    draws: int = 200,
    seed: int = 0,
    *,
    clusters: np.ndarray | None = None,
    prior: float = 0.0,
) -> tuple[np.ndarray, float, np.ndarray]:
    """Davidson's ratings and nu, and (draws, m) ratings under weights drawn as `bootstrap` draws them."""
    clusters = np.arange(len(games)) if clusters is None else clusters
    _, clusters = np.unique(clusters, return_inverse=True)
    n_clusters = int(clusters.max(initial=-1)) + 1
    alike, place = games.gathered()
    whole = davidson(alike, np.bincount(place, minlength=len(alike)).astype(float), prior=prior)
    chance = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        weights = np.bincount(place, chance.exponential(size=n_clusters)[clusters], len(alike))
        drawn.append(davidson(alike, weights, prior=prior, start=whole)[0])
    return *whole, np.array(drawn)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))
