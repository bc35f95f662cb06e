"""How far a judge model can be trusted, measured on the groups that it judged and told in plain words.

Beside its agreement with people stands the people's own, on the battles that two of them judged; beside its leaning to
the longer answer theirs, since people like longer answers too; and the rule "longer wins", which reads nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from core_ml.evaluation import judging
from core_ml.evaluation.figures import dots
from core_ml.evaluation.judging import LEFT, RIGHT, SCORES, Agreement, PlaceBias
from core_ml.evaluation.statistics import Share, clustered
from core_ml.events import Event, Figure
from core_ml.feedback.judged import Judged, Pair, said_of
from core_ml.feedback.pairs import length_wins

SOURCES = ("task", "source", "scenario", "category", "application", "set")
"""Metadata that may say where a group is from, the most telling first."""
MOST_SOURCES = 40
"""More values than that name single groups, not kinds of them."""
MOST_SHOWN = 12
TRUSTED_PLACE = 0.2
"""A judge that leans to one side in more of the battles than that is not to be trusted."""
CHANCE = 0.5
WIDE = 0.35
"""An interval of a share that says next to nothing: of some thirty battles."""


@dataclass(frozen=True, slots=True)
class Measures:
    """What was found, each with its 95 % interval; None where the groups do not say."""

    n_groups: int
    n_battles: int
    agreement: Agreement
    """Of the judge with each person who voted on the same battle."""
    shared: Agreement
    """The same on the battles that two people judged."""
    people: Agreement
    """Those people, each other."""
    longer_wins: Share | None
    """How often the longer answer is the one that a person preferred."""
    place: PlaceBias | None
    longer: Share | None
    """Of the battles that the judge decided, the share in which it prefers the longer answer."""
    people_longer: Share | None
    ties: Share | None
    people_ties: Share | None
    source: str = ""
    by_source: list[tuple[str, Share]] = field(default_factory=list)


def measured(groups: Sequence[Judged]) -> Measures:
    """All of it; whoever voted twice counts once, and intervals draw whole groups."""
    outcomes = [one.outcomes() for one in groups]
    said = [_said(one, list(own)) for one, own in zip(groups, outcomes, strict=True)]
    with_judge = [
        [(own[pair], vote) for pair, votes in people.items() for vote in votes]
        for own, people in zip(outcomes, said, strict=True)
    ]
    shared = [
        [(own[pair], vote) for pair, votes in people.items() if len(votes) > 1 for vote in votes]
        for own, people in zip(outcomes, said, strict=True)
    ]
    among = [[two for votes in people.values() for two in combinations(votes, 2)] for people in said]
    source, by_source = _by_source(groups, with_judge)
    return Measures(
        n_groups=sum(bool(own) for own in outcomes),
        n_battles=sum(map(len, outcomes)),
        agreement=judging.agreement(with_judge),
        shared=judging.agreement(shared),
        people=judging.agreement(among),
        longer_wins=clustered([_longer_wins(one, votes) for one, votes in zip(groups, said, strict=True)]),
        place=judging.place_bias([two for one in groups for two in one.verdicts.values()]),
        longer=_longer(groups, [{pair: [one] for pair, one in own.items()} for own in outcomes]),
        people_longer=_longer(groups, said),
        ties=clustered([[float(SCORES[one] == 0.5) for one in own.values()] for own in outcomes]),
        people_ties=clustered(
            [[float(SCORES[one] == 0.5) for votes in own.values() for one in votes] for own in said]
        ),
        source=source,
        by_source=by_source,
    )


Votes = dict[Pair, list[str]]


def _said(judged: Judged, pairs: Sequence[Pair]) -> Votes:
    found = {pair: [said_of(vote, pair) for vote in judged.group.votes] for pair in pairs}
    return {pair: [one for one in votes if one is not None] for pair, votes in found.items()}


def _longer_wins(judged: Judged, said: Votes) -> list[float]:
    texts = judged.group.completions
    found = []
    for (i, j), votes in said.items():
        for vote in votes:
            if SCORES[vote] != 0.5:
                better, worse = (i, j) if vote == LEFT else (j, i)
                found.append(length_wins(texts[better], texts[worse], 1))
    return found


def _longer(groups: Sequence[Judged], said: Sequence[Votes]) -> Share | None:
    """As `judging.longer_preferred`, with an interval that draws whole groups."""
    found = []
    for one, own in zip(groups, said, strict=True):
        texts = one.group.completions
        lengths = {(i, j): (len(texts[i]), len(texts[j])) for i, j in own}
        found.append(
            [
                float((vote == LEFT) == (lengths[pair][0] > lengths[pair][1]))
                for pair, votes in own.items()
                for vote in votes
                if vote in (LEFT, RIGHT) and lengths[pair][0] != lengths[pair][1]
            ]
        )
    return clustered(found)


def _by_source(
    groups: Sequence[Judged], with_judge: Sequence[list[tuple[str, str]]]
) -> tuple[str, list[tuple[str, Share]]]:
    """Agreement by the first kind of metadata that tells the groups apart, the most frequent sources first."""
    for key in SOURCES:
        values = [one.group.metadata.get(key) for one in groups]
        counts = Counter(value for value in values if isinstance(value, str) and value)
        if not 2 <= len(counts) <= MOST_SOURCES:
            continue
        told: defaultdict[str, list[list[tuple[str, str]]]] = defaultdict(list)
        for value, pairs in zip(values, with_judge, strict=True):
            if isinstance(value, str) and value:
                told[value].append(pairs)
        shares = [(value, judging.agreement(told[value]).decided) for value, _ in counts.most_common()]
        found = [(value, share) for value, share in shares if share is not None]
        return key, found[:MOST_SHOWN]
    return "", []


def running(groups: Sequence[Judged]) -> dict[str, float]:
    """The figures of a curve while a judge is at work."""
    found = measured(groups)
    shares = {
        "agreement": found.agreement.decided,
        "consistent": found.place.consistent if found.place else None,
        "prefers_first": found.place.first if found.place else None,
        "ties": found.ties,
    }
    return {name: share.value for name, share in shares.items() if share is not None}


def summary(found: Measures) -> dict[str, Any]:
    """By name, rounded, with the bounds of what matters most."""
    place = found.place
    shares = {
        "agreement": found.agreement.decided,
        "agreement_with_ties": found.agreement.with_ties,
        "agreement_shared": found.shared.decided,
        "agreement_people": found.people.decided,
        "agreement_longer_wins": found.longer_wins,
        "consistent": place.consistent if place else None,
        "prefers_first": place.first if place else None,
        "prefers_second": place.second if place else None,
        "prefers_longer": found.longer,
        "people_prefer_longer": found.people_longer,
        "ties": found.ties,
        "people_ties": found.people_ties,
    }
    values: dict[str, Any] = {"n_groups": found.n_groups, "n_battles": found.n_battles}
    for name, share in shares.items():
        if share is not None:
            values |= {name: round(share.value, 4), f"{name}_low": round(share.low, 4)}
            values |= {f"{name}_high": round(share.high, 4)}
    return values


def findings(found: Measures) -> list[str]:
    """What it means, plainly."""
    if found.place is None:
        return ["No battle has a verdict in both orders, so nothing can be said of this judge."]
    said = [_place(found.place), _agreement(found), _beside_people(found), _length(found)]
    if found.ties is not None:
        people = f"; people call {found.people_ties.value:.0%} of theirs ties" if found.people_ties else ""
        said.append(
            f"{found.ties.value:.0%} of {found.n_battles:,} battles count as ties, "
            f"{1 - found.place.consistent.value:.0%} because the verdict turned with the sides{people}."
        )
    return [one for one in said if one]


def _place(place: PlaceBias) -> str:
    first, second = ("first", place.first), ("second", place.second)
    (side, share), (_, other) = (first, second) if first[1].value >= second[1].value else (second, first)
    of = f"{share.value:.0%} of battles ({share.low:.0%} to {share.high:.0%})"
    leans = f"It prefers whichever answer stands {side} in {of}"
    if share.value > TRUSTED_PLACE and share.low > other.high:
        return f"{leans}: do not trust it."
    if place.consistent.low > CHANCE:
        return f"{leans} and judges {place.consistent.value:.0%} alike in both orders."
    if place.consistent.high - place.consistent.low > WIDE:
        return f"{leans}: {place.consistent.n} battles are too few to say more."
    turned = 1 - place.consistent.value
    return f"Its verdict turns with the sides in {turned:.0%} of battles, as a coin's would: do not trust it."


def _agreement(found: Measures) -> str:
    own, rule = found.agreement.decided, found.longer_wins
    if own is None and rule is not None:
        return "It names no winner where people do, so nothing says whether it judges as they do."
    if own is None:
        return (
            "No person has named a winner of these battles, so nothing says whether it judges as people do."
        )
    said = (
        f"Where both name a winner, it is the same one in {own.value:.0%} of {own.n:,} comparisons with people "
        f"({own.low:.0%} to {own.high:.0%})"
    )
    if own.low <= CHANCE:
        return f"{said}: not measurably better than chance."
    if rule is not None and own.low <= rule.value:
        return f'{said}: not measurably better than the rule "longer wins", which reads nothing ({rule.value:.0%}).'
    return f'{said}; the rule "longer wins" reaches {rule.value:.0%}.' if rule is not None else f"{said}."


def _beside_people(found: Measures) -> str:
    people, own = found.people.decided, found.shared.decided
    if people is None or own is None:
        return (
            ""
            if found.agreement.decided is None
            else "No battle was judged by two people, so their own agreement is not known."
        )
    said = (
        f"On battles that two people judged, they agree with each other in {people.value:.0%} "
        f"({people.low:.0%} to {people.high:.0%}) and the judge with either of them in {own.value:.0%}"
    )
    return f"{said}: as far as people do." if own.high >= people.value else f"{said}: less than people do."


def _length(found: Measures) -> str:
    own, people = found.longer, found.people_longer
    if own is None:
        return ""
    said = f"It prefers the longer answer in {own.value:.0%} of the battles that it decides ({own.low:.0%} to {own.high:.0%})"
    if people is None:
        return f"{said}; what people prefer there is not known."
    if own.low > people.high:
        return f"{said}, people in {people.value:.0%}: it is biased for length."
    if own.high < people.low:
        return f"{said}, people in {people.value:.0%}: it is biased against length."
    return f"{said}, people in {people.value:.0%}: no bias for length is seen."


def figures(found: Measures, step: int) -> Iterator[Event]:
    """A table of all shares, and dots with intervals: agreement, biases, and agreement by source."""
    place = found.place
    agreement = [
        ("the judge, with people", found.agreement.decided),
        ("… on battles of two people", found.shared.decided),
        ("those people, each other", found.people.decided),
        ('rule "longer wins", with people', found.longer_wins),
    ]
    biases = [
        ("same verdict in both orders", place.consistent if place else None),
        ("whichever stands first", place.first if place else None),
        ("whichever stands second", place.second if place else None),
        ("the longer answer: the judge", found.longer),
        ("the longer answer: people", found.people_longer),
        ("ties: the judge", found.ties),
        ("ties: people", found.people_ties),
    ]
    all_said = findings(found)
    told = [(name, share) for name, share in agreement + biases if share is not None]
    if not told:
        return
    rows = [[name, round(s.value, 3), round(s.low, 3), round(s.high, 3), s.n] for name, s in told]
    columns = ["", "share", "low", "high", "of"]
    yield Figure(
        "judge", step, "How far this judge can be trusted", {"columns": columns, "rows": rows}, all_said[0]
    )
    named = [(name, share) for name, share in agreement if share is not None]
    if named:
        finding = "; ".join(f"{name}: {share.value:.2f}" for name, share in named)
        title = "Agreement where both name a winner"
        yield dots("judge_agreement", step, title, {"share": named}, axis="share of comparisons, 95 % interval", finding=finding, reference=CHANCE)  # fmt: skip
    leaning = [(name, share) for name, share in biases if share is not None]
    if leaning:
        finding = "; ".join(f"{name}: {share.value:.2f}" for name, share in leaning)
        yield dots("judge_biases", step, "What it prefers, right or wrong", {"share": leaning}, axis="share, 95 % interval", finding=finding, reference=CHANCE)  # fmt: skip
    if found.by_source:
        best, worst = (f(found.by_source, key=lambda one: one[1].value) for f in (max, min))
        finding = f"By {found.source}: most for {best[0]} ({best[1].value:.2f}), least for {worst[0]} ({worst[1].value:.2f})."
        yield dots("judge_by_source", step, f"Agreement with people by {found.source}", {"share": found.by_source}, axis="share of comparisons, 95 % interval", finding=finding, reference=CHANCE)  # fmt: skip
