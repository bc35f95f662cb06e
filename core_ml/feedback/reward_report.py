"""How far a reward model can be trusted: the share of held-out pairs that it orders as the labelers did.

Beside it stand two rules that have learned nothing, "longer wins" and "shorter wins", and the labelers among
themselves on the same pairs: a reward model below the first has learned nothing worth having, and one at the last
is as good as a labeler.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from core_ml.evaluation.figures import dots
from core_ml.evaluation.statistics import Share
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
    "two labelers": "pairs that two labelers ordered",
    "labelers": "… those labelers, each other",
    "longer wins": 'rule "longer wins"',
    "shorter wins": 'rule "shorter wins"',
}

Outcomes = dict[str, list[list[float]]]
"""By name: for each prompt, 1 for each pair that is ordered as the labeler orders it, 0 for the others."""
CHANCE = 0.5


def outcomes(groups: Sequence[Group], rewards: Sequence[Sequence[float]]) -> Outcomes:
    """How a reward model and two rules without any learning order the pairs of some groups.

    Names: "all", "correct", "complete" and "short" (the first criterion in which a pair of our tasks differs),
    "like length", "longer wins", "shorter wins"; and, where two labelers ordered the same pair, "two labelers" for
    the model on just those pairs, and "labelers" for how often these two agree.
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
    found["two labelers"] = agrees_with_two(list(groups), rewards)
    found["labelers"] = labelers_agree(list(groups))
    return {name: by_prompt(groups, own) for name, own in found.items()}


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


def findings(shares: dict[str, Share], counts: dict[str, Any]) -> list[str]:
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
    said.append(_beside_people(shares))
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


def _beside_people(shares: dict[str, Share]) -> str:
    people, model = shares.get("labelers"), shares.get("two labelers")
    if people is None or model is None:
        return (
            "No held-out pair was ordered by two labelers, so nothing says how well they agree with each other: ask "
            "for two rankings of some groups."
        )
    said = (
        f"On {people.n:,} comparisons of two labelers, they agree with each other on {people.value:.0%} "
        f"({people.low:.0%} to {people.high:.0%}) and the model with either of them on {model.value:.0%}"
    )
    return f"{said}: it is as good as a labeler." if model.high >= people.value else f"{said}."


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
