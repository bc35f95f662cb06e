"""The tricks of a hunt: read, marked, taken back, made into rankings; and its rounds."""

from typing import Annotated, Any, Literal

from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema, Status
from pydantic import Field

from core_ml.feedback.gaming.trick import KINDS
from lab.api.base import Given, Number, Offset, Page, answers
from lab.api.datasets import DatasetOut
from lab.models import VERDICTS, Run
from lab.queries import runs, tricks
from lab.services import tricks as services

router = Router(tags=["runs"])
Few = Annotated[int, Query(ge=1, le=100, description="How many items to answer at most.")]
Kind = Literal[("", *KINDS)]  # type: ignore[valid-type]
Verdict = Literal[VERDICTS]  # type: ignore[valid-type]


class FairOut(Schema):
    text: str
    score: float


class TrickOut(Schema):
    id: str
    kind: str
    title: str = Field(description="What it does, in words.")
    only_prompt: str | None = Field(description="The prompt that it is for; null for one that answers any.")
    source: dict[str, Any]
    round: int = Field(description="In which it was found.")
    is_new: bool = Field(description="Whether this hunt found it.")
    works: bool
    share: float = Field(description="Of the prompts at which it was tried, those at which it beats the bar.")
    low: float
    high: float
    n: int
    margin: float = Field(description="Mean of its score minus the bar.")
    share_when_found: float
    verdict: str | None = Field(description="nonsense or fair, as somebody said last; null where nobody has.")
    prompt: str
    text: str
    score: float
    bar: float = Field(description="What it has to beat at this prompt.")
    fair: list[FairOut]


class CohortOut(Schema):
    round: int
    n: int
    working: int


class RoundOut(Schema):
    round: int
    run: int | None
    found: int = Field(description="Tricks that it found, without those that people called fair.")
    still: int = Field(description="How many of them work against this hunt's reward model.")
    nonsense: int
    nonsense_still: int
    fair: int
    accuracy: float | None = Field(description="Held-out pairs that its reward model orders rightly.")
    low: float | None
    high: float | None
    cohorts: list[CohortOut] = Field(description="What then still worked of each round's tricks.")


class MarkIn(Given):
    trick: str = Field(min_length=1, max_length=12)
    verdict: Verdict


class MarkOut(Schema):
    trick: str
    verdict: str | None = Field(description="What counts now; null where nobody has said anything.")


def _run(id: int) -> Run:
    return get_object_or_404(runs.visible(), pk=id)


def _now(trick: str) -> dict[str, Any]:
    return {"trick": trick, "verdict": tricks.verdicts([trick]).get(trick)}


@router.get("/runs/{id}/tricks", response=answers(Page[TrickOut]))
def run_tricks(
    request: Any,
    id: Number,
    kind: Kind = "",
    age: Literal["", "new", "old"] = "",
    verdict: Literal["", "none", "nonsense", "fair"] = "",
    working: bool = False,
    limit: Few = 20,
    offset: Offset = 0,
) -> dict[str, Any]:
    """What a hunt found, each beside fair answers to one prompt; none for a run that is no hunt or has not ended."""
    found = tricks.some(_run(id), tricks.Asked(kind, age, verdict, working), offset, limit)
    return {"items": found.items, "count": found.count}


@router.get("/runs/{id}/tricks/rounds", response=answers(list[RoundOut]))
def run_rounds(request: Any, id: Number) -> list[dict[str, Any]]:
    """This hunt and those before it, the first one first: what each found and what of it works now."""
    return tricks.rounds(_run(id))


@router.post("/runs/{id}/tricks/marks", response=answers(MarkOut))
def mark_trick(request: Any, id: Number, data: MarkIn) -> dict[str, Any]:
    """Say that a trick is nonsense, or a fair answer. The newest word on it counts."""
    return _now(services.mark(_run(id), data.trick, data.verdict, request.user).trick)


@router.post("/runs/{id}/tricks/undo", response=answers(MarkOut))
def undo_mark(request: Any, id: Number) -> dict[str, Any]:
    """Take back your last mark in this hunt."""
    return _now(services.undo(_run(id), request.user).trick)


@router.post("/runs/{id}/tricks/rankings", response=answers(DatasetOut, 201))
def teach_tricks(
    request: Any,
    id: Number,
    ordered: Annotated[
        bool,
        Query(description="Only of groups whose fair answers a labeler has ordered; else the others tie."),
    ] = False,
) -> Status:
    """Make a dataset of rankings in which what is marked as nonsense stands last among the fair answers."""
    return Status(201, services.make_rankings(_run(id), request.user, ordered))
