"""The best of n: many answers are sampled, the one that a proxy likes best is kept, and gold says what that was worth.

The cheapest way to see where a proxy stops helping: no training, KL is known from n alone, and one sample of N answers a
prompt tells of every n up to N. Everything is in standard deviations of the model's own answers, whose mean is 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core_ml.evaluation.overoptimization import Fit, best_of_n, best_of_n_kl, finding, fit, powers_of_two
from core_ml.events import Figure

DRAWS = 1000
DISTANCE = "√KL to the model itself, in √nats"


@dataclass(frozen=True, slots=True)
class Sweep:
    """Means over proxies and prompts at K numbers of answers, with standard errors over prompts and proxies."""

    ns: list[int]
    d: list[float]
    """√KL; an upper bound where answers are alike."""
    proxy: np.ndarray
    proxy_sem: np.ndarray
    gold: np.ndarray | None = None
    gold_sem: np.ndarray | None = None
    by_proxy: np.ndarray | None = None
    """(M, K) gold of each proxy's choice."""
    ceiling: np.ndarray | None = None
    """(K,) what gold itself would have chosen: how much room there is."""
    fit: Fit | None = None

    @property
    def peak_n(self) -> int | None:
        """The n at which gold was measured to be highest."""
        peak = self.fit.measured_peak if self.fit else None
        return self.ns[peak.index] if peak else None


def sweep(proxies: np.ndarray, gold: np.ndarray | None = None, seed: int = 0) -> Sweep:
    """What proxies and gold say of the best of 1, 2, 4, … answers.

    Args:
        proxies: (M, P, N) scores by M proxies of N answers to each of P prompts.
        gold: (P, N) the same answers' scores by gold.
    """
    ns = powers_of_two(proxies.shape[2])
    d = [math.sqrt(best_of_n_kl(n)) for n in ns]
    own = np.array([_standard(one) for one in proxies])
    draws = _drawn(len(own), own.shape[1], seed)
    liked = np.array([best_of_n(one, one, ns) for one in own])  # (M, P, K)
    proxy, proxy_sem, _ = _means(liked, draws)
    if gold is None:
        return Sweep(ns, d, proxy, proxy_sem)
    worth = _standard(gold)
    judged = np.array([best_of_n(one, worth, ns) for one in own])
    mean, sem, redrawn = _means(judged, draws)
    return Sweep(
        ns,
        d,
        proxy,
        proxy_sem,
        mean,
        sem,
        judged.mean(axis=1),
        best_of_n(worth, worth, ns).mean(axis=0),
        fit(d, mean, sem, "best_of_n", redrawn=redrawn),
    )


def _standard(scores: np.ndarray) -> np.ndarray:
    standard: np.ndarray = (scores - scores.mean()) / (scores.std() or 1.0)
    return standard


def _drawn(n_proxies: int, n_prompts: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(B, M) and (B, P) weights of a bootstrap over proxies and prompts; each row sums to 1."""
    rng = np.random.default_rng(seed)
    weights = [rng.multinomial(n, np.full(n, 1 / n), size=DRAWS) / n for n in (n_proxies, n_prompts)]
    return weights[0], weights[1]


def _means(
    values: np.ndarray, draws: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K,) means, their standard errors, and (B, K) means redrawn, all above the first n, which is the model itself."""
    redrawn = np.einsum("bm,bp,mpk->bk", *draws, values)
    redrawn -= redrawn[:, :1]
    mean = values.mean(axis=(0, 1))
    return mean - mean[0], redrawn.std(axis=0), redrawn


def findings(found: Sweep, said: str | None, n_proxies: int) -> list[str]:
    """What the sweep came to.

    Args:
        said: what gold is called; None without gold.
    """
    who = "the proxy" if n_proxies == 1 else f"{n_proxies} proxies"
    largest = found.ns[-1]
    rose = f"By the best of {largest} answers {who} gained {found.proxy[-1]:+.2f} standard deviations"
    if (
        found.gold is None
        or found.fit is None
        or found.gold_sem is None
        or found.ceiling is None
        or said is None
    ):
        return [f"{rose}; nothing says what that was worth, for there is no gold."]
    sentences = [
        f"{rose}, and {said} {found.gold[-1]:+.2f} (standard error {found.gold_sem[-1]:.2f}); choosing by {said} itself "
        f"would have gained {found.ceiling[-1]:+.2f}.",
        f"{finding(found.fit)} That is the best of {found.peak_n}.",
    ]
    peak = found.fit.measured_peak
    ends = found.fit.peak_interval
    # A peak that may lie beyond the last point forbids nothing.
    if (
        peak
        and found.ns[peak.index] < largest
        and found.fit.bends_down
        and ends
        and ends[1] < found.fit.reach
    ):
        sentences.append(f"More than {found.peak_n} answers only fool the proxy further.")
    return sentences


def figure(found: Sweep, said: str | None, sentences: Sequence[str]) -> Figure:
    """Proxy and gold over √KL, the fitted curve and its peak."""

    def line(name: str, y: np.ndarray, sem: np.ndarray | None = None, **more: Any) -> dict[str, Any]:
        errors = {} if sem is None else {"error_y": {"type": "data", "array": (1.96 * sem).tolist()}}
        return {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": found.d,
            "y": y.tolist(),
            **errors,
            **more,
        }

    data = [line("proxy", found.proxy, found.proxy_sem)]
    if found.gold is not None and found.ceiling is not None and said:
        # Short names leave a narrow screen room for the lines; who gold is, the finding says.
        data.append(line("gold", found.gold, found.gold_sem))
        data.append(line("gold's choice", found.ceiling, line={"dash": "dot"}))
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": DISTANCE}},
        "yaxis": {"title": {"text": "standard deviations of the model's own answers"}},
    }
    if found.fit and found.fit.is_fitted:
        x = np.linspace(0, found.d[-1], 60)
        data.append(
            {"type": "scatter", "mode": "lines", "name": "d(α − βd)", "x": x.tolist(), "y": found.fit.curve(x).tolist(),
             "line": {"dash": "dash"}}
        )  # fmt: skip
        if found.fit.peak_d is not None and found.fit.peak_is_inside:
            at = found.fit.peak_d
            layout["shapes"] = [
                {
                    "type": "line",
                    "x0": at,
                    "x1": at,
                    "y0": 0,
                    "y1": 1,
                    "yref": "paper",
                    "line": {"dash": "dot"},
                }
            ]
    return Figure(
        "gold_over_kl",
        found.ns[-1],
        "Proxy and gold by the best of n",
        {"data": data, "layout": layout},
        " ".join(sentences),
    )
