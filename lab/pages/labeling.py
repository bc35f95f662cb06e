"""Labelling for researchers: projects over rollouts, how far and how much alike people rank, and the export."""

from statistics import median
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils import timezone
from django.utils.text import capfirst
from django.views.decorators.http import require_POST

from core_ml.errors import UserError
from lab.errors import Conflict, FieldError, Invalid
from lab.models import Artifact, Project, Ranking, Run
from lab.pages import label_course, label_settings
from lab.pages.label_decide import correct, decide
from lab.pages.orders import duel
from lab.pages.ranking import label, label_project
from lab.queries import agreement, artifacts, doubts, orders
from lab.queries import labeling as queries
from lab.services import labeling as services

HURRIED = 0.4
"""Of the others' median time: who takes less is named, as a measurement."""
MIN_RANKINGS = 5
MAX_GROUPS = 200
"""Of a list of corrections: the newest."""


def labeling(request: HttpRequest) -> HttpResponse:
    errors: dict[str, str] = {}
    values = label_settings.DEFAULTS
    if request.method == "POST":
        values = label_settings.read(request.POST)
        try:
            return redirect("labeling_project", _create(request, values).pk)
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
        **label_settings.fields(values, errors),
    }
    return render(request, "labeling/list.html", context, status=422 if errors else 200)


def _create(request: Any, values: dict[str, Any]) -> Project:
    source = artifacts.find("dataset", request.POST.get("source", ""))
    if source is None:
        raise Invalid([FieldError("source", "choose the rollouts that people are to rank")])
    values = values | {"name": values["name"] or source.name[:100]}
    return services.create_project(source_artifact=source, account=request.user, **values)


def labeling_project(request: HttpRequest, id: int) -> HttpResponse:
    return _shown(request, _get(id))


def _shown(request: HttpRequest, project: Project, values: Any = None, errors: Any = None) -> HttpResponse:
    if project.corrects:
        return _corrections(request, project)
    rankings = list(Ranking.objects.filter(group__project=project).select_related("labeler"))
    agreed = agreement.of(project)
    done = queries.progress(project)
    exports = list(orders.exports(project))
    parts = [one | _with_others(one["labeler"], agreed["labelers"]) for one in done["labelers"]]
    context = {
        "section": "labeling",
        "stage": "aligned",
        "project": project,
        "done": done,
        "share": done["rankings"] / max(1, done["wanted"]),
        "per_hour": _per_hour(rankings),
        "median_seconds": _median_seconds(rankings),
        "agreement": agreed,
        "enough": agreed["groups"] >= agreement.MIN_GROUPS,
        "half": (agreed["high"] - agreed["low"]) / 2 if agreed["high"] is not None else None,
        "course": label_course.drawn(agreement.course(project), agreed["agreement"]),
        "labelers": parts,
        "hurried": _hurried(parts),
        "n_simulated": sum(one["simulated"] for one in done["labelers"]),
        "disputes": agreed["disputes"][:8],
        "settled": queries.groups(project, "settled")[:8],
        "flags": _flags(project, rankings, agreed["flags"]),
        "n_responses": sum(len(tied) for one in rankings for tied in one.order),
        "exports": exports[:6],
        "export_url": f"/api/v1/labeling/projects/{project.pk}/export",
        "reward_models": _reward_models(exports),
        "duel": duel(request, project),
        "doubts": doubts.of(project),
        **label_settings.fields(values or label_settings.of(project), errors or {}),
    }
    return render(request, "labeling/project.html", context, status=422 if errors else 200)


def _corrections(request: HttpRequest, project: Project) -> HttpResponse:
    """The page of a project that nobody is asked to rank in."""
    exports = list(orders.exports(project))
    groups = list(queries.groups(project).order_by("-index")[:MAX_GROUPS])
    context = {
        "section": "labeling",
        "stage": "aligned",
        "project": project,
        "groups": groups,
        "n_groups": project.groups.count(),
        "n_settled": project.groups.filter(settled__isnull=False).count(),
        "exports": exports[:6],
        "export_url": f"/api/v1/labeling/projects/{project.pk}/export",
        "reward_models": _reward_models(exports),
        "duel": duel(request, project),
    }
    return render(request, "labeling/corrections.html", context)


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


def _with_others(labeler: str, measured: list[dict[str, Any]]) -> dict[str, Any]:
    """A labeler's agreement with all others, and its interval."""
    found = next((one for one in measured if one["labeler"] == labeler and one["pairs"]), None)
    return {"others": found["agreement"], "other_pairs": found["pairs"]} if found else {"others": None}


def _hurried(parts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The quickest of the people, where they take less than a part of the others' time; None where nobody does."""
    people = [one for one in parts if not one["simulated"] and one["rankings"] >= MIN_RANKINGS]
    if len(people) < 2:
        return None
    quickest = min(people, key=lambda one: one["median_seconds"])
    others = median(one["median_seconds"] for one in people if one is not quickest)
    return quickest | {"others_seconds": others} if quickest["median_seconds"] < HURRIED * others else None


def _flags(project: Project, rankings: list[Ranking], agreed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How often each was used, and how far labelers agree on it: percent and alpha, both with their intervals."""
    counts = dict.fromkeys(project.flags, 0)
    for ranking in rankings:
        for names in ranking.flags.values():
            for name in names:
                counts[name] = counts.get(name, 0) + 1
    measured = {one["flag"]: {"agreement": one["agreement"], "alpha": one["alpha"]} for one in agreed}
    found = [{"name": name, "n": n} | measured.get(name, {}) for name, n in counts.items()]
    return sorted(found, key=lambda one: -one["n"])


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
    except (Conflict, UserError) as error:
        messages.error(request, f"{capfirst(str(error))}.")
        return redirect("labeling_project", id)
    messages.info(request, f"{made.summary['rankings']:,} rankings are a dataset now.")
    return redirect("dataset", made.pk)


@require_POST
def ask(request: HttpRequest, id: int) -> HttpResponse:
    """Queue the run that asks reward models which of the project's groups are uncertain."""
    project = _get(id)
    try:
        run = services.ask(project, request.POST.getlist("reward")[:20], request.user)  # type: ignore[arg-type]
    except Invalid as error:
        text = error.errors[0].message if request.POST.getlist("reward") else "choose a reward model to ask"
        messages.error(request, f"{capfirst(text)}.")
    else:
        messages.info(request, f"Run {run.pk} asks the reward models; the groups have their scores when it has ended.")  # fmt: skip
    return redirect(f"{reverse('labeling_project', args=[id])}#uncertain")


@require_POST
def close(request: HttpRequest, id: int) -> HttpResponse:
    services.close(_get(id))
    messages.info(request, f"The project takes no more rankings since {timezone.localtime():%H:%M}.")
    return redirect("labeling_project", id)


@require_POST
def reopen(request: HttpRequest, id: int) -> HttpResponse:
    try:
        services.reopen(_get(id))
        messages.info(request, "The project is open again.")
    except Conflict as error:
        messages.error(request, f"{capfirst(str(error))}.")
    return redirect("labeling_project", id)


@require_POST
def settings(request: HttpRequest, id: int) -> HttpResponse:
    project, values = _get(id), label_settings.read(request.POST)
    try:
        services.change(project, **values)
    except Invalid as error:
        return _shown(request, project, values, {one.field: one.message for one in error.errors})
    messages.info(request, "The settings hold from the next group on.")
    return redirect("labeling_project", id)


urlpatterns = [
    path("label", label, name="label"),
    path("label/<int:id>", label_project, name="label_project"),
    path("labeling", labeling, name="labeling"),
    path("labeling/<int:id>", labeling_project, name="labeling_project"),
    path("labeling/<int:id>/settings", settings, name="labeling_settings"),
    path("labeling/corrections", correct, name="labeling_correct"),
    path("labeling/<int:id>/groups/<int:task>", decide, name="labeling_decide"),
    path("labeling/<int:id>/export", export, name="labeling_export"),
    path("labeling/<int:id>/uncertain", ask, name="labeling_ask"),
    path("labeling/<int:id>/close", close, name="labeling_close"),
    path("labeling/<int:id>/reopen", reopen, name="labeling_reopen"),
]
