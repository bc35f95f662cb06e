"""Reading labelling projects: how far they are, how fast, and how well the labelers agree."""

from itertools import combinations
from statistics import median
from typing import Any

import numpy as np
from django.db.models import Count, QuerySet
from django.utils import timezone

from lab.models import Account, Group, Lease, Project, Ranking

N_RESAMPLES = 1000
"""Of the bootstrap over groups; its error on a bound is then well below the interval's width."""
N_DISPUTES = 20
Ranks = list[int]
"""By answer the place of its tie, 0 for the best."""


def visible(role: str = "researcher") -> QuerySet[Project]:
    """Projects, newest first; for a labeler those that are open."""
    found = Project.objects.select_related("source", "created_by", "tour")
    return found.filter(closed=None) if role == "labeler" else found


def totals(project: Project) -> dict[str, int]:
    """Groups, rankings so far, and how many rankings are wanted in all."""
    n_groups = project.groups.count()
    n_rankings = Ranking.objects.filter(group__project=project).count()
    return {"groups": n_groups, "rankings": n_rankings, "wanted": n_groups * project.rankings_per_group}


def progress(project: Project) -> dict[str, Any]:
    """Counts of groups and rankings, and each labeler's part."""
    rankings = Ranking.objects.filter(group__project=project)
    n_by_group = rankings.values("group").annotate(n=Count("pk")).values_list("n", flat=True)
    wanted = project.rankings_per_group
    leases = Lease.objects.filter(group__project=project)
    return {
        **totals(project),
        "ranked": sum(1 for n in n_by_group if n >= wanted),
        "simulated": rankings.filter(labeler__is_simulated=True).count(),
        "all_bad": rankings.filter(all_bad=True).count(),
        "leased": leases.filter(skipped=False, expires__gt=timezone.now()).count(),
        "skipped": leases.filter(skipped=True).count(),
        "labelers": speed(project),
    }


def speed(project: Project) -> list[dict[str, Any]]:
    """For each labeler the number of rankings, the median of seconds, and when the last one came."""
    by_labeler: dict[int, list[Ranking]] = {}
    rows = Ranking.objects.filter(group__project=project).select_related("labeler")
    for ranking in rows:
        by_labeler.setdefault(ranking.labeler_id, []).append(ranking)
    return [
        {
            "labeler": found[0].labeler.username,
            "simulated": found[0].labeler.is_simulated,
            "rankings": len(found),
            "median_seconds": round(median(ranking.seconds for ranking in found), 2),
            "last": found[-1].created,
        }
        for found in sorted(by_labeler.values(), key=len, reverse=True)
    ]


def own_progress(project: Project, account: Account) -> dict[str, int]:
    """What a labeler sees beside a task: their own rankings, and how far all are."""
    n_mine = Ranking.objects.filter(group__project=project, labeler=account).count()
    return {"mine": n_mine, **totals(project)}


def agreement(project: Project) -> dict[str, Any]:
    """How often two labelers put two answers of one group in the same order.

    `agreement` is the share of pairs of answers, put in an order by both, that stand in the same order (0.5
    by chance); `low` and `high` bound it at 95 % by a bootstrap over groups, since pairs of one group hang
    together. `tau_b` is the mean of Kendall's tau-b over groups and pairs of labelers, which counts ties in.
    `between` holds the same for each pair of labelers, `disputes` the groups with the lowest tau-b.
    """
    compared = _compared(project)
    total = _agreement(compared)
    by_labelers: dict[tuple[Account, Account], list[_Comparison]] = {}
    for entry in compared:
        by_labelers.setdefault(entry.labelers, []).append(entry)
    between = [
        {
            "labelers": [a.username, b.username],
            "simulated": [a.is_simulated, b.is_simulated],
            **_agreement(found),
        }
        for (a, b), found in by_labelers.items()
    ]
    disputed = sorted(
        (e for e in compared if e.tau_b is not None and e.tau_b < 1), key=lambda e: e.tau_b or 0.0
    )
    return {
        **total,
        "between": sorted(between, key=lambda entry: -entry["pairs"]),
        "disputes": [
            {
                "task": entry.group.pk,
                "prompt": entry.group.prompt,
                "tau_b": entry.tau_b,
                "orders": {a.username: order for a, order in zip(entry.labelers, entry.orders, strict=True)},
            }
            for entry in disputed[:N_DISPUTES]
        ],
    }


class _Comparison:
    """Two rankings of one group: pairs in the same order, pairs in opposite orders, and tau-b."""

    def __init__(self, group: Group, first: Ranking, second: Ranking) -> None:
        self.group = group
        self.labelers = (first.labeler, second.labeler)
        self.orders = (first.order, second.order)
        self.same, self.opposite, self.tau_b = compare(first.order, second.order)


def _compared(project: Project) -> list[_Comparison]:
    doubly = (
        Ranking.objects.filter(group__project=project)
        .values("group")
        .annotate(n=Count("pk"))
        .filter(n__gte=2)
    )
    rankings = (
        Ranking.objects.filter(group__in=doubly.values("group"))
        .select_related("group", "labeler")
        .order_by("group__index", "labeler")
    )
    by_group: dict[int, list[Ranking]] = {}
    for ranking in rankings:
        by_group.setdefault(ranking.group_id, []).append(ranking)
    return [
        _Comparison(first.group, first, second)
        for found in by_group.values()
        for first, second in combinations(found, 2)
    ]


def compare(first: list[list[int]], second: list[list[int]]) -> tuple[int, int, float | None]:
    """Concordant and discordant pairs of two orders of the same answers, and Kendall's tau-b.

    tau-b = (C - D) / sqrt((n0 - ties in the first) (n0 - ties in the second)), n0 = n (n - 1) / 2; None when
    one of them ties everything. Source: Kendall 1945, "The treatment of ties in ranking problems".
    """
    a, b = _ranks(first), _ranks(second)
    same = opposite = ordered_a = ordered_b = 0
    for i, j in combinations(range(len(a)), 2):
        left, right = _sign(a[i] - a[j]), _sign(b[i] - b[j])
        ordered_a += left != 0
        ordered_b += right != 0
        same += left * right == 1
        opposite += left * right == -1
    if not ordered_a or not ordered_b:
        return same, opposite, None
    return same, opposite, round((same - opposite) / (ordered_a * ordered_b) ** 0.5, 6)


def _ranks(order: list[list[int]]) -> Ranks:
    place = {index: rank for rank, tied in enumerate(order) for index in tied}
    return [place[index] for index in range(len(place))]


def _sign(difference: int) -> int:
    return (difference > 0) - (difference < 0)


def _agreement(compared: list[_Comparison]) -> dict[str, Any]:
    by_group: dict[int, list[int]] = {}
    for entry in compared:
        pairs = by_group.setdefault(entry.group.pk, [0, 0])
        pairs[0] += entry.same
        pairs[1] += entry.opposite
    counts = np.array(list(by_group.values()), dtype=np.int64).reshape(-1, 2)
    same, opposite = (int(n) for n in counts.sum(axis=0))
    taus = [entry.tau_b for entry in compared if entry.tau_b is not None]
    low, high = _interval(counts)
    return {
        "groups": len(by_group),
        "pairs": same + opposite,
        "agreement": same / (same + opposite) if same + opposite else None,
        "low": low,
        "high": high,
        "tau_b": sum(taus) / len(taus) if taus else None,
    }


def _interval(counts: np.ndarray) -> tuple[float | None, float | None]:
    """95 % bounds of same / (same + opposite) by drawing groups anew; None for fewer than two groups.

    Args:
        counts: (G, 2) int; pairs in the same and in opposite orders of each group.
    """
    if len(counts) < 2 or not counts.sum():
        return None, None
    # Fixed, so that a page tells the same at every reload.
    chance = np.random.default_rng(0)
    drawn = counts[chance.integers(len(counts), size=(N_RESAMPLES, len(counts)))].sum(axis=1)
    drawn = drawn[drawn.sum(axis=1) > 0]
    low, high = np.quantile(drawn[:, 0] / drawn.sum(axis=1), [0.025, 0.975])
    return float(low), float(high)
