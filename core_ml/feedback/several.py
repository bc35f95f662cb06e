"""Several datasets of rankings as one: read together, held out apart, and told apart again when a model is measured.

What is held out of a dataset is the same whatever is given after it, so a reward model that has learned from more
rankings is measured on the same prompts as one that has not.
"""

from collections.abc import Sequence
from typing import Any

from core_ml import artifact
from core_ml.evaluation.statistics import clustered
from core_ml.feedback.pairs import Group, Rankings, read_rankings, split
from core_ml.feedback.reward_report import outcomes


def read_all(folders: Sequence[artifact.Folder]) -> list[Rankings]:
    """Each dataset's rankings. A group_id that an earlier one uses as well gets the number of its own dataset."""
    parts = [read_rankings(folder) for folder in folders]
    taken: set[str] = set()
    for number, part in enumerate(parts, 1):
        for group in part.groups:
            if group.id in taken:
                group.id = f"{group.id}/{number}"
        taken |= {group.id for group in part.groups}
    return parts


def joined(parts: Sequence[Rankings]) -> Rankings:
    return Rankings([group for part in parts for group in part.groups], sum(part.n_damaged for part in parts))


def split_each(parts: Sequence[Rankings], share: float, seed: int) -> tuple[list[Group], list[Group]]:
    """Training and held-out groups; no prompt stands on both sides. A later dataset's only new prompt is learned from.

    Raises: UserError when the first has fewer than two prompts.
    """
    known: set[str] = set()
    held_out: set[str] = set()
    for part in parts:
        new = [group for group in part.groups if group.prompt not in known]
        if not known or len({group.prompt for group in new}) > 1:
            held_out |= {group.prompt for group in split(new, share, seed)[1]}
        known |= {group.prompt for group in new}
    everything = joined(parts).groups
    return (
        [group for group in everything if group.prompt not in held_out],
        [group for group in everything if group.prompt in held_out],
    )


def by_dataset(
    folders: Sequence[artifact.Folder],
    parts: Sequence[Rankings],
    held_out: Sequence[Group],
    rewards: Sequence[Sequence[float]],
) -> list[dict[str, Any]]:
    """Of each dataset's own held-out pairs the share that is ordered rightly, with its 95 % interval.

    Args:
        rewards: for each held-out group the score of each completion.
    """
    found = []
    for folder, part in zip(folders, parts, strict=True):
        own = {group.id for group in part.groups}
        some = [(g, values) for g, values in zip(held_out, rewards, strict=True) if g.id in own]
        told: dict[str, Any] = {"id": folder.manifest.id, "name": folder.manifest.name}
        hits = outcomes([group for group, _ in some], [values for _, values in some]).get("all", [])
        if share := clustered(hits):
            told |= {"accuracy": share.value, "low": share.low, "high": share.high, "n_pairs": share.n}
        found.append(told)
    return found


def findings(told: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence where there are several datasets: the first alone is what models of other rounds are compared on."""
    first = told[0] if len(told) > 1 else {}
    if "accuracy" not in first:
        return []
    return [
        f"Of the {first['n_pairs']:,} pairs of {first['name']} alone it orders {first['accuracy']:.0%} "
        f"({first['low']:.0%} to {first['high']:.0%})."
    ]
