"""Runs side by side: one plot for all, what differs in their configs, and a first sentence that is computed."""

import csv
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path, reverse

from core_ml.recipe import Measure
from lab.models import Run
from lab.pages.curves import measure_of, ordered
from lab.pages.selection import chosen
from lab.queries import runs
from lab.security import plots
from lab.templatetags.lab import number, signed

MAX_RUNS = 8
WORDS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight")


@plots
def compare(request: HttpRequest) -> HttpResponse:
    picked = [run for run in chosen(request.GET.get("ids", "").split(",")) if not run.deleted]
    too_many, picked = len(picked) > MAX_RUNS, picked[:MAX_RUNS]
    if len(picked) < 2:
        recent = runs.recent()[:20]
        return render(request, "runs/compare_pick.html", {"section": "runs", "recent": recent, "picked": picked}, status=200 if not picked else 422)  # fmt: skip
    compared = runs.compare(picked)
    if request.GET.get("format") == "csv":
        return _as_csv(picked, compared)
    reference = next((run for run in picked if str(run.pk) == request.GET.get("reference")), picked[0])
    names = ordered(picked[0], list(compared["metrics"]))
    name = request.GET.get("metric") if request.GET.get("metric") in names else (names[0] if names else None)
    measure = measure_of(picked[0], name) if name else None
    at = picked.index(reference)
    rows = _rows(picked, compared["metrics"][name], measure, reference) if name and measure else []
    context = {
        "section": "runs",
        "runs": picked,
        "keys": list(range(1, len(picked) + 1)),
        "reference": reference,
        "title": _title(picked),
        "sentence": _sentence(picked, rows, reference, measure),
        "too_many": too_many,
        "measure": measure,
        "metrics": [measure_of(picked[0], one) for one in names],
        "rows": rows,
        "plot": _plot(compared["metrics"][name], measure) if name and measure else None,
        "config": [
            {**row, "cells": [(value, repr(value) != repr(row["values"][at])) for value in row["values"]]}
            for row in compared["config"]
        ],
        "n_differ": sum(row["differs"] for row in compared["config"]),
        "summary": _numbers(compared["summary"], at),
        "ids": ",".join(str(run.pk) for run in picked),
        "base": reverse("compare"),
    }
    return render(request, "runs/compare.html", context)


def _title(picked: list[Run]) -> str:
    kinds = {run.kind for run in picked}
    return f"{WORDS[len(picked)]} {next(iter(kinds)) + ' ' if len(kinds) == 1 else ''}runs"


def _rows(
    picked: list[Run], curves: list[dict[str, Any]], measure: Measure, reference: Run
) -> list[dict[str, Any]]:
    """Last and best value of each run, and the distance of the last to the reference's."""
    found = []
    lower = measure.better == "lower"
    for run, points in zip(picked, curves, strict=True):
        values = [value for value in points["values"] if value is not None]
        extremes = [v for v in points.get("lows" if lower else "highs", points["values"]) if v is not None]
        found.append(
            {
                "run": run,
                "last": values[-1] if values else None,
                "best": (min if lower else max)(extremes, default=None),
                "n_steps": points["steps"][-1] if points["steps"] else None,
            }
        )
    standard = next(row["last"] for row in found if row["run"] == reference)
    bests = [row["best"] for row in found if row["best"] is not None]
    for row in found:
        row["distance"] = None if row["last"] is None or standard is None else row["last"] - standard
        row["is_best"] = row["best"] is not None and row["best"] == (min if lower else max)(bests)
    return found


def _sentence(picked: list[Run], rows: list[dict[str, Any]], reference: Run, measure: Measure | None) -> str:
    """What they share, and which stands best."""
    taken = [sorted((given.name, given.artifact_id) for given in run.inputs.all()) for run in picked]
    same = all(one == taken[0] for one in taken[1:])
    start = "Same inputs. " if same and taken[0] else "Their inputs differ. " if any(taken) else ""
    ranked = [row for row in rows if row["best"] is not None]
    if not ranked or measure is None:
        return f"{start}They share no curve, so only config and summary are set side by side."
    pick = min if measure.better == "lower" else max
    best = pick(ranked, key=lambda row: row["best"])
    unit = f" {measure.unit}" if measure.unit else ""
    words = f"{start}#{best['run'].pk} reached the best {measure.title.lower()}, {number(best['best'])}{unit}"
    other = next((row for row in rows if row["run"] == reference), None)
    if other and other["best"] is not None and other["run"] != best["run"]:
        words += f": {signed(best['best'] - other['best'])} against #{reference.pk}"
    return f"{words}."


def _plot(curves: list[dict[str, Any]], measure: Measure) -> dict[str, Any]:
    """Six pigments in order, then the same ones dashed; each curve carries its number at its end."""
    traces, ends = [], []
    for place, points in enumerate(curves):
        color, dash = f"--c{place % 6 + 1}", "solid" if place < 6 else "dash"
        traces.append(
            {
                "type": "scatter",
                "mode": "lines" if len(points["steps"]) > 1 else "markers",
                "name": f"#{points['run']}",
                "x": points["steps"],
                "y": points["values"],
                "line": {"color": color, "dash": dash, "width": 1.75},
            }
        )
        last = next(
            (i for i in reversed(range(len(points["values"]))) if points["values"][i] is not None), None
        )
        if last is not None:
            ends.append(
                {
                    "x": points["steps"][last],
                    "y": points["values"][last],
                    "text": f"<b>#{points['run']}</b>",
                    "xshift": 6,
                    "font": {"color": color},
                }
            )
    layout = {
        "height": 340,
        "margin": {"l": 52, "r": 60, "t": 10, "b": 40},
        "xaxis": {"title": {"text": "step"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": measure.unit}},
        "annotations": ends,
    }
    return {"data": traces, "layout": layout}


def _numbers(summary: list[dict[str, Any]], at: int) -> list[dict[str, Any]]:
    """The summary's single figures; lists and texts are read on the runs' own pages."""
    found = []
    for row in summary:
        if all(
            value is None or (isinstance(value, int | float) and not isinstance(value, bool))
            for value in row["values"]
        ):
            found.append({**row, "cells": [(value, value != row["values"][at]) for value in row["values"]]})
    return found


def _as_csv(picked: list[Run], compared: dict[str, Any]) -> HttpResponse:
    """One line a point: run, metric, step, value."""
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = 'attachment; filename="compare.csv"'
    out = csv.writer(response)
    out.writerow(["run", "metric", "step", "value"])
    for name, curves in compared["metrics"].items():
        for points in curves:
            for step, value in zip(points["steps"], points["values"], strict=True):
                out.writerow([points["run"], name, step, "" if value is None else value])
    return response


urlpatterns = [path("runs/compare", compare, name="compare")]
