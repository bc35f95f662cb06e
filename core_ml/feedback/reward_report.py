"""How far a reward model can be trusted: the share of held-out pairs that it orders as the labelers did.

Beside it stand two rules that have learned nothing, "longer wins" and "shorter wins", and the labelers among
themselves: a reward model below the first has learned nothing worth having, and none can pass the last.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from core_ml.evaluation.figures import dots
from core_ml.evaluation.statistics import Share
from core_ml.events import Event, Figure
from core_ml.feedback.pairs import CRITERIA, Group, first_difference, length_wins, like_length

TITLES = {
    "all": "all pairs",
    "correct": "pairs that differ first in correct",
    "complete": "… in complete",
    "short": "… in short",
    "like length": "pairs of like length",
    "labelers": "labelers among themselves",
    "longer wins": 'rule "longer wins"',
    "shorter wins": 'rule "shorter wins"',
}

Outcomes = dict[str, list[list[float]]]
"""By name: for each group, 1 for each pair that is ordered as the labeler orders it, 0 for the others."""


def outcomes(groups: Sequence[Group], rewards: Sequence[Sequence[float]]) -> Outcomes:
    """How a reward model and two rules without any learning order the pairs of some groups.

    Names: "all", "correct", "complete" and "short" (the first criterion in which a pair of our tasks differs),
    "like length", "longer wins", "shorter wins".
    """
    found: Outcomes = {}
    for number, (group, values) in enumerate(zip(groups, rewards, strict=True)):
        for i, j in group.pairs():
            better, worse = group.completions[i], group.completions[j]
            # Equal rewards order nothing: half right, as for the rules.
            right = 0.5 if values[i] == values[j] else float(values[i] > values[j])
            names = ["all", first_difference(group.prompt, better, worse)]
            names.append("like length" if like_length(better, worse) else None)
            scored = [(name, right) for name in names if name]
            scored.append(("longer wins", length_wins(better, worse, 1)))
            scored.append(("shorter wins", length_wins(better, worse, -1)))
            for name, value in scored:
                lists = found.setdefault(name, [[] for _ in groups])
                lists[number].append(value)
    return found


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
    if model.low <= 0.5:
        said.append("That is not measurably better than chance: it needs more rankings.")
    elif model.low <= other:
        said.append(
            f'That is not measurably better than the rule "{rule}" ({other:.0%}): it may have learned little but '
            "length."
        )
    else:
        said.append(f'The rule "{rule}", which reads nothing, orders {other:.0%}.')
    if "like length" in shares:
        said.append(f"Of pairs of like length it orders {shares['like length'].value:.0%}.")
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
