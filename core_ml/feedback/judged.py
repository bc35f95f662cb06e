"""Groups of answers before and after a judge model has seen them: which pairs it is asked about, and what follows.

Each pair is judged twice with the sides swapped (`core_ml.evaluation.judging`). Alike answers are one: nobody need be
asked which of them is better, and they share a place. A group of more than two is ordered by Bradley and Terry's
model of its pairs, which for all pairs is the order of wins less losses (Copeland's); pairs that were drawn are a
ring through all answers first, so that a chain of verdicts leads from each to each other.
"""

import hashlib
import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.evaluation import bradley_terry, judge_prompt
from core_ml.evaluation.judging import BAD, LEFT, RIGHT, SCORES, TIE, settled
from core_ml.feedback.sets import stored
from core_ml.feedback.sets.ranked import OF_A_VOTE, Ranked, Vote
from core_ml.tasks import solve
from core_ml.tasks.rows import read_rows

Pair = tuple[int, int]
PRIOR = 0.5
"""Ties of each answer with an imagined one: without it an answer that only wins stands infinitely high."""
ALIKE = 6
"""Decimals of a rating in logits beyond which two answers stand equal."""


def read_groups(folder: artifact.Folder, n: int, seed: int) -> list[Ranked]:
    """Some groups of a dataset of rankings or rollouts with two different answers or more, with people's votes.

    Which ones follows from the seed and a group's id, and so does their order.
    Raises: UserError when there are none, or when the set holds votes without the texts that they are about.
    """
    found = _of_rankings(folder) if folder.manifest.form == "rankings" else _of_rollouts(folder)
    fit = (group for group in found if len(set(group.completions)) > 1)
    chosen = heapq.nsmallest(n, fit, key=lambda group: _draw(seed, group.group_id))
    if not chosen:
        raise UserError(
            f"{folder.manifest.name} has no group with two different answers: there is nothing to compare",
            field="answers",
        )
    return chosen


def _draw(seed: int, group_id: str) -> bytes:
    return hashlib.sha256(f"{seed}:{group_id}".encode("utf-8", "replace")).digest()


def _of_rankings(folder: artifact.Folder) -> Iterator[Ranked]:
    for group in stored.groups(folder.files(".parquet")):
        if group.metadata.get("without_texts"):
            raise UserError(
                f"{folder.manifest.name} holds votes on answers whose texts are not in it, so a judge has nothing to "
                "read: bring the set with its answers",
                field="answers",
            )
        n = len(group.completions)
        by_labeler: dict[str, Vote] = {}
        for vote in group.votes:
            if not vote.simulated and vote.fits(n):
                by_labeler.setdefault(vote.labeler, vote)  # a second ranking measures its labeler
        kept = {key: value for key, value in group.metadata.items() if key not in OF_A_VOTE}
        yield Ranked(group.group_id, group.prompt, group.completions, list(by_labeler.values()), kept)


def _of_rollouts(folder: artifact.Folder) -> Iterator[Ranked]:
    for row in read_rows(folder, ("group_id", "prompt", "completions"), input="answers"):
        texts = [text or "" for text in row["completions"] or ()]
        yield Ranked(str(row["group_id"]), row["prompt"] or "", texts, [], row["metadata"])


def distinct(group: Ranked) -> dict[int, list[int]]:
    """By the first completion of each text, all that have it."""
    first: dict[str, int] = {}
    found: dict[int, list[int]] = {}
    for index, text in enumerate(group.completions):
        found.setdefault(first.setdefault(text, index), []).append(index)
    return found


def pairs_of(group: Ranked, most: int | None, seed: int) -> list[Pair]:
    """The pairs of different answers that are judged, the earlier answer first: all, or `most` of them drawn."""
    answers = list(distinct(group))
    if most is None or most >= len(answers) * (len(answers) - 1) // 2:
        return list(combinations(answers, 2))
    random.Random(f"{seed}:{group.group_id}").shuffle(answers)
    n = len(answers)
    # Neighbours on a ring, then those two apart, …: every answer is met about equally often.
    drawn = dict.fromkeys(
        (min(pair), max(pair))
        for apart in range(1, n // 2 + 1)
        for place in range(n)
        for pair in [(answers[place], answers[(place + apart) % n])]
    )
    return list(drawn)[:most]


def reference_of(group: Ranked) -> str | None:
    """The right answer: as it came with the group, or where the request is one of our own tasks."""
    return judge_prompt.reference_of(group.metadata) or solve(group.prompt)


@dataclass(slots=True)
class Judged:
    """A group with the judge's verdicts on its pairs, each by place: as shown, and with the sides swapped."""

    group: Ranked
    verdicts: dict[Pair, tuple[str, str]] = field(default_factory=dict)
    seconds: float = 0.0

    def outcomes(self) -> dict[Pair, str]:
        """Left is the earlier answer of the pair."""
        return {pair: settled(*said) for pair, said in self.verdicts.items()}

    def order(self) -> list[list[int]]:
        """Best first; answers that no verdict is about are left out."""
        outcomes = self.outcomes()
        players = sorted({index for pair in outcomes for index in pair})
        if not players:
            return []
        place = {index: n for n, index in enumerate(players)}
        games = bradley_terry.Comparisons(
            np.array([place[i] for i, _ in outcomes]),
            np.array([place[j] for _, j in outcomes]),
            np.array([SCORES[outcome] for outcome in outcomes.values()]),
            len(players),
        )
        ratings = [round(float(one), ALIKE) + 0.0 for one in bradley_terry.fit(games, prior=PRIOR).ratings]
        copies = distinct(self.group)
        tied: dict[float, list[int]] = {}
        for index, rating in zip(players, ratings, strict=True):
            tied.setdefault(rating, []).extend(copies[index])
        return [sorted(tied[rating]) for rating in sorted(tied, reverse=True)]


def said_of(vote: Vote, pair: Pair) -> str | None:
    """A person's outcome for a pair; None where their order does not name both."""
    places = {index: place for place, tied in enumerate(vote.order) for index in tied}
    first, second = (places.get(index) for index in pair)
    if first is None or second is None:
        return BAD if vote.all_bad else None
    if first == second:
        return BAD if vote.all_bad else TIE
    return LEFT if first < second else RIGHT


def row(judged: Judged, labeler: str, about: dict[str, Any]) -> dict[str, Any]:
    """A row of the form rankings: the source's metadata, and beside it what the judge said of each pair."""
    group = judged.group
    verdicts = [[*pair, *said] for pair, said in judged.verdicts.items()]
    return {
        "group_id": group.group_id,
        "prompt": group.prompt,
        "completions": list(group.completions),
        "labeler": labeler,
        "simulated": True,
        "order": judged.order(),
        "all_bad": False,
        "flags": "{}",
        "seconds": round(judged.seconds, 3),
        "metadata": {**group.metadata, "judge": {**about, "verdicts": verdicts}},
    }
