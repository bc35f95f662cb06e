"""Reading runs: lists, one run whole, what is new since a listener last looked, several side by side."""

from typing import Any

from django.db.models import Q, QuerySet

from core_ml import recipes
from core_ml.errors import UserError
from core_ml.recipe import Measure, Recipe
from lab.models import LogLine, Run
from lab.queries import metrics as metric_queries
from lab.queries.metrics import best, curve, latest, names

Cursor = dict[str, Any]
"""What a listener has seen: {"version", "points": {metric: step}, "sample", "log", "figures": {name: step}}."""


def visible() -> QuerySet[Run]:
    return Run.objects.filter(deleted=None)


def recent(kind: str | None = None, status: str | None = None, q: str | None = None) -> QuerySet[Run]:
    """Newest first. `q` searches name, kind and note, or names a run by its number."""
    found = visible().select_related("created_by", "cloned_from")
    if kind:
        found = found.filter(kind=kind)
    if status:
        found = found.filter(status=status)
    if q := (q or "").strip():
        number = q.removeprefix("#")
        match = Q(name__icontains=q) | Q(kind__icontains=q) | Q(note__icontains=q)
        if number.isascii() and number.isdigit() and len(number) < 10:
            match |= Q(pk=int(number))
        found = found.filter(match)
    return found


def get(pk: int) -> Run:
    """Raises Run.DoesNotExist; a deleted run is found, so that it can be restored."""
    return Run.objects.select_related("created_by", "cloned_from").get(pk=pk)


def recipe_of(run: Run) -> Recipe | None:
    """None for a run of a kind that this version of the lab does not know."""
    try:
        return recipes.get(run.kind)
    except UserError:
        return None


def main_measure(run: Run) -> Measure | None:
    recipe = recipe_of(run)
    return recipe.measures[0] if recipe and recipe.measures else None


def metric_names(run: Run) -> list[str]:
    return names(run)


def metrics(
    run: Run,
    names: list[str] | None = None,
    after_step: int | None = None,
    before_step: int | None = None,
    max_points: int = 1000,
) -> dict[str, dict[str, list[Any]]]:
    """Down-sampled curves by metric name."""
    wanted = metric_names(run) if names is None else names
    return {name: curve(run, name, after_step, before_step, max_points) for name in wanted}


def latest_metrics(run: Run) -> dict[str, float | None]:
    return latest(run)


def best_of(run: Run) -> float | None:
    """The best value that the recipe's main measure has had in this run."""
    measure = main_measure(run)
    return best(run, measure.name, measure.better) if measure else None


def status(run: Run) -> dict[str, Any]:
    """The short state of a run that changes while it lives."""
    return {
        "id": run.pk,
        "name": run.name,
        "kind": run.kind,
        "status": "waiting" if run.is_waiting else run.status,
        "attempt": run.attempt,
        "progress": {
            key: run.progress.get(key) for key in ("step", "total", "unit", "message", "rate", "seconds_left")
        }
        if run.progress
        else None,
        "cancel_requested": run.cancel_requested is not None,
        "summary": run.summary,
        "error": {key: run.error.get(key) for key in ("message", "field", "hint")} if run.error else None,
        "started": run.started.isoformat() if run.started else None,
        "ended": run.ended.isoformat() if run.ended else None,
    }


def changes(run: Run, cursor: Cursor) -> tuple[dict[str, Any], Cursor]:
    """What is new about a run since a cursor, and the next cursor. An empty cursor means all of it.

    Call with a fresh run. A run that was resumed from an earlier step tells its curves from the beginning:
    `"restarted": true` asks the listener to forget what it has drawn.
    """
    if cursor.get("version") == run.version:
        return {}, cursor
    attempt = run.attempts.count()
    restarted = bool(cursor) and cursor.get("attempt") != attempt
    seen: Cursor = {} if restarted else cursor
    payload: dict[str, Any] = {"status": status(run)}
    if restarted:
        payload["restarted"] = True
    new_points = metric_queries.points_after(run, seen.get("points", {}))
    if new_points:
        payload["metrics"] = new_points
    samples = list(run.samples.filter(id__gt=seen.get("sample", 0)).order_by("-id")[:60])[::-1]
    if samples:
        payload["samples"] = [
            {"id": s.pk, "step": s.step, "prompt": s.prompt, "text": s.text, "data": s.data} for s in samples
        ]
    log = list(run.log.filter(id__gt=seen.get("log", 0)).order_by("-id")[:200])[::-1]
    if log:
        payload["log"] = [log_line(line) for line in log]
    figures = [
        figure for figure in run.figures.all() if seen.get("figures", {}).get(figure.name) != figure.step
    ]
    if figures:
        payload["figures"] = [
            {"name": f.name, "step": f.step, "title": f.title, "finding": f.finding, "content": f.content}
            for f in figures
        ]
    return payload, {
        "version": run.version,
        "attempt": attempt,
        "points": seen.get("points", {})
        | {name: c["steps"][-1] for name, c in new_points.items() if c["steps"]},
        "sample": samples[-1].pk if samples else seen.get("sample", 0),
        "log": log[-1].pk if log else seen.get("log", 0),
        "figures": seen.get("figures", {}) | {figure.name: figure.step for figure in figures},
    }


def log_line(line: LogLine) -> dict[str, Any]:
    return {"id": line.pk, "time": line.time.isoformat(), "level": line.level, "message": line.message}


def log_tail(run: Run, n: int = 200) -> list[LogLine]:
    return list(run.log.order_by("-id")[:n])[::-1]


def config_differences(run: Run) -> list[dict[str, Any]]:
    """Fields of the config that differ from the preset it began with (or the defaults), in the form's order."""
    recipe = recipe_of(run)
    if recipe is None:
        return []
    preset = recipe.preset(run.preset) if run.preset else None
    base = recipe.config.model_validate(preset.config if preset else {}).model_dump(mode="json")
    return [
        {"field": field, "base": base.get(field), "value": value}
        for field, value in run.config.items()
        if base.get(field) != value
    ]


def compare(runs: list[Run], max_points: int = 500) -> dict[str, Any]:
    """Configs side by side with what differs marked, curves of shared metrics, summaries."""
    fields = list(dict.fromkeys(field for run in runs for field in run.config))
    config = [
        {
            "field": field,
            "values": [run.config.get(field) for run in runs],
            "differs": len({repr(run.config.get(field)) for run in runs}) > 1,
        }
        for field in fields
    ]
    all_names = [set(metric_names(run)) for run in runs]
    shared = sorted(set.intersection(*all_names)) if all_names else []
    return {
        "runs": [status(run) for run in runs],
        "config": config,
        "metrics": {
            name: [curve(run, name, max_points=max_points) | {"run": run.pk} for run in runs]
            for name in shared
        },
        "summary": [
            {"key": key, "values": [run.summary.get(key) for run in runs]}
            for key in dict.fromkeys(key for run in runs for key in run.summary)
        ],
    }
