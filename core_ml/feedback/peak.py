"""Where practice was at its best: the looks at the prompts kept aside over the distance from the chat model.

Each look holds what sampled answers are worth to the proxy and to gold, prompt by prompt, as differences from the chat
model's own answers to the same prompt in standard deviations of those. Looks are compared prompt by prompt, which takes out
how hard the prompts are. Needs numpy only.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from core_ml.evaluation.overoptimization import Fit, finding, fit, z_below_best
from core_ml.evaluation.statistics import mean
from core_ml.feedback.rlhf_report import judge_of, wins

Looks = Sequence[dict[str, Any]]
DRAWS = 1000


def differences(values: Sequence[float], own: Sequence[float], sd: float, n: int) -> list[float]:
    """For each prompt the mean of its `n` answers' values less the chat model's mean, in its standard deviations.

    Args:
        values: (P·n,) prompt after prompt.
        own: (P,) the chat model's means.
    """
    means = np.asarray(values, dtype=float).reshape(-1, n).mean(axis=1)
    return ((means - np.asarray(own)) / (sd or 1.0)).tolist()


def measures(sampled: dict[str, Any]) -> dict[str, float]:
    """The metrics of one look's sampled answers: proxy and gold with their standard errors, and KL."""
    found: dict[str, float] = {}
    for name in ("proxy", "gold"):
        if sampled.get(name):
            value, error = with_error(sampled[name])
            found |= {f"{name}_z": value, f"{name}_z_sem": error}
    if sampled.get("kl") is not None:
        found["kl"] = sampled["kl"]
    return found


def with_error(values: Sequence[float]) -> tuple[float, float]:
    """A mean and its standard error; of one value the error is 0, for nobody knows it."""
    array = np.asarray(values, dtype=float)
    error = float(array.std(ddof=1)) / math.sqrt(len(array)) if len(array) > 1 else 0.0
    return float(array.mean()), error


def worths(looks: Looks) -> list[list[float]]:
    """What a look is judged by, prompt by prompt: gold of sampled answers; without gold, wins of greedy ones."""
    if all(look["sampled"].get("gold") for look in looks):
        return [look["sampled"]["gold"] for look in looks]
    judge = judge_of(looks)
    return [wins(looks[0], look, judge) for look in looks]


def best_look(looks: Looks) -> int:
    """Index of the best look; the earliest of equals."""
    means = [float(np.mean(one)) for one in worths(looks)]
    return means.index(max(means))


def fell(looks: Looks) -> bool:
    """Whether the last look is worse than the best one by more than chance, of which the best of many has more."""
    return below_best(looks) > z_below_best(len(looks))


def below_best(looks: Looks) -> float:
    """By how many standard errors the last look is worse than the best one, prompt by prompt; 0 where it is the best."""
    own, best = worths(looks), best_look(looks)
    if best == len(looks) - 1:
        return 0.0
    change, error = with_error([b - a for a, b in zip(own[best], own[-1], strict=True)])
    n = len(own[best])
    # Of a few prompts that all agree the spread is 0, which is not certainty: half a win more, as Agresti adds.
    error = max(error, math.sqrt(0.5) / n) if n > 1 else math.inf
    return -change / error


def over_kl(looks: Looks, seed: int = 0) -> Fit | None:
    """Gold over √KL with the curve fitted to it; None where gold or KL was not measured.

    The interval of the peak is over prompts: all looks ask the same ones, so they are redrawn together.
    """
    if not all(look["sampled"].get("gold") and look["sampled"].get("kl") is not None for look in looks):
        return None
    values = np.array([look["sampled"]["gold"] for look in looks])  # (looks, prompts)
    d = [math.sqrt(max(0.0, look["sampled"]["kl"])) for look in looks]
    n = values.shape[1]
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    sem = [with_error(own)[1] for own in values.tolist()]
    return fit(d, values.mean(axis=1), sem, "rl", redrawn=counts @ values.T / n)


def findings(looks: Looks, said: str | None, keep: str) -> list[str]:
    """What gold says of the run, and which weights to take.

    Args:
        said: what gold is called; None without gold.
        keep: the config's.
    """
    found = []
    if said and (fitted := over_kl(looks)):
        found.append(f"Judged by {said} (0 is the chat model, 1 its spread): {finding(fitted)}")
    best = best_look(looks)
    if best == len(looks) - 1:
        return found
    step, own, harm = looks[best]["step"], worths(looks), fell(looks)
    went = [mean(own[place]).value for place in (best, -1)]
    if looks[0]["sampled"].get("gold"):
        by = "gold {:+.2f} there, {:+.2f} at the end".format(*went)
    else:
        by = "win rate {:.0%} there, {:.0%} at the end".format(*went)
    if keep == "best":
        kept = "the aligned model has the weights of that step"
    elif harm:
        kept = (
            "the output peak has the weights of that step"
            if step
            else "the model at the start is the better one"
        )
    else:
        kept = "the aligned model has the weights of the last step"
    said = (
        f"Practice did harm after step {step}"
        if harm
        else f"The best look was at step {step}, which may be chance"
    )
    return [*found, f"{said} ({by}): {kept}."]
