"""A group in dispute: what each labeler said of it, and the form with which a researcher settles it."""

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render

from lab import markup
from lab.errors import Invalid
from lab.models import Group
from lab.queries import labeling as queries
from lab.queries.orders import places
from lab.services import labeling as services


def decide(request: Any, id: int, task: int) -> HttpResponse:
    group = _get(id, task)
    rankings = queries.rankings_of(group)
    if request.method == "POST":
        problem = _act(request, group)
        if problem is None:
            return redirect("labeling_project", id)
        messages.error(request, problem)
    first = [one for one in rankings if one.round == 0]
    begin = (
        group.settled or group.gold or (queries.mean_order([one.order for one in first]) if first else None)
    )
    place = places(begin) if begin else {}
    n = len(group.completions)
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
                "said": [places(one.order).get(i) for one in rankings],
                "flags": sorted({name for one in rankings for name in one.flags.get(str(i), [])}),
            }
            for i, text in enumerate(group.completions)
        ],
        "rankings": rankings,
        "notes": [one for one in rankings if one.comment or one.correction],
        "places": range(1, n + 1),
    }
    return render(request, "labeling/decide.html", context, status=422 if request.method == "POST" else 200)


def _get(id: int, task: int) -> Group:
    groups = Group.objects.select_related("project", "settled_by")
    group = groups.filter(project=id, pk=task).first() if max(id, task) < 2**31 else None
    if group is None:
        raise Http404
    return group


def _act(request: Any, group: Group) -> str | None:
    """Settle it, or take that back; the problem when it will not do."""
    if request.POST.get("do") == "unsettle":
        services.unsettle(group)
        messages.info(request, "The labelers' rankings count again.")
        return None
    tied: dict[str, list[int]] = {}
    for i in range(len(group.completions)):
        place = request.POST.get(f"place-{i}", "")
        if place in set("123456789"):
            tied.setdefault(place, []).append(i)
    order = [tied[place] for place in sorted(tied)]
    note = request.POST.get("note", "").replace("\r\n", "\n").replace("\0", "")[: services.MAX_TEXT]
    try:
        services.settle(group, request.user, order, note)
        if "gold" in request.POST or group.gold is not None:
            services.set_gold(group, order if "gold" in request.POST else None)
    except Invalid:
        return "Give each answer a place; equal places are tied."
    messages.info(request, "The group is settled: an export takes this order.")
    return None
