"""Labelling for researchers: projects over rollouts, how far and how much alike people rank, and the export."""

from statistics import median
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.utils import timezone
from django.views.decorators.http import require_POST

from lab.errors import Conflict, FieldError, Invalid
from lab.models import FLAGS, Artifact, Project, Ranking, Run
from lab.pages.orders import duel
from lab.pages.ranking import label, label_project
from lab.queries import artifacts, orders
from lab.queries import labeling as queries
from lab.services import labeling as services

INSTRUCTIONS = (
    "Ask yourself: which of these would I rather be given? Best first.\n"
    "A wrong answer is worse than a short one. Then it should answer the question that was asked.\n"
    "Clear, and no longer than it needs to be: friendly filler is not help."
)
MIN_GROUPS = 5
"""Fewer groups ranked by two people say nothing about how much they agree."""


def labeling(request: HttpRequest) -> HttpResponse:
    errors: dict[str, str] = {}
    if request.method == "POST":
        try:
            return redirect("labeling_project", _create(request).pk)
        except Invalid as error:
            errors = {one.field: one.message for one in error.errors}
    sources = list(artifacts.visible("dataset").filter(form="rollouts")[:60])
    projects = [(one, queries.totals(one)) for one in queries.visible()[:100]]
    context = {
        "section": "labeling",
        "stage": "aligned",
        "projects": [(one, n, n["rankings"] / max(1, n["wanted"])) for one, n in projects],
        "sources": sources,
        "chosen": request.POST.get("source") or request.GET.get("source", ""),
        "given": {
            "name": request.POST.get("name", ""),
            "instructions": request.POST.get("instructions", INSTRUCTIONS),
            "rankings_per_group": request.POST.get("rankings_per_group", "1"),
        },
        "errors": errors,
    }
    return render(request, "labeling/list.html", context, status=422 if errors else 200)


def _create(request: Any) -> Project:
    source = (
        artifacts.visible("dataset").filter(pk=request.POST.get("source", "")[:80].replace("\0", "")).first()
    )
    if source is None:
        raise Invalid([FieldError("source", "choose the rollouts that people are to rank")])
    text = request.POST.get("rankings_per_group", "1").strip()
    n = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    name = request.POST.get("name", "").strip() or source.name[:100]
    instructions = request.POST.get("instructions", "").replace("\r\n", "\n")[:10_000]
    return services.create_project(name, source, instructions, n, request.user)


def labeling_project(request: HttpRequest, id: int) -> HttpResponse:
    project = _get(id)
    rankings = list(Ranking.objects.filter(group__project=project).select_related("labeler", "group"))
    agreement = queries.agreement(project)
    done = queries.progress(project)
    exports = list(orders.exports(project))
    context = {
        "section": "labeling",
        "stage": "aligned",
        "project": project,
        "done": done,
        "share": done["rankings"] / max(1, done["wanted"]),
        "per_hour": _per_hour(rankings),
        "median_seconds": _median_seconds(rankings),
        "agreement": agreement,
        "enough": agreement["groups"] >= MIN_GROUPS,
        "half": (agreement["high"] - agreement["low"]) / 2 if agreement["high"] is not None else None,
        "labelers": [one | _with_others(one["labeler"], agreement["between"]) for one in done["labelers"]],
        "n_simulated": sum(one["simulated"] for one in done["labelers"]),
        "disputes": [_dispute(one, project) for one in agreement["disputes"][:8]],
        "flags": _flags(rankings),
        "n_responses": sum(len(one.group.completions) for one in rankings),
        "exports": exports[:6],
        "reward_models": _reward_models(exports),
        "duel": duel(request, project),
    }
    return render(request, "labeling/project.html", context)


def _get(id: int) -> Project:
    project = queries.visible().filter(pk=id).first() if id < 2**31 else None
    if project is None:
        raise Http404
    return project


def _median_seconds(rankings: list[Ranking]) -> float | None:
    """Of people where there are any: a program needs no time to read."""
    people = [one.seconds for one in rankings if not one.labeler.is_simulated]
    return median(people or [one.seconds for one in rankings]) if rankings else None


def _per_hour(rankings: list[Ranking]) -> float | None:
    """Rankings an hour over the last hour in which somebody ranked."""
    if len(rankings) < 2:
        return None
    last = max(one.created for one in rankings)
    recent = [one.created for one in rankings if (last - one.created).total_seconds() < 3600]
    span = (last - min(recent)).total_seconds()
    return (len(recent) - 1) * 3600 / span if span >= 1 else None


def _with_others(labeler: str, between: list[dict[str, Any]]) -> dict[str, Any]:
    """A labeler's agreement with all others; an interval where there is one other."""
    found = [one for one in between if labeler in one["labelers"] and one["pairs"]]
    pairs = sum(one["pairs"] for one in found)
    if not pairs:
        return {"agreement": None}
    share = sum(one["agreement"] * one["pairs"] for one in found) / pairs
    low, high = (found[0]["low"], found[0]["high"]) if len(found) == 1 else (None, None)
    return {"agreement": share, "low": low, "high": high, "groups": sum(one["groups"] for one in found)}


def _dispute(dispute: dict[str, Any], project: Project) -> dict[str, Any]:
    group = project.groups.get(pk=dispute["task"])
    orders = [
        {"labeler": name, "order": [[i + 1 for i in tied] for tied in order]}
        for name, order in dispute["orders"].items()
    ]
    return {**dispute, "orders": orders, "completions": group.completions}


def _flags(rankings: list[Ranking]) -> list[tuple[str, int]]:
    counts = dict.fromkeys(FLAGS, 0)
    for ranking in rankings:
        for names in ranking.flags.values():
            for name in names:
                counts[name] = counts.get(name, 0) + 1
    return sorted(counts.items(), key=lambda pair: -pair[1])


def _reward_models(exports: list[Artifact]) -> list[dict[str, Any]]:
    """Reward models that learned from this project's exports, with their accuracy on held-out pairs."""
    runs = Run.objects.filter(kind="reward", deleted=None, inputs__artifact__in=exports).distinct()
    return [
        {
            "run": run,
            "checkpoint": run.artifacts.filter(role="reward").first(),
            "accuracy": run.summary.get("val_accuracy"),
            "low": run.summary.get("val_accuracy_low"),
            "high": run.summary.get("val_accuracy_high"),
        }
        for run in runs[:6]
    ]


@require_POST
def export(request: HttpRequest, id: int) -> HttpResponse:
    try:
        made = services.export(_get(id), request.user)  # type: ignore[arg-type]
    except Conflict as error:
        messages.error(request, str(error).capitalize() + ".")
        return redirect("labeling_project", id)
    messages.info(request, f"{made.summary['rankings']:,} rankings are a dataset now.")
    return redirect("dataset", made.pk)


@require_POST
def close(request: HttpRequest, id: int) -> HttpResponse:
    services.close(_get(id))
    messages.info(request, f"The project takes no more rankings since {timezone.localtime():%H:%M}.")
    return redirect("labeling_project", id)


@require_POST
def reopen(request: HttpRequest, id: int) -> HttpResponse:
    services.reopen(_get(id))
    messages.info(request, "The project is open again.")
    return redirect("labeling_project", id)


urlpatterns = [
    path("label", label, name="label"),
    path("label/<int:id>", label_project, name="label_project"),
    path("labeling", labeling, name="labeling"),
    path("labeling/<int:id>", labeling_project, name="labeling_project"),
    path("labeling/<int:id>/export", export, name="labeling_export"),
    path("labeling/<int:id>/close", close, name="labeling_close"),
    path("labeling/<int:id>/reopen", reopen, name="labeling_reopen"),
]
