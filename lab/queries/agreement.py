"""How far a project's labelers agree, by core_ml.feedback.agreement, and the groups on which they agree least."""

import heapq
from functools import lru_cache
from itertools import groupby
from typing import Any

from django.db.models import Count, Max

from core_ml.feedback.agreement import Agreement, Judgement
from lab.models import Account, Group, Project, Ranking
from lab.queries.labeling import ORDINARY

N_DISPUTES = 20
MIN_GROUPS = 5
"""Fewer groups ranked by two people say nothing about how much they agree."""


def of(project: Project) -> dict[str, Any]:
    """Agreement over the groups that two labelers ranked.

    `agreement` is the share of pairs of answers, put in an order by both, that stand in the same order (0.5 by
    chance), with `low` and `high` at 95 %; `with_ties` takes a tie for a third verdict; `alpha` is Krippendorff's,
    ordinal; `tau_b` is the mean of Kendall's. `labelers`, `between` and `flags` hold those of each.
    """
    state = Ranking.objects.filter(ORDINARY, group__project=project).aggregate(n=Count("pk"), last=Max("pk"))
    n_settled = project.groups.filter(settled__isnull=False).count()
    # The page asks every few seconds; nothing changes without a new ranking, or one taken back.
    return _measured(project.pk, str(project.created), state["n"], state["last"] or 0, n_settled)


@lru_cache(maxsize=32)
def _measured(project: int, created: str, n: int, last: int, n_settled: int) -> dict[str, Any]:
    counted = Agreement()
    lowest: list[tuple[float, int, dict[str, Any]]] = []
    doubly = Ranking.objects.filter(ORDINARY, group__project=project).values("group")
    doubly = doubly.annotate(n=Count("pk")).filter(n__gte=2)
    rankings = Ranking.objects.filter(ORDINARY, group__in=doubly.values("group")).order_by("group", "id")
    rows = rankings.values_list(
        "group", "group__settled", "labeler__username", "order", "all_bad", "flags"
    ).iterator()
    for group, found in groupby(rows, key=lambda row: row[0]):
        said = list(found)
        judgements = [
            Judgement(name, order, all_bad, {int(index): names for index, names in flags.items()})
            for _, _, name, order, all_bad, flags in said
        ]
        tau = counted.add(sum(len(tied) for tied in said[0][3]), judgements)
        if tau is None or tau > 1 - 1e-9 or said[0][1] is not None:
            continue
        entry = (-tau, -group, {name: order for _, _, name, order, _, _ in said})
        (heapq.heappush if len(lowest) < N_DISPUTES else heapq.heappushpop)(lowest, entry)
    return _laid_out(counted.result(), sorted(lowest, key=lambda one: (-one[0], -one[1])))


def _laid_out(result: dict[str, Any], lowest: list[tuple[float, int, dict[str, Any]]]) -> dict[str, Any]:
    simulated = set(Account.objects.filter(is_simulated=True).values_list("username", flat=True))
    prompts = dict(Group.objects.filter(pk__in=[-pk for _, pk, _ in lowest]).values_list("pk", "prompt"))
    return {
        "groups": result["groups"],
        "pairs": result["pairs_ordered"],
        "agreement": result["agreement_ordered"]["value"],
        "low": result["agreement_ordered"]["low"],
        "high": result["agreement_ordered"]["high"],
        "with_ties": result["agreement"],
        "alpha": result["alpha"],
        "tau_b": result["tau_b"],
        "labelers": [
            {
                "labeler": one["labeler"],
                "simulated": one["labeler"] in simulated,
                "pairs": one["pairs_ordered"],
            }
            | {"agreement": one["agreement_ordered"], "alpha": one["alpha"]}
            for one in result["labelers"]
            if one["pairs"]
        ],
        "between": [
            {
                "labelers": one["labelers"],
                "simulated": [name in simulated for name in one["labelers"]],
                "pairs": one["pairs"],
                "agreement": one["agreement_ordered"],
                "with_ties": one["agreement"],
            }
            for one in result["between"]
        ],
        "flags": result["flags"],
        "disputes": [
            {"task": -pk, "prompt": prompts[-pk], "tau_b": -tau, "orders": orders}
            for tau, pk, orders in lowest
            if -pk in prompts
        ],
    }
