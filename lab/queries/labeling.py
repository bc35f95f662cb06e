"""Reading labelling projects: how far they are, how fast, and what is in dispute.

Rankings of gold groups and second rankings of a group measure the labelers; they count neither as progress nor in
the agreement between labelers.
"""

from math import isnan
from statistics import median
from typing import Any

import numpy as np
from django.db.models import Count, F, Q, QuerySet
from django.utils import timezone

from core_ml.feedback.agreement import BOTH_TIED, OPPOSITE, SAME, compared, places, tau_b, verdicts
from core_ml.feedback.pairs import n_pairs
from lab import markup
from lab.models import Account, Group, Lease, Project, Ranking

ORDINARY = Q(round=0, group__gold__isnull=True)
EXPECTED = ORDINARY & Q(extra=False)
"""Of those the ones that were asked for: what came too late is one more than its group needed."""
Order = list[list[int]]


def visible(role: str = "researcher") -> QuerySet[Project]:
    """Projects, newest first; for a labeler those that are open."""
    found = Project.objects.select_related("source", "created_by", "tour")
    return found.filter(closed=None) if role == "labeler" else found


def totals(project: Project) -> dict[str, int]:
    """Groups, rankings so far, and how many rankings are wanted in all."""
    n_groups = project.groups.filter(gold__isnull=True).count()
    n_rankings = Ranking.objects.filter(EXPECTED, group__project=project).count()
    return {"groups": n_groups, "rankings": n_rankings, "wanted": n_groups * project.rankings_per_group}


def progress(project: Project) -> dict[str, Any]:
    """Counts of groups and rankings, and each labeler's part."""
    rankings = Ranking.objects.filter(ORDINARY, group__project=project)
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
        "gold": project.groups.filter(gold__isnull=False).count(),
        "settled": project.groups.filter(settled__isnull=False).count(),
        "uncertain": project.groups.filter(uncertainty__isnull=False).count(),
        "labelers": labelers(project),
    }


def labelers(project: Project) -> list[dict[str, Any]]:
    """Each labeler's number of rankings, median of seconds, last one, and what gold and repeated groups say of them.

    `gold_right` of `gold_pairs`: pairs of answers that gold puts in an order and the labeler in the same one.
    `self_agreement` of `self_pairs`: pairs on which both rankings of a repeated group say the same.
    """
    by_labeler: dict[int, list[Ranking]] = {}
    # Prompts and answers stay in the database.
    rows = Ranking.objects.filter(group__project=project).select_related("labeler")
    for ranking in rows.annotate(gold=F("group__gold")):
        by_labeler.setdefault(ranking.labeler_id, []).append(ranking)
    return [
        {
            "labeler": found[0].labeler.username,
            "simulated": found[0].labeler.is_simulated,
            "rankings": len(found),
            "median_seconds": round(median(ranking.seconds for ranking in found), 2),
            "last": found[-1].created,
            **_by_gold(found),
            **_with_self(found),
        }
        for found in sorted(by_labeler.values(), key=len, reverse=True)
    ]


def _by_gold(rankings: list[Any]) -> dict[str, int]:
    checks = [one for one in rankings if one.gold is not None and one.round == 0]
    right = sum(compare(one.gold, one.order)[0] for one in checks)
    pairs = sum(n_pairs(one.gold) for one in checks)
    return {"gold": len(checks), "gold_right": right, "gold_pairs": pairs}


def _with_self(rankings: list[Ranking]) -> dict[str, Any]:
    first = {one.group_id: one for one in rankings if one.round == 0}
    again = [
        _ways(first[one.group_id].order, one.order) for one in rankings if one.round and one.group_id in first
    ]
    pairs = round(sum(ways.sum() for ways in again))
    same = round(sum(ways[SAME] + ways[BOTH_TIED] for ways in again))
    return {"repeated": len(again), "self_pairs": pairs, "self_agreement": same / pairs if pairs else None}


def own_progress(project: Project, account: Account) -> dict[str, int]:
    """What a labeler sees beside a task: their own rankings, and how far all are."""
    n_groups = project.groups.filter(gold__isnull=True).count()
    counts = Ranking.objects.filter(group__project=project).aggregate(
        mine=Count("pk", filter=Q(labeler=account)), rankings=Count("pk", filter=EXPECTED)
    )
    return counts | {"groups": n_groups, "wanted": n_groups * project.rankings_per_group}


def groups(project: Project, only: str = "") -> QuerySet[Group]:
    """A project's groups with `n_rankings`: all, or those that are gold, settled or uncertain."""
    ordinary = Count("rankings", filter=Q(rankings__round=0))
    found = project.groups.annotate(n_rankings=ordinary).select_related("settled_by").order_by("index")
    return (
        found.filter(**{f"{ {'uncertain': 'uncertainty'}.get(only, only) }__isnull": False})
        if only
        else found
    )


def rankings_of(group: Group) -> list[Ranking]:
    """All that labelers said of one group, first rankings before second ones."""
    return list(group.rankings.select_related("labeler").order_by("round", "id"))


def compare(first: Order, second: Order) -> tuple[int, int, float | None]:
    """Concordant and discordant pairs of two orders of the same answers, and Kendall's tau-b.

    tau-b = (C - D) / sqrt((n0 - ties in the first) (n0 - ties in the second)), n0 = n (n - 1) / 2; None when
    one of them ties everything. Source: Kendall 1945, "The treatment of ties in ranking problems".
    """
    ways, tau = _ways(first, second), float(tau_b(_said(first, second))[0, 1])
    return round(ways[SAME]), round(ways[OPPOSITE]), None if isnan(tau) else round(tau, 6)


def _said(first: Order, second: Order) -> np.ndarray:
    n = sum(map(len, first))
    return verdicts(np.stack([places(first, n), places(second, n)]))


def _ways(first: Order, second: Order) -> np.ndarray:
    """(4,) pairs of answers by how two orders judge them: SAME, BOTH_TIED, ONE_TIED, OPPOSITE."""
    found: np.ndarray = compared(_said(first, second))[:, 0, 1]
    return found


def task(group: Group, shown: list[int], html: bool = True) -> dict[str, Any]:
    """A group as a labeler is shown it: its answers in their own order, and how they stand on the screen."""
    return {
        "id": group.pk,
        "project": group.project_id,
        "index": group.index,
        "prompt": group.prompt,
        "completions": group.completions,
        "shown": shown,
        "cut_off": group.metadata.get("cut_off") or [False] * len(group.completions),
        "html": markup.of_group(group.prompt, group.completions) if html else None,
    }
