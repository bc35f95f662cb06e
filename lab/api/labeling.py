"""Labelling: projects for researchers; next, ranking, skip and undo for labelers."""

import json
from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema, Status
from pydantic import Field

from lab.api.auth import labeler
from lab.api.base import Given, Limit, Number, Offset, Page, answers, page
from lab.api.datasets import DatasetOut
from lab.errors import FieldError, Invalid
from lab.models import FLAGS, Group, Project
from lab.queries import artifacts as artifact_queries
from lab.queries import labeling as queries
from lab.queries import orders as order_queries
from lab.services import labeling as services

router = Router(tags=["labelling"])
ModelId = Annotated[
    str | None,
    Query(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$", description="Id of a reward model; else the newest."),
]
Index = Annotated[int, Field(ge=0, le=10_000)]


class ProjectIn(Given):
    name: str = Field(min_length=1, max_length=100)
    source: str = Field(max_length=80, description="Id of a dataset of the form rollouts.")
    instructions: str = Field("", max_length=10_000)
    rankings_per_group: int = Field(1, ge=1, le=services.MAX_RANKINGS_PER_GROUP)


class ProjectOut(Schema):
    id: int
    name: str
    instructions: str
    source: str
    rankings_per_group: int
    groups: int
    rankings: int
    wanted: int
    created: datetime
    closed: datetime | None
    flags: list[str]


class LabelerPart(Schema):
    labeler: str
    simulated: bool
    rankings: int
    median_seconds: float
    last: datetime


class ProjectWhole(ProjectOut):
    ranked: int
    simulated: int
    all_bad: int
    leased: int
    skipped: int
    labelers: list[LabelerPart]


class Task(Schema):
    id: int
    project: int
    index: int
    prompt: str
    completions: list[str]
    cut_off: list[bool]
    """By answer: whether the model was stopped at its limit instead of ending by itself."""
    mine: int
    rankings: int
    wanted: int


class RankingIn(Given):
    order: list[Annotated[list[Index], Field(max_length=1000)]] = Field(
        max_length=1000, description="Best first; answers in one list are tied: [[2], [0, 3], [1]]."
    )
    all_bad: bool = False
    flags: dict[str, list[str]] = Field({}, description=f"By answer, among: {', '.join(FLAGS)}.")
    seconds: float = Field(0, ge=0, le=services.MAX_SECONDS)


class RankingOut(Schema):
    id: int
    task: int
    order: list[list[int]]
    all_bad: bool
    flags: dict[str, list[str]]
    seconds: float


class UndoneOut(Task):
    """The task at hand again, with the ranking that it had."""

    order: list[list[int]]
    all_bad: bool
    flags: dict[str, list[str]]


class AgreementOut(Schema):
    groups: int
    pairs: int
    agreement: float | None
    low: float | None
    high: float | None
    tau_b: float | None


class BetweenOut(AgreementOut):
    labelers: list[str]
    simulated: list[bool]


class DisputeOut(Schema):
    task: int
    prompt: str
    tau_b: float
    orders: dict[str, list[list[int]]]


class AgreementWhole(AgreementOut):
    between: list[BetweenOut]
    disputes: list[DisputeOut]


class OrdersOut(Schema):
    """A held-out group as the labelers order it and as a reward model does."""

    task: int
    prompt: str
    completions: list[str]
    scores: list[float] = Field(description="By answer; 0 is the mean of the ranked answers, 1 their spread.")
    labelers_order: list[list[int]] = Field(
        description="All rankings as one, best first; who was not placed is not named."
    )
    model_order: list[list[int]]
    pairs: int
    agree: int = Field(description="Of the pairs in the labelers' order, those that the model orders alike.")
    rankings: int
    simulated: int = Field(description="Of the rankings, those by a program that plays a labeler.")


class OrdersPage(Page[OrdersOut]):
    model: str | None = Field(
        description="Id of the reward model; none when no model learned from this project."
    )


def _project(id: int) -> Project:
    return get_object_or_404(queries.visible(), pk=id)


def _project_json(project: Project) -> dict[str, Any]:
    fields = ("name", "instructions", "rankings_per_group", "created", "closed")
    return {field: getattr(project, field) for field in fields} | {
        "id": project.pk,
        "source": project.source_id,
        "flags": list(FLAGS),
        **queries.totals(project),
    }


def _whole(project: Project) -> dict[str, Any]:
    return _project_json(project) | queries.progress(project)


def _task(group: Group, request: Any) -> dict[str, Any]:
    return {
        "id": group.pk,
        "project": group.project_id,
        "index": group.index,
        "prompt": group.prompt,
        "completions": group.completions,
        "cut_off": group.metadata.get("cut_off") or [False] * len(group.completions),
        **queries.own_progress(group.project, request.user),
    }


@router.post("/projects", response=answers(ProjectWhole, 201))
def create_project(request: Any, data: ProjectIn) -> Status:
    """Let people rank the groups of a rollouts dataset."""
    source = artifact_queries.visible().filter(pk=data.source).first()
    if source is None:
        raise Invalid([FieldError("source", f"there is no artifact {data.source!r}")])
    project = services.create_project(
        data.name, source, data.instructions, data.rankings_per_group, request.user
    )
    return Status(201, _whole(project))


@router.get("/projects", response=answers(Page[ProjectOut]), auth=labeler)
def list_projects(request: Any, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    """Projects, the newest first; a labeler sees those that are open."""
    answer = page(queries.visible(request.role), limit, offset)
    return answer | {"items": [_project_json(project) for project in answer["items"]]}


@router.get("/projects/{id}", response=answers(ProjectWhole))
def get_project(request: HttpRequest, id: Number) -> dict[str, Any]:
    """One project with its progress, and each labeler's part and speed."""
    return _whole(_project(id))


@router.post("/projects/{id}/close", response=answers(ProjectWhole))
def close_project(request: HttpRequest, id: Number) -> dict[str, Any]:
    """Take no more rankings."""
    return _whole(services.close(_project(id)))


@router.post("/projects/{id}/reopen", response=answers(ProjectWhole))
def reopen_project(request: HttpRequest, id: Number) -> dict[str, Any]:
    return _whole(services.reopen(_project(id)))


@router.delete("/projects/{id}", response=answers(None, 204))
def delete_project(request: HttpRequest, id: Number) -> Status:
    """Remove a project with its rankings; datasets exported from it stay."""
    services.delete_project(_project(id))
    return Status(204, None)


@router.get("/projects/{id}/agreement", response=answers(AgreementWhole))
def project_agreement(request: HttpRequest, id: Number) -> dict[str, Any]:
    """How often two labelers put two answers in the same order, with an interval, and where they differ."""
    return queries.agreement(_project(id))


@router.get("/projects/{id}/orders", response=answers(OrdersPage))
def project_orders(
    request: HttpRequest,
    id: Number,
    model: ModelId = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> dict[str, Any]:
    """Held-out groups in the order of the labelers and in that of a reward model, the worst disagreement first."""
    project = _project(id)
    taught = order_queries.reward_models(project)
    chosen = taught.filter(pk=model).first() if model else taught.first()
    if model and chosen is None:
        raise Invalid([FieldError("model", f"{model!r} is no reward model that learned from this project")])
    found = order_queries.of(project, chosen, offset=offset, limit=limit) if chosen else None
    return {
        "model": chosen.pk if chosen else None,
        "items": found.items if found else [],
        "count": found.count if found else 0,
    }


@router.get("/projects/{id}/export", response=answers(None))
def download_rankings(request: HttpRequest, id: Number) -> HttpResponse:
    """What has been ranked so far as JSONL, without making a dataset of it."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in services.rows(_project(id))]
    answer = HttpResponse("".join(lines), content_type="application/x-ndjson")
    answer["Content-Disposition"] = f'attachment; filename="rankings-{id}.jsonl"'
    return answer


@router.post("/projects/{id}/export", response=answers(DatasetOut, 201))
def export_project(request: Any, id: Number) -> Status:
    """Write what has been ranked so far as a dataset of the form rankings."""
    return Status(201, services.export(_project(id), request.user))


@router.post("/projects/{id}/next", response={**answers(Task), 204: None}, auth=labeler)
def next_task(request: Any, id: Number) -> Status:
    """Lease the next group for ten minutes; the same one again until it is ranked or skipped. 204: none is left."""
    group = services.next_group(_project(id), request.user)
    return Status(200, _task(group, request)) if group else Status(204, None)


@router.post("/projects/{id}/undo", response=answers(UndoneOut), auth=labeler)
def undo_ranking(request: Any, id: Number) -> dict[str, Any]:
    """Take back your last ranking; its task is at hand again."""
    ranking = services.undo(_project(id), request.user)
    return _task(ranking.group, request) | {
        "order": ranking.order,
        "all_bad": ranking.all_bad,
        "flags": ranking.flags,
    }


@router.post("/tasks/{id}/ranking", response=answers(RankingOut, 201), auth=labeler)
def hand_in(request: Any, id: Number, data: RankingIn) -> Status:
    """Hand in the ranking of a leased task: every answer once, best first, ties in one list."""
    group = get_object_or_404(Group.objects.select_related("project"), pk=id)
    ranking = services.hand_in(group, request.user, data.order, data.all_bad, data.flags, data.seconds)
    fields = ("order", "all_bad", "flags", "seconds")
    return Status(
        201, {name: getattr(ranking, name) for name in fields} | {"id": ranking.pk, "task": group.pk}
    )


@router.post("/tasks/{id}/skip", response=answers(None, 204), auth=labeler)
def skip_task(request: Any, id: Number) -> Status:
    """Pass a task on to others; you do not get it again."""
    services.skip(get_object_or_404(Group.objects.select_related("project"), pk=id), request.user)
    return Status(204, None)
