"""A group in dispute: what each labeler said of it, and the form with which a researcher settles it."""

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils.text import capfirst
from django.views.decorators.http import require_POST

from core_ml.errors import UserError
from core_ml.feedback.orders import merged
from lab import markup
from lab.errors import Invalid
from lab.models import Group
from lab.queries import artifacts
from lab.queries import labeling as queries
from lab.queries.orders import places
from lab.services import labeling as services

MAX_LABELERS = 12
"""Whose orders stand in columns of their own; a crowd's are counted."""
MAX_ID = 200


@dataclass(frozen=True)
class Said:
    """What one labeler said of the group."""

    labeler: str
    simulated: bool
    order: list[list[int]]
    flags: dict[str, list[str]]
    again: bool = False
    comment: str = ""
    correction: str = ""


def decide(request: Any, id: int, task: int) -> HttpResponse:
    group = _get(id, task)
    if request.method == "POST":
        problem = _act(request, group)
        if problem is None:
            return redirect("labeling_project", id)
        messages.error(request, problem)
    try:
        said = _said(group)
    except (Invalid, UserError) as error:
        messages.error(request, f"Its rankings cannot be read: {_told(error)}.")
        said = []
    begin = group.settled or group.gold or merged(one.order for one in said if not one.again)
    place = places(begin)
    shown = said[:MAX_LABELERS]
    context = {
        "section": "labeling",
        "stage": "aligned",
        "project": group.project,
        "group": group,
        "prompt": markup.html(group.prompt),
        "answers": [
            {
                "html": markup.html(text),
                "place": place.get(i),
                "said": [places(one.order).get(i) for one in shown],
                "flags": sorted({name for one in said for name in one.flags.get(str(i), [])}),
            }
            for i, text in enumerate(group.completions)
        ],
        "rankings": shown,
        "n_more": len(said) - len(shown),
        "notes": [one for one in said if one.comment or one.correction],
        "places": range(1, len(group.completions) + 1),
    }
    return render(request, "labeling/decide.html", context, status=422 if request.method == "POST" else 200)


def _said(group: Group) -> list[Said]:
    """By labelers of this lab; of a group that is corrected, by whoever ranked it in its dataset."""
    if group.project.corrects:
        n = len(group.completions)
        return [
            Said(
                one.labeler, one.simulated, one.order, {str(i): list(names) for i, names in one.flags.items()}
            )
            for one in services.votes(group).votes
            if one.fits(n)
        ]
    return [
        Said(
            one.labeler.username,
            one.labeler.is_simulated,
            one.order,
            one.flags,
            bool(one.round),
            one.comment,
            one.correction,
        )
        for one in queries.rankings_of(group)
    ]


@require_POST
def correct(request: Any) -> HttpResponse:
    """Open a group of any dataset of rankings to be settled, wherever it was ranked."""
    dataset = artifacts.find("dataset", request.POST.get("dataset", ""))
    if dataset is None:
        raise Http404
    try:
        group = services.correct(
            dataset, request.POST.get("group", "")[:MAX_ID].replace("\0", ""), request.user
        )
    except (Invalid, UserError) as error:
        messages.error(request, f"{capfirst(_told(error))}.")
        return redirect("dataset", dataset.pk)
    return redirect("labeling_decide", group.project_id, group.pk)


def _told(error: Invalid | UserError) -> str:
    return error.message if isinstance(error, UserError) else error.errors[0].message


def _get(id: int, task: int) -> Group:
    groups = Group.objects.select_related("project__source", "settled_by")
    group = groups.filter(project=id, pk=task).first() if max(id, task) < 2**31 else None
    if group is None:
        raise Http404
    return group


def _act(request: Any, group: Group) -> str | None:
    """Settle it, or take that back; the problem when it will not do."""
    if request.POST.get("do") == "unsettle":
        services.unsettle(group)
        messages.info(request, "The rankings that it had count again.")
        return None
    n, tied = len(group.completions), dict[int, list[int]]()
    choices = {str(place): place for place in range(1, n + 1)}
    for i in range(n):
        if place := choices.get(request.POST.get(f"place-{i}", "")):
            tied.setdefault(place, []).append(i)
    order = [tied[place] for place in sorted(tied)]
    note = request.POST.get("note", "").replace("\r\n", "\n").replace("\0", "")[: services.MAX_TEXT]
    try:
        services.settle(group, request.user, order, note)
        if "gold" in request.POST or group.gold is not None:
            services.set_gold(group, order if "gold" in request.POST else None)
    except Invalid:
        return "Give each answer a place; equal places are tied."
    where = (
        "an export has the whole dataset with this order in it"
        if group.project.corrects
        else "an export takes this order"
    )
    messages.info(request, f"The group is settled: {where}.")
    return None
