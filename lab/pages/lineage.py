"""The line of stones above an artifact's page: all that it stands on, in the order in which it came about."""

from typing import Any

from django.urls import reverse

from lab.models import Artifact, Project, Run
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


def exported_from(artifact: Artifact) -> int | None:
    """The number of the labelling project that a dataset of rankings was exported from."""
    origin = artifact.manifest.get("origin", {})
    number = _number(origin.get("config", {}).get("project"))
    return number if origin.get("recipe") == "labeling" else None


def address(artifact: Artifact) -> str:
    return reverse(artifact.kind, args=[artifact.pk])


def ancestors(artifact: Artifact) -> tuple[dict[int, Run], dict[int, Project], dict[str, Artifact]]:
    """All runs, projects and artifacts above an artifact, by id; its own run is among them."""
    runs: dict[int, Run] = {}
    projects: dict[int, Project] = {}
    taken: dict[str, Artifact] = {}
    seen, waiting = {artifact.pk}, [artifact]
    while waiting:
        made = waiting.pop()
        above: list[Artifact] = []
        if made.run_id and made.run_id not in runs:
            assert made.run is not None
            runs[made.run_id] = made.run
            above = [given.artifact for given in made.run.inputs.select_related("artifact__run")]
        elif not made.run_id:
            if project := Project.objects.filter(pk=exported_from(made)).first():
                projects[project.pk] = project
            ids = [id for given in made.manifest.get("origin", {}).get("inputs", {}).values() for id in given]
            above = list(Artifact.objects.filter(pk__in=ids).select_related("run"))
        waiting += [one for one in above if one.pk not in seen]
        seen |= {one.pk for one in above}
        taken |= {one.pk: one for one in above}
    return runs, projects, taken


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 < value < 2**31 else None


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
