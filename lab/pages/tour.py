"""The tour's two buttons, and how far it is."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import path, reverse
from django.views.decorators.http import require_POST

from lab.errors import Conflict, Invalid
from lab.models import Tour
from lab.models.run import QUEUED, SUCCEEDED
from lab.queries.board import waiting_groups
from lab.queries.tour import STAGES, table
from lab.services import tour as tours
from lab.templatetags.lab import letter, number, percent, share, stone, took


@require_POST
def start_tour(request: HttpRequest) -> HttpResponse:
    try:
        tours.start({"small": request.POST.get("small") == "1"}, request.user)
    except (Conflict, Invalid) as error:
        messages.error(request, f"{str(error)[0].upper()}{str(error)[1:]}.")
    return redirect("home")


def tour(request: HttpRequest, id: int) -> HttpResponse:
    """What each stage made, how long it took, and how good it is."""
    one = get_object_or_404(Tour, pk=id)
    context = {"section": "home", "tour": one, "rows": table(one)}
    return render(request, "home/tour_table.html", context)


@require_POST
def cancel_tour(request: HttpRequest, id: int) -> HttpResponse:
    tours.cancel(get_object_or_404(Tour, pk=id))
    messages.info(request, "The tour has stopped; what it made stays.")
    return redirect("home")


def steps(tour: Tour) -> list[dict[str, Any]]:
    """Every step of a tour as a stone: those to come are dashed."""
    runs = {run.kind: run for run in tour.runs.filter(deleted=None)}
    project = tour.projects.first()
    found = []
    for kind in STAGES:
        step: dict[str, Any] = {"name": kind, "stone": "waiting", "number": "", "words": "", "url": ""}
        if run := runs.get(kind):
            done = share(run.progress)
            step |= {"stone": stone(run.status), "number": run.pk, "url": reverse("run", args=[run.pk])}
            if run.is_live and run.status != QUEUED and done is not None:
                step["words"] = percent(done, 0)
            elif run.status == SUCCEEDED:
                step["words"] = took(run)
        elif kind == "rankings" and project:
            n_left, n_groups = waiting_groups(project)
            step |= {
                "stone": "people" if not n_left else "people running",
                "number": letter(project.pk),
                "words": f"{number(n_groups - n_left)} of {number(n_groups)}",
                "url": reverse("label_project", args=[project.pk]),
            }
        found.append(step)
    return found


urlpatterns = [
    path("tour", start_tour, name="start_tour"),
    path("tour/<int:id>", tour, name="tour"),
    path("tour/<int:id>/cancel", cancel_tour, name="cancel_tour"),
]
