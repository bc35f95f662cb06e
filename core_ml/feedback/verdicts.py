"""What a judge is asked, battle by battle, and what it has said so far: a file that a run goes on from.

A battle is one pair of one group. It counts as judged when both orders have been asked about, whether or not a verdict
could be read; lines are appended as replies come, in any order, and a torn last line is one that was never written.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from core_ml.evaluation import judge_prompt
from core_ml.feedback.judged import Judged, Pair, pairs_of, reference_of
from core_ml.feedback.sets.ranked import Ranked

LONGEST_KEPT = 4000
"""Characters of a reply that are kept."""


@dataclass(frozen=True, slots=True)
class Battle:
    """`prompts` are both orders, the one as shown first."""

    number: int
    group: int
    pair: Pair
    prompts: tuple[str, str]


@dataclass(slots=True)
class Heard:
    """What the judge said of one battle: by place, as shown and with the sides swapped; None where nobody can tell."""

    battle: int
    verdicts: list[str | None]
    said: list[str] = field(default_factory=list)
    logprobs: list[list[float]] = field(default_factory=list)
    """Of the letters in both orders, where a network was asked for them."""
    too_long: bool = False
    seconds: float = 0.0

    @property
    def readable(self) -> bool:
        return len(self.verdicts) == 2 and None not in self.verdicts


def battles_of(
    groups: Sequence[Ranked],
    template: str,
    *,
    most_pairs: int | None,
    ties: bool,
    reasons: bool,
    use_reference: bool,
    seed: int,
) -> list[Battle]:
    """Every battle in the order in which it is judged: group by group."""
    verdict = judge_prompt.asked_for(ties, reasons)
    found: list[Battle] = []
    for place, group in enumerate(groups):
        reference = reference_of(group) if use_reference else None
        for pair in pairs_of(group, most_pairs, seed):
            first, second = (group.completions[index] for index in pair)
            prompts = tuple(
                judge_prompt.filled(template, group.prompt, *texts, verdict=verdict, reference=reference)
                for texts in ((first, second), (second, first))
            )
            found.append(Battle(len(found), place, pair, prompts))  # type: ignore[arg-type]
    return found


def read(path: Path) -> dict[int, Heard]:
    """By battle, what an earlier attempt has heard; cuts off a line that a kill has torn."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return {one.battle: one for one in (Heard(**json.loads(line)) for line in whole.splitlines())}


def append(file: IO[str], heard: Heard) -> None:
    kept = asdict(heard) | {"said": [text[:LONGEST_KEPT] for text in heard.said]}
    file.write(json.dumps(kept) + "\n")
    file.flush()


def sync(file: IO[str]) -> None:
    file.flush()
    os.fsync(file.fileno())


def gathered(groups: Sequence[Ranked], battles: Sequence[Battle], heard: Mapping[int, Heard]) -> list[Judged]:
    """The groups with the verdicts that could be read, in the order of the groups."""
    found = [Judged(group) for group in groups]
    for battle in battles:
        one = heard.get(battle.number)
        if one is None:
            continue
        found[battle.group].seconds += one.seconds
        if one.readable:
            found[battle.group].verdicts[battle.pair] = (str(one.verdicts[0]), str(one.verdicts[1]))
    return found


def counts(heard: Mapping[int, Heard]) -> dict[str, Any]:
    """How many battles have no verdict, and why."""
    too_long = sum(one.too_long for one in heard.values())
    return {
        "n_too_long": too_long,
        "n_unreadable": sum(not one.readable for one in heard.values()) - too_long,
    }
