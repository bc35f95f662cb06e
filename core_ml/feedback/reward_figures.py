"""Where a reward model is right and how sure it is: by its own certainty, by length, by how far people put two apart."""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from core_ml.evaluation.statistics import Share, clustered
from core_ml.events import Event, Figure
from core_ml.feedback.orders import merged
from core_ml.feedback.pairs import Group, by_prompt, ordered_rightly
from core_ml.feedback.reward_report import CHANCE

N_BINS = 6
LENGTH_EDGES = (-math.inf, -0.5, -0.1, 0.1, 0.5, math.inf)
"""Of the better answer's length less the worse one's, as a share of the longer."""
LENGTH_NAMES = ("half as long or less", "shorter", "like length", "longer", "twice as long or more")
MAX_PLACES = 4
FEWEST = 10  # pairs of a point that is worth drawing

Rewards = Sequence[Sequence[float]]
Point = tuple[float | str, Share]


def figures(groups: Sequence[Group], rewards: Rewards, scale: float, step: int) -> Iterator[Event]:
    """All of them.

    Args:
        rewards: for each group the score of each answer.
        scale: what a score is to be multiplied by to be the log-odds that training made of it.
    """
    yield from calibration(groups, rewards, scale, step)
    yield from by_length(groups, rewards, step)
    yield from by_places(groups, rewards, step)
    yield from best_of_n(groups, rewards, step)


def calibration(groups: Sequence[Group], rewards: Rewards, scale: float, step: int) -> Iterator[Event]:
    """How often the model is right where it says that it is right with probability p, in bins of equal counts."""
    said = [
        [
            (
                1 / (1 + math.exp(-min(60.0, abs(values[i] - values[j]) * scale))),
                ordered_rightly(values, i, j),
            )
            for i, j in group.pairs()
        ]
        for group, values in zip(groups, rewards, strict=True)
    ]
    certainties = [certainty for own in said for certainty, _ in own]
    if len(certainties) < FEWEST:
        return
    edges = np.unique(np.quantile(certainties, np.linspace(0, 1, N_BINS + 1)))
    points: list[Point] = []
    error = 0.0
    for n, (low, high) in enumerate(pairwise(edges)):
        last = n == len(edges) - 2
        inside = [[one for one in own if low <= one[0] < high or (last and one[0] == high)] for own in said]
        share = _share(groups, [[right for _, right in own] for own in inside])
        if share is None:
            continue
        mean = sum(p for own in inside for p, _ in own) / share.n
        error += share.n / len(certainties) * abs(mean - share.value)
        points.append((round(mean, 4), share))
    finding = (
        f"Where it says {points[-1][0]:.0%} it is right {points[-1][1].value:.0%} of the time; on average what it says "
        f"and what is so are {error:.0%} apart."
    )
    line = [{"type": "scatter", "mode": "lines", "name": "as it should be", "x": [0.5, 1], "y": [0.5, 1],
             "line": {"dash": "dash", "width": 1}}]  # fmt: skip
    yield _curve(
        "calibration", step, "Is it as sure as it may be?", {"this model": points}, finding,
        "probability that it gives to its order", "share right", line,
    )  # fmt: skip


def by_length(groups: Sequence[Group], rewards: Rewards, step: int) -> Iterator[Event]:
    """The share of pairs that are ordered rightly by how much longer the answer is that people liked better."""
    bins: list[list[list[float]]] = [[[] for _ in groups] for _ in LENGTH_NAMES]
    for number, (group, values) in enumerate(zip(groups, rewards, strict=True)):
        for i, j in group.pairs():
            a, b = len(group.completions[i]), len(group.completions[j])
            difference = (a - b) / max(a, b, 1)
            place = sum(difference > edge for edge in LENGTH_EDGES[1:-1])
            bins[place][number].append(ordered_rightly(values, i, j))
    points = [(name, s) for name, own in zip(LENGTH_NAMES, bins, strict=True) if (s := _share(groups, own))]
    shorter = _share(groups, [a + b for a, b in zip(*bins[:2], strict=True)])
    longer = _share(groups, [a + b for a, b in zip(*bins[3:], strict=True)])
    if not points:
        return
    finding = "All pairs are of like length."
    if shorter and longer:
        verdict = "it does not favour long answers."
        if longer.low > shorter.high:
            verdict = "it likes long answers."
        elif longer.value > shorter.value:
            verdict = "the difference may be chance."
        finding = (
            f"Where the better answer is the longer one it is right {longer.value:.0%} of the time, where it is the "
            f"shorter one {shorter.value:.0%}: {verdict}"
        )
    yield _curve(
        "by_length", step, "Does it just like long answers?", {"this model": points}, finding,
        "length of the better answer beside the other", "share right",
    )  # fmt: skip


def by_places(groups: Sequence[Group], rewards: Rewards, step: int) -> Iterator[Event]:
    """The share of pairs that are ordered rightly by how many places people put them apart; none for pairs alone."""
    bins: list[list[list[float]]] = [[[] for _ in groups] for _ in range(MAX_PLACES)]
    for number, (group, values) in enumerate(zip(groups, rewards, strict=True)):
        for ranking in group.rankings:
            for (above, first), (below, second) in combinations(enumerate(ranking.order), 2):
                own = bins[min(below - above, MAX_PLACES) - 1][number]
                own += [ordered_rightly(values, i, j) for i in first for j in second]
    names = [*(str(n) for n in range(1, MAX_PLACES)), f"{MAX_PLACES} or more"]
    points: list[Point] = [(n, s) for n, own in zip(names, bins, strict=True) if (s := _share(groups, own))]
    if len(points) < 2:
        return
    finding = (
        f"Of neighbours in people's order it is right about {points[0][1].value:.0%}, of answers {points[-1][0]} places "
        f"apart about {points[-1][1].value:.0%}."
    )
    yield _curve(
        "by_places", step, "Right by how far people put two answers apart", {"this model": points}, finding,
        "places apart", "share right",
    )  # fmt: skip


def best_of_n(groups: Sequence[Group], rewards: Rewards, step: int) -> Iterator[Event]:
    """What people would say of the answer that the model picks among n, by the model, by people and by length.

    An answer's worth is the share of the group's other answers that people put below it, so that a pick at random
    is worth a half. All subsets of n count: the estimator of Nakano et al. 2021, arXiv:2112.09332, appendix.
    """
    worth = [_worth(group) for group in groups]
    found: dict[str, list[Point]] = {"this model": [], "people themselves": [], "the longest": []}
    sizes = [sum(one is not None for one in own) for own in worth]
    for n in range(1, max(sizes, default=0) + 1):
        picks: dict[str, list[list[float]]] = {name: [[] for _ in groups] for name in found}
        for number, (group, values, own) in enumerate(zip(groups, rewards, worth, strict=True)):
            placed = [i for i, one in enumerate(own) if one is not None]
            if len(placed) < max(n, 2):
                continue
            values_of = [float(own[i] or 0.0) for i in placed]
            keys = {
                "this model": [values[i] for i in placed],
                "people themselves": values_of,
                "the longest": [float(len(group.completions[i])) for i in placed],
            }
            for name, key in keys.items():
                picks[name][number].append(_best_of(n, key, values_of))
        if sum(map(len, picks["this model"])) < 2:
            break
        for name in found:
            if share := _share(groups, picks[name]):
                found[name].append((n, share))
    if len(found["this model"]) < 2:
        return
    many, last = found["this model"][-1]
    finding = (
        f"Of {many} answers people would put its pick above {last.value:.0%} of the others, the longest above "
        f"{found['the longest'][-1][1].value:.0%}, and their own best above "
        f"{found['people themselves'][-1][1].value:.0%}."
    )
    yield _curve(
        "best_of_n", step, "What its pick among n is worth to people", found, finding,
        "n", "share of the others put below", chance=0.5,
    )  # fmt: skip


def learning_curve(points: Sequence[tuple[int, Share]], step: int) -> Figure:
    """Held-out accuracy of models that learned from fewer groups, the whole last."""
    (few, before), (many, now) = points[0], points[-1]
    verb = "rose" if now.low > before.high else "rose by no more than chance may do" if now.value > before.value else "did not rise"  # fmt: skip
    finding = f"From {few:,} to {many:,} groups the share of held-out pairs {verb}: {before.value:.0%}, then {now.value:.0%}."
    if len(points) > 2:
        previous = points[-2][1]
        more = now.value - previous.value
        finding += f" The last {many - points[-2][0]:,} groups brought {more * 100:+.0f} points" + (
            ", so more would likely help." if more > 0.01 else ", so more of the same will hardly help."
        )
    title = "Would more rankings help?"
    return _curve("learning_curve", step, title, {"this model": list(points)}, finding, "groups learned from", "share right")  # fmt: skip


def _share(groups: Sequence[Group], outcomes: Sequence[Sequence[float]]) -> Share | None:
    return clustered(by_prompt(groups, outcomes))


def _worth(group: Group) -> list[float | None]:
    """For each answer the share of the others that the labelers' common order puts below it; None for one not placed."""
    order = merged(ranking.order for ranking in group.rankings)
    n = sum(map(len, order))
    found: list[float | None] = [None] * len(group.completions)
    below = n
    for tied in order:
        below -= len(tied)
        for i in tied:
            found[i] = (below + (len(tied) - 1) / 2) / (n - 1) if n > 1 else 0.5
    return found


def _best_of(n: int, keys: Sequence[float], worth: Sequence[float]) -> float:
    """Mean worth of the answer with the highest key over all sets of n answers; equal keys share."""
    k = len(keys)
    by_key: dict[float, list[float]] = {}
    for key, value in zip(keys, worth, strict=True):
        by_key.setdefault(key, []).append(value)
    total, below = 0.0, 0
    for key in sorted(by_key):
        own = by_key[key]
        # Sets of n whose highest key is this one: those among it and all below, less those below alone.
        sets = math.comb(below + len(own), n) - math.comb(below, n)
        total += sets * sum(own) / len(own)
        below += len(own)
    return total / math.comb(k, n)


def _curve(
    name: str,
    step: int,
    title: str,
    series: dict[str, list[Any]],
    finding: str,
    x_title: str,
    y_title: str,
    lines: Sequence[dict[str, Any]] = (),
    chance: float = CHANCE,
) -> Figure:
    data: list[dict[str, Any]] = list(lines)
    named = [x for points in series.values() for x, _ in points]
    for label, points in series.items():
        shares = [share for _, share in points]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label,
                "x": [x for x, _ in points],
                "y": [round(share.value, 4) for share in shares],
                "customdata": [share.n for share in shares],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": [round(share.high - share.value, 4) for share in shares],
                    "arrayminus": [round(share.value - share.low, 4) for share in shares],
                },
            }
        )
    line = {"type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": chance, "y1": chance}
    layout = {
        # Names that are numbers stay names: between "1" and "2 or more" there is nothing.
        "xaxis": {"title": {"text": x_title}}
        | ({"type": "category"} if any(isinstance(x, str) for x in named) else {}),
        "yaxis": {"title": {"text": y_title}, "range": [-0.02, 1.02]},
        "showlegend": len(data) > 1,
        "shapes": [{**line, "line": {"dash": "dot", "width": 1}}],
    }
    return Figure(name, step, title, {"data": data, "layout": layout}, finding)
