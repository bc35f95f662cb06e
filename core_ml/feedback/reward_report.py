"""How far a reward model can be trusted: the share of held-out pairs that it orders as the labelers did.

Beside it stand two rules that have learned nothing, "longer wins" and "shorter wins", and the people among themselves
on the same pairs: a reward model below the first has learned nothing worth having, and one that is measurably not
below the last by more than a stated margin is as good as a labeler. Programs that ranked are told apart from people.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from core_ml.evaluation.figures import dots
from core_ml.evaluation.statistics import Share, clustered
from core_ml.events import Event, Figure
from core_ml.feedback.pairs import (
    CRITERIA,
    Group,
    agrees_with_two,
    by_prompt,
    first_difference,
    labelers_agree,
    length_wins,
    like_length,
    ordered_rightly,
)

TITLES = {
    "all": "all pairs",
    "correct": "pairs that differ first in correct",
    "complete": "… in complete",
    "short": "… in short",
    "like length": "pairs of like length",
    "two labelers": "pairs that two people ordered",
    "labelers": "… those people, each other",
    "programs": "programs, each other",
    "longer wins": 'rule "longer wins"',
    "shorter wins": 'rule "shorter wins"',
}

Outcomes = dict[str, list[list[float]]]
"""By name: for each prompt, 1 for each pair that is ordered as the labeler orders it, 0 for the others."""
CHANCE = 0.5
MARGIN = 0.05
"""How far below a labeler a model may be and still pass for one: a choice, and hence named wherever it decides."""


def outcomes(groups: Sequence[Group], rewards: Sequence[Sequence[float]]) -> Outcomes:
    """How a reward model and two rules without any learning order the pairs of some groups.

    Names: "all", "correct", "complete" and "short" (the first criterion in which a pair of our tasks differs),
    "like length", "longer wins", "shorter wins"; and, where two people ordered the same pair, "two labelers" for
    the model on just those pairs, and "labelers" for how often these two agree; "programs" is that of two programs.
    """
    found: Outcomes = {}
    for number, (group, values) in enumerate(zip(groups, rewards, strict=True)):
        for i, j in group.pairs():
            better, worse = group.completions[i], group.completions[j]
            right = ordered_rightly(values, i, j)
            names = ["all", first_difference(group.prompt, better, worse)]
            names.append("like length" if like_length(better, worse) else None)
            scored = [(name, right) for name in names if name]
            scored.append(("longer wins", length_wins(better, worse, 1)))
            scored.append(("shorter wins", length_wins(better, worse, -1)))
            for name, value in scored:
                lists = found.setdefault(name, [[] for _ in groups])
                lists[number].append(value)
    found["two labelers"] = agrees_with_two(groups, rewards)
    found["labelers"] = labelers_agree(groups)
    found["programs"] = labelers_agree(groups, simulated=True)
    return {name: by_prompt(groups, own) for name, own in found.items()}


@dataclass(frozen=True, slots=True)
class Beside:
    """A reward model beside people: how much oftener it agrees with one of two than these two with each other."""

    difference: Share
    """Comparison by comparison, so that what people dispute is taken out; 95 % interval over prompts."""
    verdict: Literal["as good", "worse", "unknown"]
    needed: int
    """Comparisons that would tell, were the difference what it looks like; those that there are, where it is told."""

    def as_dict(self) -> dict[str, Any]:
        told = self.difference
        return {
            "difference": told.value,
            "low": told.low,
            "high": told.high,
            "n": told.n,
            "margin": MARGIN,
        } | {
            "verdict": self.verdict,
            "needed": self.needed,
        }


def beside_people(groups: Sequence[Group], rewards: Sequence[Sequence[float]]) -> Beside | None:
    """Whether a model may pass for a labeler: not below people by MARGIN. None where no two people ordered a pair.

    Source of the test: Piaggio et al. 2012, "Reporting of noninferiority and equivalence randomized trials", JAMA 308.
    """
    both = zip(agrees_with_two(groups, rewards), labelers_agree(groups), strict=True)
    gaps = by_prompt(groups, [[a - b for a, b in zip(model, people, strict=True)] for model, people in both])
    found, n_prompts = clustered(gaps), sum(bool(own) for own in gaps)
    if found is None:
        return None
    # What n prompts do not show may be in 3/n of them (Hanley and Lippman-Hand 1983, JAMA 249): a few that agree
    # perfectly have a bootstrap interval of no width and prove nothing.
    unseen, half = 3 / n_prompts, (found.high - found.low) / 2
    low, high = min(found.low, found.value - unseen), max(found.high, found.value + unseen)
    found = Share(found.value, max(-1.0, low), min(1.0, high), found.n)
    if low > -MARGIN:
        return Beside(found, "as good", found.n)
    if high < 0:
        return Beside(found, "worse", found.n)
    # The interval narrows with the root of the prompts, and tells once it leaves out the farther of the two bounds.
    room = max(found.value + MARGIN, -found.value)
    times = max(1.0, (half / room) ** 2, unseen / room)
    return Beside(found, "unknown", math.ceil(round(found.n * times, 6)))


def held_out_loss(
    groups: Sequence[Group], rewards: Sequence[Sequence[float]], loss: str, log_ties: Any = None
) -> float | None:
    """The training loss on groups that were kept aside, without smoothing; None where they have nothing to say.

    Args:
        log_ties: of a Plackett-Luce model; ties larger than it knows are left out.
    """
    import torch

    from core_ml.feedback.reward_loss import bradley_terry, plackett_luce

    values = torch.tensor([value for own in rewards for value in own])
    pairs: list[tuple[int, int]] = []
    weights: list[float] = []
    orders: list[list[list[int]]] = []
    begin, largest = 0, 1 + (0 if log_ties is None else len(log_ties))
    for group, own in zip(groups, rewards, strict=True):
        for ranking in group.rankings:
            some = ranking.pairs()
            pairs += [(begin + better, begin + worse) for better, worse in some]
            weights += [1 / max(1, len(some))] * len(some)
            sizes = [len(tied) for tied in ranking.order]
            if sum(sizes) > 1 and max(sizes) <= largest:
                orders.append([[begin + index for index in tied] for tied in ranking.order])
        begin += len(own)
    if loss == "plackett_luce":
        ties = None if log_ties is None else log_ties.detach().cpu()
        return plackett_luce(values, orders, log_ties=ties).item() if orders else None
    return bradley_terry(values, pairs, weights).item() if pairs else None


def headline(shares: dict[str, Share]) -> dict[str, Any]:
    """val_accuracy with its interval, and val_accuracy_… for each of the others."""
    values: dict[str, Any] = {}
    for name, share in shares.items():
        suffix = "" if name == "all" else f"_{name.replace(' ', '_')}"
        values[f"val_accuracy{suffix}"] = round(share.value, 4)
        if name == "all":
            values["val_accuracy_low"], values["val_accuracy_high"] = (
                round(share.low, 4),
                round(share.high, 4),
            )
            values["n_held_out_pairs"] = share.n
    return values


def findings(shares: dict[str, Share], counts: dict[str, Any], beside: Beside | None = None) -> list[str]:
    """What the held-out pairs say, plainly, the model's failures included."""
    if "all" not in shares:
        return ["The held-out prompts hold no pair: rank more groups to measure this model."]
    model = shares["all"]
    rule = max(("longer wins", "shorter wins"), key=lambda name: shares[name].value)
    other = shares[rule].value
    said = [
        f"It orders {model.value:.0%} of {model.n:,} held-out pairs as the labelers did ({model.low:.0%} to "
        f"{model.high:.0%})."
    ]
    like = shares.get("like length")
    if model.low <= CHANCE:
        said.append("That is not measurably better than chance: it needs more rankings.")
    elif model.low <= other:
        said.append(f'That is not measurably better than the rule "{rule}" ({other:.0%}).')
        said.append(_only_length(like))
    else:
        said.append(f'The rule "{rule}", which reads nothing, orders {other:.0%}.')
        if like:
            said.append(
                f"Of pairs of like length, of which that rule knows nothing, it orders {like.value:.0%}."
            )
    said += _beside_people(shares, counts, beside)
    criteria = {name: shares[name] for name in CRITERIA if name in shares}
    if criteria:
        worst = min(criteria, key=lambda name: criteria[name].value)
        said.append(
            f"It is weakest where answers differ first in being {worst}: {criteria[worst].value:.0%} of "
            f"{criteria[worst].n:,} pairs."
        )
    if counts["n_rankings_simulated"]:
        said.append(
            f"{counts['n_rankings_simulated']:,} of the {counts['n_rankings']:,} rankings come from a simulated "
            f"labeler, {counts['n_rankings_people']:,} from people."
        )
    if counts["n_damaged"]:
        said.append(f"{counts['n_damaged']:,} damaged rankings were passed over.")
    return said


def _only_length(like: Share | None) -> str:
    """What a model that does no better than a rule of length knows besides length, where pairs are of like length."""
    if like is None:
        return "No held-out pair is of like length, so nothing says whether it has learned more than length."
    of = f"of {like.n:,} pairs of like length it orders {like.value:.0%} ({like.low:.0%} to {like.high:.0%})"
    if like.low <= CHANCE:
        return f"It has learned nothing but length: {of}, which is no better than chance."
    return f"It has learned more than length: {of}, where that rule is at chance."


def _beside_people(shares: dict[str, Share], counts: dict[str, Any], beside: Beside | None) -> list[str]:
    said = []
    people, model = shares.get("labelers"), shares.get("two labelers")
    if not counts["n_rankings_people"]:
        said.append(
            "Only programs ranked here, no person: nothing says how well people agree, or whether the model is as good "
            "as one of them."
        )
    elif people is None or model is None or beside is None:
        said.append(
            "No held-out pair was ordered by two people, so nothing says how well they agree with each other: ask for "
            "two rankings of some groups."
        )
    else:
        said.append(
            f"On {people.n:,} comparisons of two people, they agree with each other on {people.value:.0%} "
            f"({people.low:.0%} to {people.high:.0%}) and the model with either of them on {model.value:.0%}: "
            f"{_verdict(beside)}"
        )
    if programs := shares.get("programs"):
        said.append(
            f"Programs agree with each other on {programs.value:.0%} ({programs.low:.0%} to {programs.high:.0%}) of "
            f"{programs.n:,} comparisons, which says nothing about people."
        )
    return said


def _verdict(beside: Beside) -> str:
    told, margin = beside.difference, f"{100 * MARGIN:.0f} points"
    points = f"{100 * told.value:+.0f} points ({100 * told.low:+.0f} to {100 * told.high:+.0f})"
    if beside.verdict == "as good":
        return f"it is as good as a labeler, or less than {margin} below one ({points})."
    if beside.verdict == "worse":
        return f"it is not as good as a labeler, {points}."
    return (
        f"whether it is as good as a labeler cannot be told yet. The difference is {points}, and about "
        f"{beside.needed:,} comparisons would tell it to within {margin}."
    )


def figures(shares: dict[str, Share], step: int) -> Iterator[Event]:
    shown = [(title, shares[name]) for name, title in TITLES.items() if name in shares]
    if not shown:
        return
    title = "Held-out pairs ordered as the labelers did"
    finding = "; ".join(f"{name}: {share.value:.2f}" for name, share in shown)
    rows = [[name, round(s.value, 3), round(s.low, 3), round(s.high, 3), s.n] for name, s in shown]
    columns = ["", "share", "low", "high", "pairs"]
    yield Figure("held_out_pairs", step, title, {"columns": columns, "rows": rows}, finding)
    yield dots(
        "held_out_accuracy",
        step,
        title,
        {"share": shown},
        axis="share of pairs, 95 % interval",
        finding=finding,
        reference=0.5,
    )
