"""How loss falls with parameters and tokens: L(N, D) = E + A / N^alpha + B / D^beta, and what to buy with a budget.

Source: Hoffmann et al. 2022, arXiv:2203.15556, section 3.3. Departures: at given exponents the law is linear in E,
A and B, so these are solved for on a grid of exponents, and no starting point can lead astray; residuals are
relative and squared, not Huber's. Intervals are those of a bootstrap over the trained networks. No torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core_ml.errors import UserError

EXPONENTS = np.arange(0.02, 1.5, 0.02)
FEWEST = 6  # five numbers are fitted
FLOPS = 6.0  # operations for each parameter and token


@dataclass(frozen=True, slots=True)
class Point:
    """One trained network: its parameters, the tokens it read, and its loss in bits a byte."""

    n_parameters: int
    tokens: int
    loss: float


@dataclass(frozen=True, slots=True)
class Law:
    floor: float
    a: float
    alpha: float
    b: float
    beta: float

    def loss(self, n_parameters: float, tokens: float) -> float:
        return self.floor + self.a / n_parameters**self.alpha + self.b / tokens**self.beta

    def best(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of least loss among those whose training takes 6 N D = `flops` operations."""
        product, total = flops / FLOPS, self.alpha + self.beta
        ratio = (self.alpha * self.a) / (self.beta * self.b)
        n_parameters = (ratio * product**self.beta) ** (1 / total)
        return n_parameters, product / n_parameters


LADDER = Law(floor=1.5257, a=156.69, alpha=0.515, b=16.903, beta=0.2564)
"""What pretraining's presets follow: 18 networks of 0.17 to 3.1 million parameters, 64 wide for each of 1 to 4 layers,
that read 0.25 to 64 tokens of 81 novels for each parameter (4e10 to 1.5e13 operations), 1,024 symbols, windows of 128.
All lie within 2.5 % of it. A hundred times beyond the ladder its best size is known to a factor of ten at most."""


def fit(points: Sequence[Point]) -> Law:
    """Raises: UserError when there are too few points, or they do not differ in both directions."""
    if len(points) < FEWEST:
        raise UserError(
            f"{len(points)} networks were trained, and a law needs {FEWEST}: add depths or ratios"
        )
    n, d, loss = (
        np.array([getattr(p, name) for p in points], float) for name in ("n_parameters", "tokens", "loss")
    )
    if len(set(n)) < 2 or len(set(d)) < 2:
        raise UserError("all networks are of one size or read as much: a law needs several of both")
    error, found = _on_grid(n, d, loss, EXPONENTS, EXPONENTS)
    for width in (0.02, 0.002):
        around = np.linspace(-width, width, 21)
        alphas, betas = (np.clip(exponent + around, 0.005, None) for exponent in (found[2], found[4]))
        finer, law = _on_grid(n, d, loss, alphas, betas)
        if finer <= error:
            error, found = finer, law
    return Law(*found)


def _on_grid(
    n: np.ndarray, d: np.ndarray, loss: np.ndarray, alphas: np.ndarray, betas: np.ndarray
) -> tuple[float, tuple[float, float, float, float, float]]:
    """The best of all pairs of exponents: its squared relative error, and the law's five numbers."""
    alpha, beta = (grid.ravel() for grid in np.meshgrid(alphas, betas))
    # Powers of what is scaled to its geometric mean: the columns are then of one size.
    scale_n, scale_d = np.exp(np.log(n).mean()), np.exp(np.log(d).mean())
    columns = np.stack(
        [
            np.ones((len(alpha), len(n))),
            (n / scale_n)[None] ** -alpha[:, None],
            (d / scale_d)[None] ** -beta[:, None],
        ],
        axis=2,
    )
    weighted = columns / loss[None, :, None]
    best = (np.inf, (0.0,) * 5)
    least = 1e-3 * loss.mean()  # a term that hardly counts says that its quantity does not
    # Losses fall with both and end above nothing: where a number would be negative, it is left out.
    for kept in ((0, 1, 2), (1, 2)):
        part = weighted[:, :, kept]
        normal = part.mT @ part + 1e-12 * np.eye(len(kept))
        solved = np.linalg.solve(normal, (part.mT @ np.ones(len(n)))[..., None])[..., 0]
        numbers = np.zeros((len(alpha), 3))
        numbers[:, kept] = solved
        errors = ((weighted @ numbers[..., None])[..., 0] - 1) ** 2
        errors = np.where((numbers >= 0).all(1) & (numbers[:, 1:] > least).all(1), errors.sum(1), np.inf)
        at = int(errors.argmin())
        if errors[at] < best[0]:
            floor, a, b = numbers[at]
            exponents = float(alpha[at]), float(beta[at])
            law = (
                float(floor),
                float(a * scale_n ** exponents[0]),
                exponents[0],
                float(b * scale_d ** exponents[1]),
                exponents[1],
            )
            best = (float(errors[at]), law)
    constant = 1 / loss / (1 / loss**2).sum() * (1 / loss).sum()
    if best[0] > ((constant - 1) ** 2).sum() / 2:  # no better than half of what one number for all would do
        raise UserError(
            "no law fits: the losses do not fall with parameters and tokens; train longer or add sizes"
        )
    return best


def bootstrap(points: Sequence[Point], n: int, seed: int) -> list[Law]:
    """Laws of `n` draws of as many points with replacement; draws that allow no law are left out."""
    draws, laws = np.random.default_rng(seed), []
    for _ in range(n):
        chosen = [points[i] for i in draws.integers(len(points), size=len(points))]
        try:
            laws.append(fit(chosen))
        except UserError:
            continue
    return laws


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.quantile(np.array(values), (0.025, 0.975))
    return float(low), float(high)
