"""Reading artifacts: what fits an input, where the files are, and where a thing comes from and goes to."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.db.models import Q, QuerySet

from core_ml.recipe import Recipe
from lab.models import Artifact, Run, RunInput
from lab.services.artifacts import local_path

JUDGED = ("labeling", "arena")
"""Origins of rankings that people made; their inputs name what was judged."""


def visible(kind: str | None = None, q: str | None = None) -> QuerySet[Artifact]:
    """Artifacts of runs that are not deleted, newest first."""
    found = Artifact.objects.filter(Q(run=None) | Q(run__deleted=None)).select_related("run")
    if kind:
        found = found.filter(kind=kind)
    if q := (q or "").strip():
        found = found.filter(Q(name__icontains=q) | Q(pk__icontains=q) | Q(form=q) | Q(role=q))
    return found


def find(kind: str, id: str, **more: Any) -> Artifact | None:
    """The artifact of this kind whose id an address or a form has sent, whatever that holds."""
    return visible(kind).filter(pk=id[:80].replace("\0", ""), **more).first()


def options(recipe: Recipe, input_name: str) -> QuerySet[Artifact]:
    """The artifacts that an input accepts, newest first."""
    wanted = recipe.takes[input_name]
    found = visible(wanted.kind)
    if wanted.accepts:
        found = found.filter(Q(form__in=wanted.accepts) | Q(role__in=wanted.accepts))
    return found


def path(artifact: Artifact) -> Path:
    """The artifact's folder on this machine; fetched first when the store is elsewhere."""
    return local_path(artifact)


def lineage(thing: Artifact | Run, depth: int = 30) -> dict[str, Any]:
    """All ancestors and descendants of an artifact or a run, as runs and artifacts with the edges between.

    Nodes are {"id": "run:41" | "artifact:…", "type", "name", …}; edges are [from, to] in the order of the life.
    """
    artifacts: dict[str, Artifact] = {}
    runs: dict[int, Run] = {}
    edges: set[tuple[str, str]] = set()
    if isinstance(thing, Artifact):
        artifacts[thing.pk] = thing
    else:
        runs[thing.pk] = thing
    up_runs, up_artifacts = set(runs), set(artifacts)
    down_runs, down_artifacts = set(runs), set(artifacts)
    for _ in range(depth):
        up_runs, up_artifacts = _step_up(up_runs, up_artifacts, artifacts, runs, edges)
        down_runs, down_artifacts = _step_down(down_runs, down_artifacts, artifacts, runs, edges)
        if not (up_runs or up_artifacts or down_runs or down_artifacts):
            break
    nodes = [
        {
            "id": f"run:{r.pk}",
            "type": "run",
            "number": r.pk,
            "name": r.name,
            "kind": r.kind,
            "status": r.status,
        }
        for r in sorted(runs.values(), key=lambda r: r.pk)
    ] + [
        {"id": f"artifact:{a.pk}", "type": a.kind, "artifact": a.pk, "name": a.name, "what": a.what}
        for a in artifacts.values()
    ]
    nodes += _judgements(artifacts, edges)
    return {"nodes": nodes, "edges": sorted(edges)}


def _step_up(
    up_runs: set[int],
    up_artifacts: set[str],
    artifacts: dict[str, Artifact],
    runs: dict[int, Run],
    edges: set[tuple[str, str]],
) -> tuple[set[int], set[str]]:
    next_runs: set[int] = set()
    next_artifacts: set[str] = set()
    for artifact in Artifact.objects.filter(pk__in=up_artifacts).select_related("run"):
        if artifact.run is None:
            for source in Artifact.objects.filter(pk__in=_judged_by_people(artifact)):
                if source.pk not in artifacts:
                    artifacts[source.pk] = source
                    next_artifacts.add(source.pk)
            continue
        edges.add((f"run:{artifact.run_id}", f"artifact:{artifact.pk}"))
        if artifact.run_id not in runs:
            runs[artifact.run.pk] = artifact.run
            next_runs.add(artifact.run.pk)
    for taken in RunInput.objects.filter(run__in=up_runs | next_runs).select_related("artifact"):
        edges.add((f"artifact:{taken.artifact_id}", f"run:{taken.run_id}"))
        if taken.artifact_id not in artifacts:
            artifacts[taken.artifact_id] = taken.artifact
            next_artifacts.add(taken.artifact_id)
    return set(), next_artifacts


def inputs_of(artifact: Artifact) -> list[str]:
    """Ids of what an artifact was made from, as it tells itself."""
    return [id for ids in artifact.manifest.get("origin", {}).get("inputs", {}).values() for id in ids]


def _judged_by_people(artifact: Artifact) -> list[str]:
    """Of rankings that people made: the dataset of a labelling project, or the models that met in the arena."""
    return inputs_of(artifact) if artifact.manifest.get("origin", {}).get("recipe") in JUDGED else []


def _judgements(artifacts: dict[str, Artifact], edges: set[tuple[str, str]]) -> list[dict[str, Any]]:
    """Nodes of the labelling projects and of the arena between what was judged and the rankings; adds their edges.

    A model that learned from the arena may meet others there: so that the graph has no ring, each export of votes
    has an arena of its own.
    """
    nodes: dict[str, dict[str, Any]] = {}
    for artifact in artifacts.values():
        sources, project = _judged_by_people(artifact), artifact.summary.get("project")
        if not sources:
            continue
        if "hunt" in artifact.summary:  # marked on the page of the hunt itself
            edges.update(
                (f"artifact:{one}", f"artifact:{artifact.pk}") for one in sources if one in artifacts
            )
            continue
        if isinstance(project, int):
            node = {"id": f"project:{project}", "type": "project", "project": project, "name": artifact.name}
        else:
            node = {"id": f"arena:{artifact.pk}", "type": "arena", "name": "Arena"}
        nodes[str(node["id"])] = node
        edges.add((str(node["id"]), f"artifact:{artifact.pk}"))
        edges.update((f"artifact:{source}", str(node["id"])) for source in sources if source in artifacts)
    return list(nodes.values())


def _step_down(
    down_runs: set[int],
    down_artifacts: set[str],
    artifacts: dict[str, Artifact],
    runs: dict[int, Run],
    edges: set[tuple[str, str]],
) -> tuple[set[int], set[str]]:
    next_runs: set[int] = set()
    next_artifacts: set[str] = set()
    for artifact in Artifact.objects.filter(run__in=down_runs):
        edges.add((f"run:{artifact.run_id}", f"artifact:{artifact.pk}"))
        if artifact.pk not in artifacts:
            artifacts[artifact.pk] = artifact
        next_artifacts.add(artifact.pk)
    for ranked in Artifact.objects.filter(run=None, form="rankings"):
        if set(_judged_by_people(ranked)) & (down_artifacts | next_artifacts) and ranked.pk not in artifacts:
            artifacts[ranked.pk] = ranked
            next_artifacts.add(ranked.pk)
    taken_by = RunInput.objects.filter(artifact__in=down_artifacts | next_artifacts, run__deleted=None)
    for taken in taken_by.select_related("run"):
        edges.add((f"artifact:{taken.artifact_id}", f"run:{taken.run_id}"))
        if taken.run_id not in runs:
            runs[taken.run.pk] = taken.run
            next_runs.add(taken.run.pk)
    return next_runs, set()


def summaries(artifacts: Iterable[Artifact]) -> list[dict[str, Any]]:
    return [artifact.summary for artifact in artifacts]
