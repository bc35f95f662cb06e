"""A reward model beside an earlier one on the same held-out rankings, dataset by dataset.

A reward model is right about answers like those that it learned from. Practice moves the policy to others, and only
new rankings, of the policy's new answers, show how much of the old one's judgement is left there; so policy and reward
model are trained in turns (Christiano et al. 2017, arXiv:1706.03741, section 2.2; Bai et al. 2022, arXiv:2204.05862,
section 4.5). What an earlier model is measured on here was kept from the newer one, and the earlier one may have
learned from it, unless the dataset is newer than it.
"""

from collections.abc import Sequence
from typing import Any

from core_ml.evaluation.figures import dots
from core_ml.evaluation.statistics import Share, clustered
from core_ml.events import Figure
from core_ml.feedback.pairs import Group, Rankings, ordered_rightly

CHANCE = 0.5
Rewards = Sequence[Sequence[float]]
"""For each group the score of each completion."""


def beside(
    told: Sequence[dict[str, Any]],
    parts: Sequence[Rankings],
    held_out: Sequence[Group],
    rewards: Rewards,
    earlier: Rewards,
) -> list[dict[str, Any]]:
    """What is told of each dataset, with the earlier model's share and the difference pair by pair; intervals over prompts.

    Args:
        told: of each dataset, {"id", "name"} and, where it has held-out pairs, {"accuracy", "low", "high", "n_pairs"}.
        rewards: of the held-out groups by the newer model, `earlier` by the earlier one.
    """
    found = []
    for one, part in zip(told, parts, strict=True):
        own = {group.id for group in part.groups}
        by_prompt: dict[str, list[tuple[float, float]]] = {}
        for group, new, old in zip(held_out, rewards, earlier, strict=True):
            if group.id in own:
                by_prompt.setdefault(group.prompt, []).extend(
                    (ordered_rightly(old, *pair), ordered_rightly(new, *pair)) for pair in group.pairs()
                )
        share = clustered([[old for old, _ in pairs] for pairs in by_prompt.values()])
        change = clustered([[new - old for old, new in pairs] for pairs in by_prompt.values()])
        if share and change:
            one = one | {"earlier": _told(share, "accuracy"), "change": _told(change, "value")}
        found.append(one)
    return found


def _told(share: Share, name: str) -> dict[str, float]:
    return {name: share.value, "low": share.low, "high": share.high}


def findings(told: Sequence[dict[str, Any]], earlier: str) -> list[str]:
    """A sentence for each dataset. Args: earlier: the earlier model's name."""
    sentences = []
    for one in told:
        if "earlier" in one:
            sure = one["change"]["low"] > 0 or one["change"]["high"] < 0
            sentences.append(
                f"Of held-out pairs of {one['name']} this model orders {one['accuracy']:.0%} as labelled, and the earlier "
                f"{earlier} {one['earlier']['accuracy']:.0%}{'' if sure else ', which is no measurable difference'}."
            )
    return sentences


def figure(told: Sequence[dict[str, Any]], earlier: str, step: int) -> Figure:
    shown = [one for one in told if "earlier" in one]
    series = {
        "this model": [(one["name"], _share(one, one["n_pairs"])) for one in shown],
        f"earlier: {earlier}": [(one["name"], _share(one["earlier"], one["n_pairs"])) for one in shown],
    }
    return dots(
        "by_rankings",
        step,
        "Held-out pairs ordered rightly, by dataset",
        series,
        axis="share right, 95 % interval over prompts",
        finding=" ".join(findings(told, earlier)),
        reference=CHANCE,
    )


def _share(told: dict[str, Any], n: int) -> Share:
    return Share(told["accuracy"], told["low"], told["high"], n)
