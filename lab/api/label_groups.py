"""Groups of a labelling project, for researchers: gold ones, settled ones, and how uncertain each is."""

from typing import Annotated, Any, Literal

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Status

from lab.api.base import Limit, Number, Offset, Page, answers, page
from lab.api.label_forms import (
    CorrectionIn,
    CorrectionOut,
    GoldIn,
    GroupOut,
    SettlementIn,
    UncertaintyIn,
    UncertaintyOut,
)
from lab.errors import FieldError, Invalid
from lab.models import Group
from lab.queries import artifacts as artifact_queries
from lab.queries import labeling as queries
from lab.services import labeling as services

router = Router(tags=["labelling"])
Only = Annotated[
    Literal["gold", "settled", "uncertain"] | None,
    Query(description="Those with a known order, with a settled one, or with an uncertainty."),
]


def _json(group: Any) -> dict[str, Any]:
    fields = ("prompt", "completions", "gold", "uncertainty", "settled", "settled_note")
    n = group.n_rankings if hasattr(group, "n_rankings") else group.rankings.filter(round=0).count()
    return {name: getattr(group, name) for name in fields} | {
        "id": group.pk,
        "group_id": group.metadata["group_id"],
        "rankings": n,
        "settled_by": group.settled_by.username if group.settled_by else None,
    }


def _group(id: int) -> Group:
    return get_object_or_404(Group.objects.select_related("project", "settled_by"), pk=id)


@router.get("/projects/{id}/groups", response=answers(Page[GroupOut]))
def list_groups(
    request: HttpRequest, id: Number, only: Only = None, limit: Limit = 50, offset: Offset = 0
) -> dict[str, Any]:
    """The project's groups with their number of rankings."""
    project = get_object_or_404(queries.visible(), pk=id)
    answer = page(queries.groups(project, only or ""), limit, offset)
    return answer | {"items": [_json(group) for group in answer["items"]]}


@router.post("/projects/{id}/uncertainty", response=answers(UncertaintyOut))
def set_uncertainty(request: HttpRequest, id: Number, data: UncertaintyIn) -> dict[str, int]:
    """Say how far the reward models of an ensemble disagree about groups: the uncertain come first, if so set.

    Give the spread, over the members, of the probability that one answer beats another. That of their scores prefers
    answers of unlike form, about which every member may be sure (measured in benchmarks/selection.py). A run of the kind
    `uncertainty` over the project's rollouts computes it from the lab's reward models, and its end stores it here.
    """
    project = get_object_or_404(queries.visible(), pk=id)
    return {"groups": services.set_uncertainty(project, data.scores)}


@router.post("/tasks/{id}/gold", response=answers(GroupOut))
def set_gold(request: HttpRequest, id: Number, data: GoldIn) -> dict[str, Any]:
    """Make a group gold: it is mixed in once for each labeler, and tells how often they find the known order."""
    return _json(services.set_gold(_group(id), data.order))


@router.post("/corrections", response=answers(CorrectionOut))
def correct(request: Any, data: CorrectionIn) -> dict[str, int]:
    """Open a group of any dataset of rankings to be settled, wherever it was ranked.

    Of an export it is the group of its project. Any other dataset has a project of its own, whose export is the whole
    dataset with the settled groups in place of the rankings that they had. Asked for again, it is the same group.
    """
    dataset = artifact_queries.visible("dataset").filter(pk=data.dataset).first()
    if dataset is None:
        raise Invalid([FieldError("dataset", f"there is no dataset {data.dataset!r}")])
    group = services.correct(dataset, data.group_id, request.user)
    return {"project": group.project_id, "task": group.pk}


@router.post("/tasks/{id}/settlement", response=answers(GroupOut))
def settle(request: Any, id: Number, data: SettlementIn) -> dict[str, Any]:
    """Decide on a group in dispute: an export takes this order in place of the labelers'."""
    return _json(services.settle(_group(id), request.user, data.order, data.note))


@router.delete("/tasks/{id}/settlement", response=answers(None, 204))
def unsettle(request: HttpRequest, id: Number) -> Status:
    """Let the labelers' rankings count again."""
    services.unsettle(_group(id))
    return Status(204, None)
