"""The labelers' pages: choose a project, and rank one group after the other. All that a labeler ever sees."""

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse

from lab import markup
from lab.errors import Conflict, Invalid
from lab.models import Group, Project
from lab.queries import labeling as queries
from lab.services import labeling as services


def label(request: HttpRequest) -> HttpResponse:
    """Open projects, each with how far it is and how many of its rankings are one's own."""
    projects = [(one, queries.own_progress(one, request.user)) for one in queries.visible("labeler")]
    if len(projects) == 1 and request.user.role == "labeler":  # type: ignore[union-attr]
        return redirect("label_project", projects[0][0].pk)
    shown = [(one, done, done["rankings"] / max(1, done["wanted"])) for one, done in projects]
    return render(request, "labeling/label_home.html", {"section": "labeling", "projects": shown})


def label_project(request: Any, id: int) -> HttpResponse:
    """The group at hand. Leasing it is idempotent: a reload shows the same one again."""
    project = queries.visible().filter(pk=id).first() if id < 2**31 else None
    if project is None:
        raise Http404
    if request.method == "POST":
        return _without_script(request, project)
    lease = services.next_lease(project, request.user)
    own = queries.own_progress(project, request.user)
    task = queries.task(lease.group, lease.shown) | own if lease else None
    context = {
        "section": "labeling",
        "project": project,
        "instructions": [line for line in project.instructions.split("\n") if line.strip()],
        "examples": [{key: markup.html(one.get(key, "")) for key in one} for one in project.examples],
        "group": lease.group if lease else None,
        "own": own,
        "prompt": task["html"]["prompt"] if task else "",
        "answers": _answers(task) if task else [],
        "places": range(1, len(task["completions"]) + 1) if task else [],
        "marks": range(1, project.scale + 1),
        "script": {
            "project": project.pk,
            "labeler": request.user.pk,
            "task": task,
            "flags": project.flags,
            "scale": project.scale,
            "home": reverse("label"),
        },
    }
    return render(request, "labeling/label.html", context)


def _answers(task: dict[str, Any]) -> list[dict[str, Any]]:
    """As they stand on the screen; `i` is the answer's index in its group."""
    return [
        {"i": i, "html": task["html"]["completions"][i], "cut_off": task["cut_off"][i]} for i in task["shown"]
    ]


def _without_script(request: Any, project: Project) -> HttpResponse:
    """The plain form: a place for each answer, equal places tied; one button hands all in as bad."""
    do = request.POST.get("do", "hand")
    try:
        if do == "undo":
            services.undo(project, request.user)
        else:
            group = project.groups.filter(pk=_int(request.POST.get("group"))).first()
            if group is None:
                raise Conflict("this group is not here: take the one below")
            if do == "skip":
                services.skip(group, request.user)
            else:
                services.hand_in(group, request.user, **_read(request, group, all_bad=do == "bad"))
    except Invalid as error:
        messages.error(request, error.errors[0].message)
    except Conflict as error:
        messages.error(request, str(error))
    return redirect("label_project", project.pk)


def _read(request: Any, group: Group, all_bad: bool) -> dict[str, Any]:
    tied: dict[int, list[int]] = {}
    flags: dict[str, list[str]] = {}
    marks: dict[str, int] = {}
    for i in range(len(group.completions)):
        if place := 1 if all_bad else _int(request.POST.get(f"place-{i}")):
            tied.setdefault(place, []).append(i)
        if chosen := request.POST.getlist(f"flags-{i}"):
            flags[str(i)] = chosen
        if mark := _int(request.POST.get(f"mark-{i}")):
            marks[str(i)] = mark
    return {
        "order": [tied[place] for place in sorted(tied)],
        "all_bad": all_bad,
        "flags": flags,
        "marks": marks,
        "comment": request.POST.get("comment", ""),
        "correction": request.POST.get("correction", ""),
    }


def _int(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0
