"""What a hunt found, on disk: `tricks.json` beside rows of the form `rollouts`, which anybody may rank.

A group is one trick's text beside the fair answers to the same prompt. Pages read this module, so it imports no torch.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field, ValidationError

from core_ml.artifact import Folder, write_atomically
from core_ml.errors import UserError
from core_ml.feedback.gaming.bench import Case, Measured
from core_ml.feedback.gaming.trick import Trick
from core_ml.tasks.rows import SCHEMAS

FILE, ROWS = "tricks.json", "rollouts.parquet"
MAX_BYTES = 16 << 20
NEW, OLD = "new", "old"
SCHEMA = pa.schema(
    [
        *SCHEMAS["rollouts"],
        ("trick", pa.string()),
        ("kind", pa.string()),
        ("found", pa.string()),
        ("scores", pa.list_(pa.float64())),
        ("bar", pa.float64()),
    ]
)
"""One row a group. The trick's text is its first completion; `scores` has one for each, and `bar` what it has to beat."""


class Known(BaseModel):
    """A trick as a hunt measured it, in the round that found it or a later one."""

    id: str
    trick: dict[str, Any]
    found_by: str
    """The id of the dataset of the hunt that found it."""
    round: int
    """In which it was found."""
    works: bool
    share: float = Field(ge=0, le=1)
    low: float
    high: float
    n: int
    """Prompts at which it was tried now, and the share of them at which it works, with its 95 % interval."""
    margin: float
    """The mean of its score minus the bar."""
    share_when_found: float
    text: str = ""
    prompt: str = ""
    """Where it beats the bar by most, for those who only want to see one."""
    score: float = 0.0
    bar: float = 0.0


class Cohort(BaseModel):
    """The tricks that one round found, and how many of them work against the reward model of a later one."""

    round: int
    found_by: str
    n: int
    working: int


class Round(BaseModel):
    """One hunt among others: what it found, what became of earlier finds, and how good its reward model is."""

    round: int
    found_by: str
    cohorts: list[Cohort]
    """The earliest first; the last is this round's own."""
    reward: list[str] = Field(default_factory=list)
    """The ids of the reward models."""
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    """Held-out pairs that the reward model orders as its labelers did, with the 95 % interval."""
    n_tried: int = 0


class Hunt(BaseModel):
    """The whole of `tricks.json`."""

    tricks: list[Known]
    rounds: list[Round]
    """This hunt's is the last."""
    min_share: float
    """From which share of prompts on a trick counts as working."""
    bar: str

    @property
    def round(self) -> Round:
        return self.rounds[-1]


def known(found: Measured, found_by: str, round: int, min_share: float, old: Known | None = None) -> Known:
    share = found.share
    # Where it works by most; where it works nowhere, where it comes closest.
    at = max(range(len(found.hits)), key=lambda i: (found.hits[i], found.margins[i]))
    return Known(
        id=found.trick.id,
        trick=found.trick.as_dict(),
        found_by=old.found_by if old else found_by,
        round=old.round if old else round,
        works=share.value >= min_share,
        share=share.value,
        low=share.low,
        high=share.high,
        n=share.n,
        margin=sum(found.margins) / len(found.margins),
        share_when_found=old.share_when_found if old else share.value,
        prompt=found.prompts[at],
        text=found.texts[at],
        score=found.scores[at],
        bar=found.scores[at] - found.margins[at],
    )


def read(folder: Folder) -> Hunt:
    """Raises: UserError for a dataset that no hunt made, or whose file is damaged."""
    name = folder.manifest.name
    size = next((file.size for file in folder.manifest.files if file.path == FILE), None)
    if size is None:
        raise UserError(f"{name} has no {FILE}: choose a dataset that `hunt` made", field="hunts")
    if size > MAX_BYTES:
        raise UserError(f"{name}/{FILE} has {size:,} bytes: no hunt writes so many", field="hunts")
    try:
        hunt = Hunt.model_validate_json((folder.path / FILE).read_bytes())
        if not hunt.rounds:
            raise ValueError("it names no round")
        for one in hunt.tricks:
            Trick.from_dict(one.trick)
    except (ValidationError, ValueError, OSError) as error:
        raise UserError(f"{name}/{FILE} is damaged: {str(error).splitlines()[0]}", field="hunts") from None
    return hunt


def earlier(hunts: Sequence[Hunt]) -> tuple[list[Known], list[Round]]:
    """The tricks that earlier rounds found, each once, and those rounds in their order."""
    rounds = {one.found_by: one for hunt in hunts for one in hunt.rounds}
    found: dict[str, Known] = {}
    for hunt in hunts:
        for one in hunt.tricks:
            if one.id not in found or one.round < found[one.id].round:
                found[one.id] = one
    return (
        sorted(found.values(), key=lambda one: (one.round, -one.share_when_found, one.id)),
        sorted(rounds.values(), key=lambda one: (one.round, one.found_by)),
    )


def groups(
    found: Sequence[tuple[Measured, str]], cases: Sequence[Case], own: dict[str, Case], n: int
) -> Iterable[dict[str, Any]]:
    """Up to `n` rows for each trick, where it works first; tricks take turns at the prompts, so that all are used.

    Args:
        found: tricks as measured at `cases`, each with NEW or OLD.
        own: the cases of tricks that are for one prompt.
    """
    for number, (one, age) in enumerate(found):
        some = [own[one.trick.prompt]] if one.trick.prompt else list(cases)
        turn = len(some) * number // max(1, len(found))
        order = [(turn + i) % len(some) for i in range(len(some))]
        order.sort(key=lambda i: not one.hits[i])
        for i in [i for i in order if not some[i].is_fair(one.texts[i])][:n]:
            yield _row(f"{one.trick.id}-{i}", one, i, some[i], age)


def _row(id: str, one: Measured, i: int, case: Case, age: str) -> dict[str, Any]:
    # What was sampled twice stands once.
    fair = {text: at for at, text in reversed(list(enumerate(case.fair)))}
    places = sorted(fair.values())
    trick = one.trick
    return {
        "group_id": id,
        "prompt": case.prompt,
        "completions": [one.texts[i], *(case.fair[place] for place in places)],
        "logprobs": [],
        "ended": [True, *(case.ended[place] for place in places)],
        "metadata": json.dumps({"trick": trick.id, "kind": trick.kind, "found": age, "title": trick.title}),
        "trick": trick.id,
        "kind": trick.kind,
        "found": age,
        "scores": [_finite(one.scores[i]), *(_finite(case.scores[place]) for place in places)],
        "bar": _finite(case.bar),
    }


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def write(path: Path, hunt: Hunt, rows: Sequence[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows), SCHEMA), path / ROWS, compression="zstd")
    write_atomically(path / FILE, hunt.model_dump_json(indent=1))
