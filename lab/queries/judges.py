"""Judges of the arena: how far each agrees with people, and what sways it beside the content.

A judge is held against people on the battles on which both voted, and people against the same measure of length, so
that a judge's leaning can be told from one that people share.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from django.db.models import Count, Max, QuerySet

from core_ml.evaluation import judging
from core_ml.evaluation.judging import Agreement, PlaceBias
from core_ml.evaluation.statistics import Share
from lab.models import Vote
from lab.models.arena import HUMAN, JUDGE


@dataclass(frozen=True)
class Judge:
    """One judge model, or a program that plays a labeler."""

    name: str
    n_votes: int
    n_shared: int
    """Battles on which people voted too."""
    agreement: Agreement
    place: PlaceBias | None
    """Only where it judged battles with the sides both ways round."""
    longer: Share | None
    """Of its votes that name a winner, those for the longer answer."""


@dataclass(frozen=True)
class Judges:
    judges: list[Judge]
    """Those with most votes first."""
    people_longer: Share | None


def judges() -> Judges:
    told = _counted().aggregate(last=Max("pk"), n=Count("pk"), when=Max("created"))
    return _judges(told["last"] or 0, told["n"], told["when"])


def _counted() -> QuerySet[Vote]:
    """An answer that told its model's name may sway a judge as it sways people: such votes measure neither."""
    return Vote.objects.filter(counts=True)


@lru_cache(maxsize=2)
def _judges(last: int, n: int, when: datetime | None) -> Judges:
    """The arguments say which votes there are: nothing is counted twice."""
    found = list(
        _counted()
        .filter(pk__lte=last)
        .order_by("pk")
        .values_list("kind", "judge", "battle_id", "outcome", "battle__style", "verdicts")
    )
    people: dict[int, list[str]] = {}
    lengths: list[tuple[str, int, int]] = []
    by_judge: dict[str, list[tuple[int, str, tuple[str, int, int], list[str] | None]]] = {}
    for kind, judge, battle, outcome, style, verdicts in found:
        long = (outcome, style[0][0], style[1][0]) if style else (outcome, 0, 0)
        if kind == HUMAN:
            people.setdefault(battle, []).append(outcome)
            lengths.append(long)
        elif kind == JUDGE:
            by_judge.setdefault(judge, []).append((battle, outcome, long, verdicts))
    listed = [_judge(name, votes, people) for name, votes in by_judge.items()]
    return Judges(sorted(listed, key=lambda one: (-one.n_votes, one.name)), judging.longer_preferred(lengths))


def _judge(
    name: str,
    votes: list[tuple[int, str, tuple[str, int, int], list[str] | None]],
    people: dict[int, list[str]],
) -> Judge:
    shared = [
        [(outcome, person) for person in people[battle]]
        for battle, outcome, _, _ in votes
        if battle in people
    ]
    both_ways = [(verdicts[0], verdicts[1]) for *_, verdicts in votes if verdicts]
    return Judge(
        name,
        len(votes),
        len(shared),
        judging.agreement(shared),
        judging.place_bias(both_ways),
        judging.longer_preferred(long for _, _, long, _ in votes),
    )
