"""Ranking, for labelers: the next task, a ranking of it, skip and undo."""

from typing import Annotated, Any

from django.shortcuts import get_object_or_404
from ninja import Query, Router, Status

from lab.api.auth import labeler
from lab.api.base import Number, answers
from lab.api.label_forms import LeaseOut, RankingIn, RankingOut, Task, UndoneOut
from lab.models import Group, Project
from lab.queries import labeling as queries
from lab.services import labeling as services

router = Router(tags=["labelling"])
AsHtml = Annotated[bool, Query(description="Answer markdown and mathematics as safe HTML too.")]


def _task(group: Group, shown: list[int], request: Any, html: bool) -> dict[str, Any]:
    return queries.task(group, shown, html) | queries.own_progress(group.project, request.user)


@router.post("/projects/{id}/next", response={**answers(Task), 204: None}, auth=labeler)
def next_task(request: Any, id: Number, html: AsHtml = False) -> Status:
    """Lease the next group for ten minutes; the same one again until it is ranked or skipped. 204: none is left.

    Whoever needs longer renews the lease.
    """
    project = get_object_or_404(Project, pk=id)
    lease = services.next_lease(project, request.user)
    if lease is None:
        return Status(204, None)
    lease.group.project = project
    return Status(200, _task(lease.group, lease.shown, request, html))


@router.post("/projects/{id}/undo", response=answers(UndoneOut), auth=labeler)
def undo_ranking(request: Any, id: Number, html: AsHtml = False) -> dict[str, Any]:
    """Take back your last ranking; its task is at hand again."""
    ranking = services.undo(get_object_or_404(queries.visible(), pk=id), request.user)
    shown = ranking.shown or list(range(len(ranking.group.completions)))
    return _task(ranking.group, shown, request, html) | {
        name: getattr(ranking, name) for name in services.SAID
    }


@router.post("/tasks/{id}/ranking", response=answers(RankingOut, 201), auth=labeler)
def hand_in(request: Any, id: Number, data: RankingIn) -> Status:
    """Hand in the ranking of a leased task: every answer once, best first, ties in one list.

    Sent again, under the same `submission` or with the same content, it counts once and answers the same.
    """
    group = get_object_or_404(Group.objects.select_related("project"), pk=id)
    ranking = services.hand_in(group, request.user, **data.model_dump())
    fields = (*services.SAID, "shown", "seconds")
    return Status(
        201, {name: getattr(ranking, name) for name in fields} | {"id": ranking.pk, "task": group.pk}
    )


@router.post("/tasks/{id}/lease", response=answers(LeaseOut), auth=labeler)
def renew_lease(request: Any, id: Number) -> dict[str, Any]:
    """Keep a task for ten more minutes, while somebody is at work on it. 409: others have it now, or all is closed.

    What is handed in too late is not lost: it is stored beside the rankings of others.
    """
    group = get_object_or_404(Group.objects.select_related("project"), pk=id)
    return {"expires": services.renew(group, request.user).expires}


@router.post("/tasks/{id}/skip", response=answers(None, 204), auth=labeler)
def skip_task(request: Any, id: Number) -> Status:
    """Pass a task on to others; you do not get it again."""
    services.skip(get_object_or_404(Group.objects.select_related("project"), pk=id), request.user)
    return Status(204, None)
