"""Checkpoints, with what they scored and what they were trained on."""

from typing import Annotated, Any, Literal

from django.http import HttpRequest
from ninja import Query, Router, Schema
from pydantic import Field

from lab.api.artifacts import ArtifactOut, ArtifactWhole, find
from lab.api.base import ArtifactId, Limit, Offset, Page, Words, answers, page
from lab.api.label_forms import HeldOutOut
from lab.models import Artifact
from lab.queries import artifacts as queries
from lab.queries import lineage, orders, report_cards

checkpoints = Router(tags=["checkpoints"])
CheckpointOut = ArtifactWhole
Role = Literal["base", "chat", "reasoner", "aligned", "reward", "player"]


class ShareOut(Schema):
    """A share or a mean with its 95 % interval, from `n` observations."""

    value: float
    low: float
    high: float
    n: int


class ScoreOut(Schema):
    title: str
    note: str
    this: ShareOut | None
    before: ShareOut | None
    change: float | None
    sure: bool = Field(description="Whether the interval of the change leaves out 0.")


class ScoresOut(Schema):
    title: str
    scores: list[ScoreOut]


class CardOut(Schema):
    run: int = Field(description="The run that examined it.")
    name: str
    before: str = Field(description="The model that it is measured against; empty for the first.")
    before_artifact: str | None
    groups: list[ScoresOut]
    findings: list[str]
    earlier_runs: list[int]


class AccuracyOut(Schema):
    title: str
    value: float
    low: float | None
    high: float | None


class ReportCardOut(Schema):
    card: CardOut | None = Field(description="Of the newest exam; null where no run has examined it.")
    rewards: list[AccuracyOut] = Field(description="Of a reward model: its pair accuracies, and its rivals'.")


class ExcerptOut(Schema):
    title: str
    before: str
    passage: str
    after: str


class PlacesOut(Schema):
    id: str
    name: str
    form: str
    count: int
    items: list[ExcerptOut] = Field(description="The first few.")


class PassagesOut(Schema):
    passage: str
    datasets: list[PlacesOut]


@checkpoints.get("", response=answers(Page[ArtifactOut]))
def list_checkpoints(
    request: HttpRequest, role: Role | None = None, q: Words = None, limit: Limit = 50, offset: Offset = 0
) -> dict[str, Any]:
    """Checkpoints, the newest first."""
    found = queries.visible("checkpoint", q)
    return page(found.filter(role=role) if role else found, limit, offset)


@checkpoints.get("/{id}", response=answers(CheckpointOut))
def get_checkpoint(request: HttpRequest, id: ArtifactId) -> Artifact:
    return find(id, "checkpoint")


@checkpoints.get("/{id}/lineage", response=answers(dict[str, Any]))
def checkpoint_lineage(request: HttpRequest, id: ArtifactId) -> dict[str, Any]:
    """From the crawled page to the arena: every run and artifact before and after it."""
    return queries.lineage(find(id, "checkpoint"))


@checkpoints.get("/{id}/report-card", response=answers(ReportCardOut))
def report_card(request: HttpRequest, id: ArtifactId) -> dict[str, Any]:
    """What it scored in its newest exam, against the model before it, with intervals."""
    checkpoint = find(id, "checkpoint")
    card = report_cards.of(checkpoint)
    rewards = report_cards.reward_card(checkpoint) if checkpoint.role == "reward" else []
    return {"card": _card(card) if card else None, "rewards": rewards}


@checkpoints.get("/{id}/orders", response=answers(Page[HeldOutOut]))
def held_out_orders(
    request: HttpRequest, id: ArtifactId, limit: Limit = 50, offset: Offset = 0
) -> dict[str, Any]:
    """Held-out groups in the labelers' order and in a reward model's, the worst disagreement first; none of others."""
    found = orders.of_model(find(id, "checkpoint"), offset=offset, limit=limit)
    return {"items": found.items, "count": found.count}


def _card(card: report_cards.ReportCard) -> dict[str, Any]:
    return {
        "run": card.run.pk,
        "name": card.name,
        "before": card.before,
        "before_artifact": card.before_artifact.pk if card.before_artifact else None,
        "groups": [{"title": title, "scores": scores} for title, scores in card.groups],
        "findings": card.findings,
        "earlier_runs": [run.pk for run in card.others],
    }


@checkpoints.get("/{id}/passages", response=answers(PassagesOut))
def passages(
    request: HttpRequest, id: ArtifactId, q: Annotated[str, Query(max_length=lineage.MAX_PASSAGE)]
) -> dict[str, Any]:
    """Where a passage stands, word for word, in the texts that it was trained on."""
    passage, places = lineage.trained_on(find(id, "checkpoint"), q)
    datasets = [
        {
            "id": one.dataset.pk,
            "name": one.dataset.name,
            "form": one.dataset.form,
            "count": one.count,
            "items": one.items,
        }
        for one in places
    ]
    return {"passage": passage, "datasets": datasets}
