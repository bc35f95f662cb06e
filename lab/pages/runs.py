"""The table of runs, and what is done with several at once."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils.text import capfirst
from django.views.decorators.http import require_POST

from core_ml import recipes
from lab.errors import Conflict
from lab.models import Run
from lab.models.run import FAILED, LIVE, SUCCEEDED
from lab.pages.selection import chosen
from lab.queries.headlines import headlines, say
from lab.queries.run_filter import filtered
from lab.services import runs as services

PER_PAGE = 50


def runs(request: HttpRequest) -> HttpResponse:
    """The table; with `?rows` its rows alone, for the script that keeps them fresh."""
    q = request.GET.get("q", "").strip()[:300]
    found, complaints = filtered(q)
    page = Paginator(found, PER_PAGE).get_page(request.GET.get("page"))
    lines = headlines(page.object_list, curves=True)
    everything = Run.objects.filter(deleted=None)
    tabs = [
        ("All", "", everything.count()),
        ("Live", "is:live", everything.filter(status__in=LIVE).count()),
        ("Succeeded", "status:succeeded", everything.filter(status=SUCCEEDED).count()),
        ("Failed", "status:failed", everything.filter(status=FAILED).count()),
    ]
    context: dict[str, Any] = {
        "section": "runs",
        "q": q,
        "complaints": complaints,
        "page": page,
        "query": f"&{urlencode({'q': q})}" if q else "",
        "rows": [(run, lines[run.pk], say(run, lines[run.pk])) for run in page.object_list],
        "tabs": tabs,
        "kinds": recipes.all_recipes(),
        "any_live": any(run.is_live for run in page.object_list),
    }
    return render(request, "runs/rows.html" if "rows" in request.GET else "runs/runs.html", context)


@require_POST
def several(request: HttpRequest) -> HttpResponse:
    """Compare or delete the picked runs, by the button that was pressed."""
    picked = chosen(request.POST.getlist("ids"))
    if not picked:
        messages.info(request, "No run is picked.")
        return redirect("runs")
    if request.POST.get("do") == "compare":
        return redirect(f"{reverse('compare')}?ids={','.join(str(run.pk) for run in picked)}")
    deleted, kept = [], []
    # Newest first: what was built on another picked run goes before it.
    for run in sorted(picked, key=lambda one: -one.pk):
        try:
            services.delete(run)
            deleted.append(run)
        except Conflict as error:
            kept.append(str(error))
    for reason in kept[:3]:
        messages.error(request, f"{capfirst(reason)}.")
    if deleted:
        undo = f"{reverse('runs_restore')}?ids={','.join(str(run.pk) for run in deleted)}"
        text = f"{len(deleted)} run{'s' if len(deleted) > 1 else ''} deleted with what {'they' if len(deleted) > 1 else 'it'} made."
        messages.info(request, text, extra_tags=undo)
    return redirect("runs")


@require_POST
def restore(request: HttpRequest) -> HttpResponse:
    restored = [services.restore(run) for run in chosen(request.GET.get("ids", "").split(","))]
    messages.info(request, f"{len(restored)} run{'s are' if len(restored) != 1 else ' is'} back.")
    return redirect("run", restored[0].pk) if len(restored) == 1 else redirect("runs")


urlpatterns = [
    path("runs", runs, name="runs"),
    path("runs/several", several, name="runs_several"),
    path("runs/restore", restore, name="runs_restore"),
]
