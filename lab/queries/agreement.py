"""How far a project's labelers agree, by core_ml.feedback.agreement, and the groups on which they agree least.

People are measured among people: a program that plays a labeler follows a rule, and several that share one agree as no
people do. Each program is held against the people, and programs count among themselves only where nobody else ranked.
"""

import heapq
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from django.db.models import Count, Max

from core_ml.evaluation.statistics import clustered
from core_ml.feedback.agreement import OPPOSITE, SAME, Agreement, Judgement, compared, places, tau_b, verdicts
from lab.models import Account, Group, Project, Ranking
from lab.queries.labeling import ORDINARY

N_DISPUTES = 20
N_PARTS = 8
MAX_PROGRAMS = 8
"""Programs that are held against the people, those with the first rankings."""
MIN_GROUPS = 5
"""Fewer groups ranked by two people say nothing about how much they agree."""


def of(project: Project) -> dict[str, Any]:
    """Agreement over the groups that two labelers ranked.

    `agreement` is the share of pairs of answers, put in an order by both, that stand in the same order (0.5 by
    chance), with `low` and `high` at 95 %; `with_ties` takes a tie for a third verdict; `alpha` is Krippendorff's,
    ordinal; `tau_b` is the mean of Kendall's. All are of people, or of programs where no person ranked: `among` says
    which, and `programs` is the agreement of programs with each other where people are measured. `labelers` and
    `between` hold those of each, a program's with the people; `disputes` are between all.
    """
    n_settled = project.groups.filter(settled__isnull=False).count()
    return _measured(*_state(project), n_settled)


def course(project: Project) -> list[dict[str, Any]]:
    """Agreement as the rankings came in: of up to N_PARTS equal parts of the groups that two labelers ranked.

    Of people, or of programs where no person ranked. Groups stand in the order in which they were ranked a second time. Each part says which of them it holds (`first`,
    `last`), the share of pairs alike among those that both put in an order, its 95 % interval over groups, and
    whether that leaves out the agreement of all (`apart`). None where there are too few groups to tell parts apart.
    """
    return _course(*_state(project))


def _state(project: Project) -> tuple[int, str, int, int]:
    """What the measures hang on: the page asks every few seconds, and nothing changes without a new ranking."""
    state = Ranking.objects.filter(ORDINARY, group__project=project).aggregate(n=Count("pk"), last=Max("pk"))
    return project.pk, str(project.created), state["n"], state["last"] or 0


@lru_cache(maxsize=32)
def _measured(project: int, created: str, n: int, last: int, n_settled: int) -> dict[str, Any]:
    by_people = _people_ranked(project)
    counted, programs = Agreement(), Agreement()
    against: dict[str, Agreement] = {}
    lowest: list[tuple[float, int, dict[str, Any]]] = []
    who = ("labeler__username", "labeler__is_simulated")
    rows = (
        _compared_rankings(project)
        .values_list("group", "group__settled", *who, "order", "all_bad", "flags")
        .iterator()
    )
    for group, found in groupby(rows, key=lambda row: row[0]):
        said = list(found)
        n_answers = sum(len(tied) for tied in said[0][4])
        people, robots = (_judgements(said, simulated) for simulated in (False, True))
        counted.add(n_answers, people if by_people else robots)
        if by_people and robots:
            programs.add(n_answers, robots)
            for robot in robots if people else ():
                if robot.labeler in against or len(against) < MAX_PROGRAMS:
                    against.setdefault(robot.labeler, Agreement()).add(n_answers, [robot, *people])
        tau = _tau(n_answers, [row[4] for row in said])
        if tau is None or tau > 1 - 1e-9 or said[0][1] is not None:
            continue
        entry = (-tau, -group, {name: order for _, _, name, _, order, _, _ in said})
        (heapq.heappush if len(lowest) < N_DISPUTES else heapq.heappushpop)(lowest, entry)
    told = {
        "among": "people" if by_people else "programs",
        "programs": _of_programs(programs.result()) if programs.n_compared else None,
    }
    disputed = sorted(lowest, key=lambda one: (-one[0], -one[1]))
    return told | _laid_out(_with_programs(counted.result(), against), disputed)


def _judgements(said: list[Any], simulated: bool) -> list[Judgement]:
    return [
        Judgement(name, order, all_bad, {int(index): names for index, names in flags.items()})
        for _, _, name, program, order, all_bad, flags in said
        if program == simulated
    ]


def _tau(n_answers: int, orders: list[Any]) -> float | None:
    """The mean of Kendall's tau-b over pairs of labelers; None where each pair has one who ties all."""
    taus = tau_b(verdicts(np.stack([places(order, n_answers) for order in orders])))
    taus = taus[np.triu_indices(len(orders), 1)]
    taus = taus[~np.isnan(taus)]
    return float(taus.mean()) if len(taus) else None


def _of_programs(result: dict[str, Any]) -> dict[str, Any]:
    return {"groups": result["groups_compared"], "pairs": result["pairs_ordered"]} | result[
        "agreement_ordered"
    ]


def _with_programs(result: dict[str, Any], against: dict[str, Agreement]) -> dict[str, Any]:
    """The people's measures, and beside them those of each program with the people."""
    for name, counted in against.items():
        own = counted.result()
        result["labelers"] += [one for one in own["labelers"] if one["labeler"] == name]
        result["between"] += [one for one in own["between"] if name in one["labelers"]]
    return result


def _people_ranked(project: int) -> bool:
    return Ranking.objects.filter(ORDINARY, group__project=project, labeler__is_simulated=False).exists()


def _compared_rankings(project: int) -> Any:
    """Rankings of the groups that two labelers ranked, a group's together."""
    doubly = Ranking.objects.filter(ORDINARY, group__project=project).values("group")
    doubly = doubly.annotate(n=Count("pk")).filter(n__gte=2)
    return Ranking.objects.filter(ORDINARY, group__in=doubly.values("group")).order_by("group", "id")


@lru_cache(maxsize=32)
def _course(project: int, created: str, n: int, last: int) -> list[dict[str, Any]]:
    groups: list[tuple[int, list[float]]] = []
    among = _compared_rankings(project).filter(labeler__is_simulated=not _people_ranked(project))
    rows = among.values_list("group", "pk", "order").iterator()
    for _, found in groupby(rows, key=lambda row: row[0]):
        said = list(found)
        if len(said) < 2:
            continue
        n_answers = sum(len(tied) for tied in said[0][2])
        ways = compared(verdicts(np.stack([places(order, n_answers) for *_, order in said])))
        alike, apart = (round(ways[kind][np.triu_indices(len(said), 1)].sum()) for kind in (SAME, OPPOSITE))
        groups.append((said[1][1], [1.0] * alike + [0.0] * apart))  # compared since its second ranking
    outcomes = [pairs for _, pairs in sorted(groups)]
    n_parts = min(N_PARTS, len(outcomes) // MIN_GROUPS)
    whole = clustered(outcomes)
    if n_parts < 2 or whole is None:
        return []
    parts = []
    for part in range(n_parts):
        first, end = (len(outcomes) * edge // n_parts for edge in (part, part + 1))
        share = clustered(outcomes[first:end])
        if share is not None:
            apart_from_all = share.high < whole.value or share.low > whole.value
            ends = {"value": share.value, "low": share.low, "high": share.high, "apart": apart_from_all}
            parts.append({"first": first + 1, "last": end, **ends})
    return parts


def _laid_out(result: dict[str, Any], lowest: list[tuple[float, int, dict[str, Any]]]) -> dict[str, Any]:
    simulated = set(Account.objects.filter(is_simulated=True).values_list("username", flat=True))
    prompts = dict(Group.objects.filter(pk__in=[-pk for _, pk, _ in lowest]).values_list("pk", "prompt"))
    return {
        "groups": result["groups_compared"],
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
