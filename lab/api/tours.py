"""Tours: one model's whole life as ordinary runs."""

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Router, Schema, Status
from pydantic import Field

from lab.api.base import MAX_INT, Given, Limit, Number, Offset, Page, answers, page
from lab.models import Tour
from lab.services import tour as services
from lab.services.roots import allowed_path

router = Router(tags=["tours"])


class TourIn(Given):
    pages: str | None = Field(None, max_length=1000, description="A WARC file or folder on the server.")
    documents: str | None = Field(None, max_length=1000, description="JSONL or Parquet on the server.")
    small: bool = False
    seed: int | None = Field(None, ge=0, le=MAX_INT)


class TourOut(Schema):
    id: int
    options: dict[str, Any]
    status: str
    stage: str
    error: str
    runs: list[int]
    stages: dict[str, int] = Field(description="Its runs by stage; those of the second turn end in 2.")
    projects: list[int]
    created: datetime
    ended: datetime | None


def _json(tour: Tour) -> dict[str, Any]:
    made = tour.made()
    fields = ("options", "status", "stage", "error", "created", "ended")
    return {field: getattr(tour, field) for field in fields} | {
        "id": tour.pk,
        "runs": [run.pk for run in made.values()],
        "stages": {stage: run.pk for stage, run in made.items()},
        "projects": list(tour.projects.values_list("pk", flat=True)),
    }


@router.post("", response=answers(TourOut, 201))
def start_tour(request: Any, data: TourIn | None = None) -> Status:
    """Take a small model through its whole life. One tour at a time."""
    options = (data or TourIn()).dict()
    for field in ("pages", "documents"):
        if options[field]:
            options[field] = str(allowed_path(options[field], field))
    return Status(201, _json(services.start(options, request.user)))


@router.get("", response=answers(Page[TourOut]))
def list_tours(request: HttpRequest, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    answer = page(Tour.objects.all(), limit, offset)
    return answer | {"items": [_json(tour) for tour in answer["items"]]}


@router.get("/{id}", response=answers(TourOut))
def get_tour(request: HttpRequest, id: Number) -> dict[str, Any]:
    return _json(get_object_or_404(Tour, pk=id))


@router.post("/{id}/cancel", response=answers(TourOut))
def cancel_tour(request: HttpRequest, id: Number) -> dict[str, Any]:
    """Stop a tour and its live runs; what they have made stays."""
    tour = get_object_or_404(Tour, pk=id)
    services.cancel(tour)
    tour.refresh_from_db()
    return _json(tour)
