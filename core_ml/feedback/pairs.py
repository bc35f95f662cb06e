"""Rankings as people hand them in, and the pairs that a reward model learns from.

A ranking of k answers says k(k-1)/2 things at once, fewer where answers are tied: a tie makes no pair, since
breaking it at random would teach noise. "All bad" is about the whole group and makes no pair by itself. A ranking
weighs as much as its labeler has proved reliable, where a dataset says so, and 1 where it does not.
"""

import hashlib
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.tasks import judge, solve
from core_ml.tasks.rows import read_rows

COLUMNS = ("group_id", "prompt", "completions", "labeler", "simulated", "order", "all_bad")
CRITERIA = ("correct", "complete", "short")
LIKE_LENGTH = 0.1  # lengths that differ by at most this share of the longer one

Pair = tuple[int, int]
"""Indices of the better and the worse completion."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """One labeler's order of one group, best first; completions in one tuple are tied."""

    labeler: str
    simulated: bool
    order: tuple[tuple[int, ...], ...]
    all_bad: bool = False
    weight: float = 1.0

    def pairs(self) -> list[Pair]:
        return [
            (better, worse)
            for first, second in combinations(self.order, 2)
            for better in first
            for worse in second
        ]


@dataclass(slots=True)
class Group:
    """One prompt, its completions, and everybody's rankings of them."""

    id: str
    prompt: str
    completions: tuple[str, ...]
    rankings: list[Ranking] = field(default_factory=list)

    def pairs(self) -> list[Pair]:
        """All pairs of all labelers; what two labelers say counts twice, and opposite views cancel out."""
        return [pair for ranking in self.rankings for pair in ranking.pairs()]


def flat(groups: Sequence[Group]) -> tuple[list[str], list[str]]:
    """All completions of some groups, one after the other, with the prompt of each before them."""
    prompts = [group.prompt for group in groups for _ in group.completions]
    return prompts, [text for group in groups for text in group.completions]


@dataclass(slots=True)
class Rankings:
    """A dataset of rankings, by group, with what was counted on reading it."""

    groups: list[Group]
    n_damaged: int = 0

    def counts(self) -> dict[str, Any]:
        rankings = [ranking for group in self.groups for ranking in group.rankings]
        return {
            "n_prompts": len({group.prompt for group in self.groups}),
            "n_groups": len(self.groups),
            "n_rankings": len(rankings),
            "n_rankings_people": sum(not ranking.simulated for ranking in rankings),
            "n_rankings_simulated": sum(ranking.simulated for ranking in rankings),
            "n_people": len({ranking.labeler for ranking in rankings if not ranking.simulated}),
            "n_weighted": sum(ranking.weight != 1 for ranking in rankings),
            "n_all_bad": sum(ranking.all_bad for ranking in rankings),
            "n_damaged": self.n_damaged,
            "n_pairs": sum(len(group.pairs()) for group in self.groups),
        }


def read_rankings(folder: artifact.Folder) -> Rankings:
    """Every ranking of a dataset, gathered by group.

    Raises: UserError when more than half of the rows are damaged, or when no ranking prefers anything.
    """
    groups: dict[str, Group] = {}
    n_rows = n_damaged = 0
    for row in read_rows(folder, COLUMNS, input="rankings", optional=("weight",)):
        n_rows += 1
        if row["metadata"].get("without_texts"):
            raise UserError(
                f"{folder.manifest.name} holds votes on answers whose texts are not in it, so there is nothing to learn "
                "from: it can rate models and measure judges only",
                field="rankings",
            )
        group = groups.get(str(row["group_id"]))
        completions = tuple(row["completions"] or ())
        order = _order(row["order"], len(completions))
        fits = group is None or (group.prompt, group.completions) == (row["prompt"], completions)
        weight = _weight(row)
        fits = fits and isinstance(row["prompt"], str) and None not in completions
        if order is None or weight is None or not fits:
            n_damaged += 1
            continue
        if group is None:
            group = groups[str(row["group_id"])] = Group(str(row["group_id"]), row["prompt"], completions)
        group.rankings.append(
            Ranking(str(row["labeler"]), bool(row["simulated"]), order, bool(row["all_bad"]), weight)
        )
    name = folder.manifest.name
    if 2 * n_damaged > n_rows:
        raise UserError(
            f"{n_damaged} of {n_rows} rankings of {name} are damaged: an order must name each completion at "
            "most once, by its index, one group_id must have one prompt and one list of completions, and a weight "
            "must be a number of at least 0",
            field="rankings",
        )
    rankings = Rankings(list(groups.values()), n_damaged)
    if not any(group.pairs() for group in rankings.groups):
        raise UserError(
            f"no ranking of {name} prefers one answer to another: rank some groups without tying all of them",
            field="rankings",
        )
    return rankings


def _weight(row: dict[str, Any]) -> float | None:
    """The row's own weight or the one in its metadata, 1 where there is none; None when it is no weight."""
    weight = row.get("weight")
    if weight is None:
        weight = row["metadata"].get("weight", 1.0)
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    return float(weight) if number and math.isfinite(weight) and weight >= 0 else None


def _order(order: Any, n: int) -> tuple[tuple[int, ...], ...] | None:
    """The order with empty ties left out; None when an index is out of range or named twice."""
    ties = tuple(tuple(tie) for tie in order or () if tie)
    named = [index for tie in ties for index in tie]
    if any(index is None or not 0 <= index < n for index in named) or len(set(named)) < len(named):
        return None
    return ties


def split(groups: list[Group], share: float, seed: int) -> tuple[list[Group], list[Group]]:
    """Training and held-out groups such that no prompt stands on both sides.

    A prompt's place comes from its own hash, so that it hardly moves as rankings are added.
    Raises: UserError when there are fewer than two prompts.
    """
    prompts = sorted(
        {group.prompt for group in groups},
        key=lambda prompt: hashlib.sha256(f"{seed}:{prompt}".encode("utf-8", "replace")).digest(),
    )
    if len(prompts) < 2:
        raise UserError(
            "all rankings are of one prompt, and a held-out share needs a second: rank more groups",
            field="rankings",
        )
    n_held_out = min(len(prompts) - 1, max(1, math.floor(share * len(prompts) + 0.5)))
    held_out = set(prompts[:n_held_out])
    return (
        [group for group in groups if group.prompt not in held_out],
        [group for group in groups if group.prompt in held_out],
    )


def folds(groups: Sequence[Group], n: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Places of training and of held-out groups, `n` times, such that each prompt is held out once."""
    prompts = sorted({group.prompt for group in groups})
    random.Random(seed).shuffle(prompts)
    own = {prompt: place % n for place, prompt in enumerate(prompts)}
    return [
        (
            [i for i, group in enumerate(groups) if own[group.prompt] != fold],
            [i for i, group in enumerate(groups) if own[group.prompt] == fold],
        )
        for fold in range(n)
    ]


def first_difference(prompt: str, better: str, worse: str) -> str | None:
    """The first criterion of the stated preference in which two completions differ; None where it cannot tell."""
    if solve(prompt) is None:
        return None
    a, b = judge(prompt, better), judge(prompt, worse)
    return next((name for name in CRITERIA if getattr(a, name) != getattr(b, name)), None)


def n_pairs(order: Sequence[Sequence[int]]) -> int:
    """How many pairs of answers a ranking puts in an order; ties make none."""
    n = sum(len(tied) for tied in order)
    return n * (n - 1) // 2 - sum(len(tied) * (len(tied) - 1) // 2 for tied in order)


def ordered_rightly(values: Sequence[float], better: int, worse: int) -> float:
    """1 where values put a pair as labelled, 0 where the other way round; equal ones order nothing: half right."""
    return 0.5 if values[better] == values[worse] else float(values[better] > values[worse])


def like_length(a: str, b: str) -> bool:
    return abs(len(a) - len(b)) <= LIKE_LENGTH * max(len(a), len(b))


def length_wins(better: str, worse: str, sign: int) -> float:
    """Whether "longer wins" (sign 1) or "shorter wins" (-1) orders a pair rightly; half for equal lengths."""
    difference = sign * (len(better) - len(worse))
    return 0.5 if difference == 0 else float(difference > 0)


def by_prompt(groups: Sequence[Group], outcomes: Sequence[Sequence[float]]) -> list[list[float]]:
    """What was found of each group, gathered by prompt: answers to one prompt are no independent evidence."""
    found: dict[str, list[float]] = defaultdict(list)
    for group, own in zip(groups, outcomes, strict=True):
        found[group.prompt] += own
    return list(found.values())


def labelers_agree(groups: Sequence[Group], simulated: bool = False, like: bool = False) -> list[list[float]]:
    """For each group: 1 for each pair that two people order alike, 0 for each that they order oppositely.

    Pairs that either of them tied are left out, as for the reward model.

    Args:
        simulated: count programs with each other in place of people. A program and a person are never compared: how
            well people agree is what a reward model is held to, and programs that share a rule agree better.
        like: of answers of like length only.
    """
    return [
        [
            float(a == b)
            for (i, j), a, b in _votes(group, simulated)
            if not like or like_length(group.completions[i], group.completions[j])
        ]
        for group in groups
    ]


def agrees_with_two(groups: Sequence[Group], rewards: Sequence[Sequence[float]]) -> list[list[float]]:
    """How often a reward model orders like one of two people, on the very pairs that `labelers_agree` counts.

    For each of them the mean over both people, so that a model is held to what a third one would be.
    """
    found = []
    for group, values in zip(groups, rewards, strict=True):
        own: list[float] = []
        for (i, j), a, b in _votes(group):
            first = ordered_rightly(values, i, j)
            own.append((first if a else 1 - first) / 2 + (first if b else 1 - first) / 2)
        found.append(own)
    return found


def _votes(group: Group, simulated: bool = False) -> Iterator[tuple[Pair, bool, bool]]:
    """Each pair (i < j) that two people, or two programs, order, with whether either of them puts i first."""
    votes: dict[Pair, list[tuple[str, bool]]] = defaultdict(list)
    for ranking in group.rankings:
        if ranking.simulated == simulated:
            for better, worse in ranking.pairs():
                votes[min(better, worse), max(better, worse)].append((ranking.labeler, better < worse))
    for pair, cast in votes.items():
        for (one, a), (other, b) in combinations(cast, 2):
            if one != other:  # who ranked a group twice agrees with nobody but themselves
                yield pair, a, b
