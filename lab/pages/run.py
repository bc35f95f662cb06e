"""One run: live while it works, its curves, samples, log, config, lineage and files, and what can be done."""

from typing import Any

from django.contrib import messages
from django.db.models import Count, Max
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils.text import capfirst
from django.views.decorators.http import require_http_methods, require_POST

from lab.errors import Conflict, Invalid
from lab.models import Run
from lab.models.run import FAILED, SUCCEEDED
from lab.pages import curves, lineage, orders, overoptimization, rollouts, tricks
from lab.pages.home import board_parts
from lab.queries import artifacts, runs
from lab.queries.headlines import headlines, say
from lab.queries.overoptimization import KINDS as CAN_OVEROPTIMIZE
from lab.queries.rollouts import KINDS as KEEP_ROLLOUTS
from lab.queries.tricks import KINDS as HUNTS
from lab.security import plots
from lab.services import runs as services

TABS = (
    "overview",
    "curves",
    "samples",
    "rollouts",
    "overoptimization",
    "tricks",
    "orders",
    "log",
    "config",
    "lineage",
    "files",
)
TITLES = {"overoptimization": "Over-optimisation", "orders": "Two orders"}
OWN = {
    "rollouts": (KEEP_ROLLOUTS, rollouts.context),
    "overoptimization": (CAN_OVEROPTIMIZE, overoptimization.context),
    "tricks": (HUNTS, tricks.context),
    "orders": (("reward",), orders.context),
}
"""Tabs that only some kinds of run have, with what fills them."""
N_SAMPLES, N_LOG, N_LOG_SHOWN = 5, 2000, 40
N_BEFORE, N_AFTER = 4, 2
"""Runs and projects of the line above the page, on either side of the run."""


def _get(id: int) -> Run:
    run = (
        Run.objects.select_related("created_by", "cloned_from").filter(pk=id).first() if id < 2**31 else None
    )
    if run is None:
        raise Http404
    return run


@plots
def run(request: HttpRequest, id: int, tab: str = "overview") -> HttpResponse:
    run = _get(id)
    if run.deleted:
        return render(request, "runs/deleted.html", {"run": run, "section": "runs"}, status=410)
    if tab not in TABS or (tab in OWN and run.kind not in OWN[tab][0]):
        raise Http404
    recipe = runs.recipe_of(run)
    line = headlines([run])[run.pk]
    names = runs.metric_names(run)
    made = list(run.artifacts.all())
    context = {
        "section": "runs",
        "stage": recipe.stage if recipe else None,
        "run": run,
        "recipe": recipe,
        "line": line,
        "words": say(run, line),
        "chain": _chain(run),
        "tab": tab,
        "tabs": _tabs(run, names, len(made)),
        "made": made,
        "last_sample": run.samples.aggregate(last=Max("id"))["last"],
        "tries": _tries(run) if run.status == FAILED else [],
        "kept": _kept(run, len(made)) if run.status == FAILED else "",
        "field_value": _field_value(run),
        **(OWN[tab][1](request, run) if tab in OWN else _tab_context(run, tab, names)),
    }
    return render(request, f"runs/{tab}.html", context)


def _tabs(run: Run, names: list[str], n_made: int) -> list[tuple[str, str, str, int | None]]:
    """(name, title, address, count) of each tab."""
    counts = {"curves": len(names), "samples": run.samples.count(), "files": n_made}
    found = []
    for name in TABS:
        if name in OWN and run.kind not in OWN[name][0]:
            continue
        url = reverse("run", args=[run.pk]) if name == "overview" else reverse("run_tab", args=[run.pk, name])
        found.append((name, TITLES.get(name, name.capitalize()), url, counts.get(name)))
    return found


def _tab_context(run: Run, tab: str, names: list[str]) -> dict[str, Any]:
    if tab == "overview":
        return {
            "plot": curves.main_plot(run, names),
            "multiples": curves.multiples(run, names),
            **_samples(run),
            "figures": [curves.figure(one) for one in run.figures.all()],
            "log": runs.log_tail(run, N_LOG_SHOWN),
            "differences": runs.config_differences(run),
            "n_fields": len(run.config),
            "shards": _shards(run),
            "helped": overoptimization.helped(run) if run.kind in CAN_OVEROPTIMIZE else "",
        }
    if tab == "curves":
        return {"plots": curves.all_plots(run, names)}
    if tab == "samples":
        return {"samples": run.samples.order_by("step", "id")[:500]}
    if tab == "log":
        return {"log": runs.log_tail(run, N_LOG), "attempts": run.attempts.all()}
    if tab == "config":
        return {"fields": _config(run), "inputs": run.inputs.select_related("artifact")}
    if tab == "lineage":
        nodes = artifacts.lineage(run)["nodes"]
        numbers = {node["number"] for node in nodes if node["type"] == "run"}
        numbers |= {other.pk for other in services.dependants(run)}
        return {**board_parts(numbers), "things": [node for node in nodes if "artifact" in node]}
    return {"inputs": run.inputs.select_related("artifact")}


def _samples(run: Run) -> dict[str, Any]:
    """A few samples, oldest first: of one prompt over the steps where there are such, else the newest."""
    told = (
        run.samples.exclude(prompt="")
        .order_by()
        .values_list("prompt")
        .annotate(n=Count("step", distinct=True))
    )
    prompt, n = max(told, key=lambda pair: pair[1], default=("", 0))
    if n < 2:
        return {"samples": list(run.samples.order_by("-step", "-id")[:N_SAMPLES])[::-1], "same_prompt": None}
    found = list(run.samples.filter(prompt=prompt).order_by("step", "id"))
    last = len(found) - 1
    picked = sorted({round(i * last / (N_SAMPLES - 1)) for i in range(N_SAMPLES)})
    return {"samples": [found[i] for i in picked], "same_prompt": prompt}


def _chain(run: Run) -> list[dict[str, Any]]:
    """The line of stones above the page: what this run stands on, itself, and what stands on it."""
    after = sorted((one for one in services.dependants(run) if one.pk != run.pk), key=lambda one: one.pk)
    return lineage.chain(run, "this run", after=after[:N_AFTER], most=N_BEFORE)


def _config(run: Run) -> list[dict[str, Any]]:
    """Every field with its value, its unit and description, and what the preset had instead."""
    recipe = runs.recipe_of(run)
    schema = recipe.config.model_json_schema()["properties"] if recipe else {}
    changed = {one["field"]: one["base"] for one in runs.config_differences(run)}
    return [
        {
            "name": name,
            "value": value,
            "unit": schema.get(name, {}).get("unit", ""),
            "about": schema.get(name, {}).get("description", ""),
            "group": schema.get(name, {}).get("group", ""),
            "differs": name in changed,
            "base": changed.get(name),
        }
        for name, value in run.config.items()
    ]


def _shards(run: Run) -> list[dict[str, Any]]:
    """How far each stage of a sharded run came."""
    recipe = runs.recipe_of(run)
    if not recipe or not recipe.stages:
        return []
    rows = list(run.shards.values_list("stage", "status"))
    found = []
    for stage in recipe.stages:
        states = [status for name, status in rows if name == stage.name]
        n_done = sum(status == SUCCEEDED for status in states)
        state = "not started"
        if states:
            failed = any(status == FAILED for status in states)
            state = (
                "failed"
                if failed
                else "done"
                if n_done == len(states)
                else "at work"
                if run.is_live
                else "stopped"
            )
        look = {"done": "", "failed": "failed", "at work": "running", "stopped": "cancelled"}.get(
            state, "waiting"
        )
        found.append(
            {"title": stage.title, "state": state, "stone": look, "n_done": n_done, "n": len(states)}
        )
    return found


def _field_value(run: Run) -> Any:
    name = str((run.error or {}).get("field") or "").removeprefix("config.")
    return run.config.get(name)


def _kept(run: Run, n_made: int) -> str:
    """What a failure did not cost."""
    n_shards = run.shards.filter(status=SUCCEEDED).count()
    if n_shards:
        return f"Nothing is damaged: {n_shards} of {run.shards.count()} finished shards are kept and never done again."
    if n_made:
        return f"What it had finished is kept: {n_made} artifact{'s' if n_made > 1 else ''}."
    step = run.progress.get("step")
    if step:
        total = f" of {run.progress['total']:,}" if run.progress.get("total") else ""
        unit = run.progress.get("unit") or "steps"
        return f"It came to {step:,}{total} {unit}; its last saved state is kept."
    return "Nothing was lost: it had only begun."


def _tries(run: Run) -> list[dict[str, Any]]:
    """What to try after a failure, best first."""
    error = run.error or {}
    form = f"{reverse('new_run_kind', args=[run.kind])}?clone={run.pk}"
    resume = {
        "title": "Resume.",
        "text": "It goes on from the last saved state, with the same config and the same random numbers.",
        "url": reverse("run_resume", args=[run.pk]),
        "post": True,
        "action": "Resume",
    }
    change = {
        "title": "Clone with another config.",
        "text": "The form opens with this run's values; this run stays as it is.",
        "url": form,
        "action": "Clone and change",
    }
    tries = [change, resume] if error.get("field") else [resume, change]
    hint = error.get("hint")
    if hint:
        tries[0] = tries[0] | {"title": hint if hint.endswith((".", "!", "?")) else f"{hint}.", "text": ""}
    tries[0]["primary"] = True
    return tries


@require_POST
def cancel(request: HttpRequest, id: int) -> HttpResponse:
    return _done(request, id, services.cancel, "Run {} stops; what it has learnt so far is saved.")


@require_POST
def finish(request: HttpRequest, id: int) -> HttpResponse:
    return _done(request, id, services.finish, "Run {} ends after the step at hand, with what it has.")


@require_POST
def resume(request: HttpRequest, id: int) -> HttpResponse:
    return _done(request, id, services.resume, "Run {} goes on from its last saved state.")


def _done(request: HttpRequest, id: int, service: Any, text: str) -> HttpResponse:
    run = _get(id)
    try:
        service(run)
        messages.info(request, text.format(run.pk))
    except Conflict as error:
        messages.error(request, f"{capfirst(str(error))}.")
    return redirect("run", run.pk)


@require_http_methods(["GET", "POST"])
def clone(request: HttpRequest, id: int) -> HttpResponse:
    """GET opens the form with this run's values; POST starts the same run again as it is."""
    run = _get(id)
    form = f"{reverse('new_run_kind', args=[run.kind])}?clone={run.pk}"
    if request.method == "GET":
        return redirect(form)
    try:
        return redirect("run", services.clone(run, request.user).pk)
    except Invalid as error:
        messages.error(request, str(error))
        return redirect(form)


@require_POST
def delete(request: HttpRequest, id: int) -> HttpResponse:
    run = _get(id)
    try:
        services.delete(run)
    except Conflict as error:
        messages.error(request, f"{capfirst(str(error))}.")
        return redirect("run", run.pk)
    undo = f"{reverse('runs_restore')}?ids={run.pk}"
    messages.info(request, f"Run {run.pk} is deleted with what it made.", extra_tags=undo)
    return redirect("runs")


@require_POST
def rename(request: HttpRequest, id: int) -> HttpResponse:
    run = _get(id)
    try:
        services.rename(run, request.POST.get("name", ""))
    except Invalid as error:
        messages.error(request, str(error))
    return redirect("run", run.pk)


urlpatterns = [
    path("runs/<int:id>", run, name="run"),
    path("runs/<int:id>/cancel", cancel, name="run_cancel"),
    path("runs/<int:id>/finish", finish, name="run_finish"),
    path("runs/<int:id>/resume", resume, name="run_resume"),
    path("runs/<int:id>/clone", clone, name="run_clone"),
    path("runs/<int:id>/delete", delete, name="run_delete"),
    path("runs/<int:id>/rename", rename, name="run_rename"),
    path("runs/<int:id>/<str:tab>", run, name="run_tab"),
]
