"""The line of stones above a page: what a thing stands on, in the order in which it came about, and the thing itself."""

from collections.abc import Iterable
from typing import Any

from django.urls import reverse

from lab.models import Artifact, Project, Run
from lab.queries import lineage
from lab.queries.board import waiting_groups
from lab.templatetags.lab import letter, stone

MAX_STONES = 9
"""Before the thing itself."""


def chain(
    thing: Artifact | Run, this: str, *, after: Iterable[Run] = (), most: int = MAX_STONES
) -> list[dict[str, Any]]:
    """Items of components/chain.html: up to `most` runs and projects before a thing, itself, and what follows it."""
    before = [
        _of_run(one) if isinstance(one, Run) else _of_project(one) for one in lineage.chain(thing, most)
    ]
    run = thing if isinstance(thing, Run) else thing.run
    own = _of_run(run) if run else brought(thing)
    items = [*before, {**own, "url": address(thing), "name": this, "note": "", "current": True}]
    return items + [_of_run(one) | ({"note": "waits"} if one.is_waiting else {}) for one in after]


def brought(artifact: Artifact) -> dict[str, Any]:
    """The stone of what no run made: with its letter what people ranked, black where a program played them."""
    project = lineage.exported_from(artifact)
    simulated = project and artifact.summary.get("simulated") == artifact.summary.get("rankings")
    return {"number": letter(project) if project else "", "stone": "" if simulated else "people"}


def address(thing: Artifact | Run) -> str:
    return reverse("run" if isinstance(thing, Run) else thing.kind, args=[thing.pk])


def _of_run(run: Run) -> dict[str, Any]:
    url = reverse("run", args=[run.pk])
    return {
        "url": url,
        "number": run.pk,
        "stone": stone(run.status),
        "name": run.name,
        "note": "" if run.kind in run.name else run.kind,
    }


def _of_project(project: Project) -> dict[str, Any]:
    url = reverse("labeling_project", args=[project.pk])
    running = " running" if project.closed is None and waiting_groups(project)[0] else ""
    return {
        "url": url,
        "number": letter(project.pk),
        "stone": f"people{running}",
        "name": project.name,
        "note": "people",
    }
