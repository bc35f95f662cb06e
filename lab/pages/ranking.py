"""The labelers' pages: choose a project, and rank one group after the other. All that a labeler ever sees."""

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse

from lab.errors import Conflict, Invalid
from lab.models import FLAGS, Group, Project
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
    group = services.next_group(project, request.user)
    context = {
        "section": "labeling",
        "project": project,
        "instructions": [line for line in project.instructions.split("\n") if line.strip()],
        "group": group,
        "own": queries.own_progress(project, request.user),
        "answers": _answers(group) if group else [],
        "flags": FLAGS,
        "places": range(1, len(group.completions) + 1) if group else [],
        "script": {
            "project": project.pk,
            "task": _task(group, project, request.user) if group else None,
            "flags": FLAGS,
            "home": reverse("label"),
        },
    }
    return render(request, "labeling/label.html", context)


def _answers(group: Group) -> list[dict[str, Any]]:
    cut_off = group.metadata.get("cut_off") or []
    return [
        {"text": text, "cut_off": i < len(cut_off) and bool(cut_off[i])}
        for i, text in enumerate(group.completions)
    ]


def _task(group: Group, project: Project, account: Any) -> dict[str, Any]:
    """As the API answers, so that the script knows one shape."""
    cut_off = group.metadata.get("cut_off") or [False] * len(group.completions)
    return {
        "id": group.pk,
        "prompt": group.prompt,
        "completions": group.completions,
        "cut_off": cut_off,
        **queries.own_progress(project, account),
    }


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
                order, flags = _read(request, group, all_bad=do == "bad")
                services.hand_in(group, request.user, order, do == "bad", flags)
    except Invalid as error:
        messages.error(request, error.errors[0].message)
    except Conflict as error:
        messages.error(request, str(error))
    return redirect("label_project", project.pk)


def _read(request: Any, group: Group, all_bad: bool) -> tuple[list[list[int]], dict[str, list[str]]]:
    tied: dict[int, list[int]] = {}
    flags: dict[str, list[str]] = {}
    for i in range(len(group.completions)):
        if place := 1 if all_bad else _int(request.POST.get(f"place-{i}")):
            tied.setdefault(place, []).append(i)
        if chosen := request.POST.getlist(f"flags-{i}"):
            flags[str(i)] = chosen
    return [tied[place] for place in sorted(tied)], flags


def _int(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0
