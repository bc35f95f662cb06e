"""Every component in every state, from the same templates as the pages."""

from types import SimpleNamespace
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path

from lab.models import Run
from lab.models.run import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED
from lab.security import plots

INKS = ("ink", "ink-2", "ink-3", "link", "ok", "fail", "now", "edge", "now-mark")
CURVE = [3.1, 2.7, 2.45, 2.32, 2.24, 2.19, 2.16, 2.13, 2.12, 2.1]


def _run(pk: int, status: str) -> Run:
    """A run that is never saved: specimens show invented figures."""
    return Run(pk=pk, kind="pretrain", name=f"specimen {pk}", status=status)


@plots
def styleguide(request: HttpRequest) -> HttpResponse:
    failed = _run(40, FAILED)
    failed.error = {"message": "The disk filled up while the specimen was writing.", "field": "config.path"}
    context: dict[str, Any] = {
        "stones": [
            (_run(37, SUCCEEDED), "succeeded"),
            (_run(41, RUNNING), "running"),
            (_run(42, QUEUED), "queued"),
            (failed, "failed"),
            (_run(19, CANCELLED), "cancelled"),
        ],
        "projects": [SimpleNamespace(pk=1, closed=True), SimpleNamespace(pk=2, closed=None)],
        "failed": failed,
        "tries": [
            {"title": "Free some space, then resume.", "text": "", "url": "#", "action": "Resume", "primary": True},
            {"title": "Write elsewhere.", "text": "Set path to a disk with room.", "url": "#", "action": "Change"},
        ],
        "inks": INKS,
        "curve": CURVE,
        "chain": [
            {"url": "#chain", "number": 14, "stone": "", "name": "pages", "note": "documents"},
            {"url": "#chain", "number": 41, "stone": "running", "name": "this run", "current": True},
            {"url": "#chain", "number": 42, "stone": "waiting", "name": "chat", "note": "waits"},
        ],
        "fields": [
            {"id": "f1", "name": "f1", "label": "Steps", "type": "number", "value": "350", "unit": "steps", "hint": "Updates of the weights."},
            {"id": "f2", "name": "f2", "label": "Learning rate", "type": "number", "value": "0.02", "error": "0.02 is 20 times what #21 used. Try 0.0008."},
            {"id": "f3", "name": "f3", "label": "Schedule", "type": "select", "options": [{"value": "wsd", "label": "wsd", "chosen": True}], "hint": "How the rate falls."},
            {"id": "f4", "name": "f4", "label": "tie_embeddings", "type": "check", "value": True, "hint": "Fewer parameters."},
        ],
        "plot": {
            "data": [{"type": "scatter", "y": CURVE, "x": list(range(10)), "line": {"color": f"--c{i}"}} for i in (1,)]
            + [{"type": "scatter", "y": [v + 0.1 * i for v in CURVE], "x": list(range(10))} for i in range(1, 6)],
            "layout": {"height": 260, "xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": "bits per byte"}}},
        },
    }  # fmt: skip
    return render(request, "home/styleguide.html", context)


urlpatterns = [path("styleguide", styleguide, name="styleguide")]
