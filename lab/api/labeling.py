"""Labelling projects: made, read, changed, closed, measured, exported."""

from typing import Annotated, Any

from django.http import FileResponse, HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Status

from core_ml.feedback.sets.exporting import ExportForm
from lab.api.auth import labeler
from lab.api.base import Limit, Number, Offset, Page, answers, page
from lab.api.datasets import DatasetOut, exported
from lab.api.label_forms import (
    AgreementWhole,
    OrdersPage,
    ProjectChange,
    ProjectIn,
    ProjectOut,
    ProjectWhole,
    settings,
)
from lab.errors import FieldError, Invalid
from lab.models import Project
from lab.queries import agreement
from lab.queries import artifacts as artifact_queries
from lab.queries import labeling as queries
from lab.queries import orders as order_queries
from lab.services import labeling as services
from lab.services import sets

router = Router(tags=["labelling"])
ModelId = Annotated[
    str | None,
    Query(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$", description="Id of a reward model; else the newest."),
]
FOR_LABELERS = (
    "name", "instructions", "examples", "rankings_per_group", "flags", "scale", "asks_comment", "asks_correction",
    "created", "closed",
)  # fmt: skip
FOR_RESEARCHERS = ("next_group", "gold_every", "repeat_every")
"""A labeler who knew how many groups are checks would look out for them."""


def _project(id: int) -> Project:
    return get_object_or_404(queries.visible(), pk=id)


def _project_json(project: Project) -> dict[str, Any]:
    return {field: getattr(project, field) for field in FOR_LABELERS} | {
        "id": project.pk,
        "source": project.source_id,
        **queries.totals(project),
    }


def _whole(project: Project) -> dict[str, Any]:
    more = {field: getattr(project, field) for field in FOR_RESEARCHERS}
    return _project_json(project) | more | queries.progress(project)


@router.post("/projects", response=answers(ProjectWhole, 201))
def create_project(request: Any, data: ProjectIn) -> Status:
    """Let people rank the groups of a rollouts dataset.

    A row whose metadata has `gold`, an order of its completions, becomes a gold group; `uncertainty` is a number.
    """
    source = artifact_queries.visible().filter(pk=data.source).first()
    if source is None:
        raise Invalid([FieldError("source", f"there is no artifact {data.source!r}")])
    project = services.create_project(source_artifact=source, account=request.user, **settings(data))
    return Status(201, _whole(project))


@router.get("/projects", response=answers(Page[ProjectOut]), auth=labeler)
def list_projects(request: Any, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    """Projects, the newest first; a labeler sees those that are open."""
    answer = page(queries.visible(request.role), limit, offset)
    return answer | {"items": [_project_json(project) for project in answer["items"]]}


@router.get("/projects/{id}", response=answers(ProjectWhole))
def get_project(request: HttpRequest, id: Number) -> dict[str, Any]:
    """One project with its settings and progress, and each labeler's part, speed and measures."""
    return _whole(_project(id))


@router.patch("/projects/{id}", response=answers(ProjectWhole))
def change_project(request: HttpRequest, id: Number, data: ProjectChange) -> dict[str, Any]:
    """Change settings; rankings that are there stay as they are."""
    return _whole(services.change(_project(id), **settings(data)))


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
    """How far labelers agree, with intervals: in all, each with the others, for each flag; and where they differ."""
    return agreement.of(_project(id))


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
def download_rankings(request: HttpRequest, id: Number, form: ExportForm = "jsonl") -> FileResponse:
    """What has been ranked so far, as JSONL or in a form of others, without making a dataset of it."""
    return exported(sets.export_rows(services.rows(_project(id)), form), f"rankings-{id}", form)


@router.post("/projects/{id}/export", response=answers(DatasetOut, 201))
def export_project(request: Any, id: Number) -> Status:
    """Write what has been ranked so far as a dataset of the form rankings."""
    return Status(201, services.export(_project(id), request.user))
