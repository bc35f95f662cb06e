"""The tour's two buttons, and how far it is."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import path, reverse
from django.utils.text import capfirst
from django.views.decorators.http import require_POST

from lab.errors import Conflict, Invalid
from lab.models import Run, Tour
from lab.models.run import QUEUED, SUCCEEDED
from lab.queries.board import waiting_groups
from lab.queries.tour import LEARNS, PARTS, RANKED, parts, table
from lab.queries.turns import MODELS, turns
from lab.services import tour as tours
from lab.templatetags.lab import letter, number, percent, share, stone, took


@require_POST
def start_tour(request: HttpRequest) -> HttpResponse:
    try:
        tours.start({"small": request.POST.get("small") == "1"}, request.user)
    except (Conflict, Invalid) as error:
        messages.error(request, f"{capfirst(str(error))}.")
    return redirect("home")


def tour(request: HttpRequest, id: int) -> HttpResponse:
    """What each stage made, how long it took, and how good it is."""
    one = get_object_or_404(Tour, pk=id)
    context = {
        "section": "home",
        "tour": one,
        "parts": parts(table(one)),
        "turns": turns(one),
        "models": MODELS.values(),
    }
    return render(request, "home/tour_table.html", context)


@require_POST
def cancel_tour(request: HttpRequest, id: int) -> HttpResponse:
    tours.cancel(get_object_or_404(Tour, pk=id))
    messages.info(request, "The tour has stopped; what it made stays.")
    return redirect("home")


def steps(tour: Tour) -> list[tuple[str, list[dict[str, Any]]]]:
    """Every step of a tour as a stone, by part: those to come are dashed."""
    made = tour.made()
    return [(title, [_step(tour, name, made) for name in stages]) for title, stages in PARTS.items()]


def _step(tour: Tour, name: str, made: dict[str, Run]) -> dict[str, Any]:
    step: dict[str, Any] = {"name": name.split()[0], "stone": "waiting", "number": "", "words": "", "url": ""}
    run = made.get(name)
    if run and run.deleted is None:
        done = share(run.progress)
        step |= {"stone": stone(run.status), "number": run.pk, "url": reverse("run", args=[run.pk])}
        if run.is_live and run.status != QUEUED and done is not None:
            step["words"] = percent(done, 0)
        elif run.status == SUCCEEDED:
            step["words"] = took(run)
    elif name in RANKED and (project := tour.project_of(made.get(RANKED[name]))):
        n_left, n_groups = waiting_groups(project)
        step |= {
            "stone": "people" if not n_left or LEARNS[name] in made else "people running",
            "number": letter(project.pk),
            "words": f"{number(n_groups - n_left)} of {number(n_groups)}",
            "url": reverse("label_project", args=[project.pk]),
        }
    return step


urlpatterns = [
    path("tour", start_tour, name="start_tour"),
    path("tour/<int:id>", tour, name="tour"),
    path("tour/<int:id>/cancel", cancel_tour, name="cancel_tour"),
]
