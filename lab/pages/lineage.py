"""The line of stones above an artifact's page: all that it stands on, in the order in which it came about."""

from typing import Any

from django.urls import reverse

from lab.models import Artifact, Project, Run
from lab.queries.lineage import ancestors, exported_from
from lab.templatetags.lab import letter, stone

MAX_STONES = 9


def chain(artifact: Artifact, this: str) -> list[dict[str, Any]]:
    """Items of components/chain.html: the runs and the labelling projects before an artifact, and itself."""
    runs, projects, _ = ancestors(artifact)
    items = [
        (run.created, _of_run(run))
        for run in runs.values()
        if artifact.run_id is None or run.pk != artifact.run_id
    ]
    items += [(project.created, _of_project(project)) for project in projects.values()]
    line = [item for _, item in sorted(items, key=lambda pair: pair[0])][-MAX_STONES:]
    own = _of_run(artifact.run) if artifact.run else brought(artifact)
    return [*line, {**own, "url": address(artifact), "name": this, "note": "", "current": True}]


def brought(artifact: Artifact) -> dict[str, Any]:
    """The stone of what no run made: with its letter what people ranked, black where a program played them."""
    project = exported_from(artifact)
    simulated = project and artifact.summary.get("simulated") == artifact.summary.get("rankings")
    return {"number": letter(project) if project else "", "stone": "" if simulated else "people"}


def address(artifact: Artifact) -> str:
    return reverse(artifact.kind, args=[artifact.pk])


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
    running = "" if project.closed else " running"
    return {
        "url": url,
        "number": letter(project.pk),
        "stone": f"people{running}",
        "name": project.name,
        "note": "people",
    }
