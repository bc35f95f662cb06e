"""Reward models that can be asked where they disagree about a project's groups, and what was asked of which so far."""

from typing import Any

from lab.models import Artifact, Project, Run
from lab.models.run import SUCCEEDED
from lab.queries import artifacts, orders
from lab.services.labeling.doubts import KIND

MOST = 8
"""Reward models to choose among, the newest of the lab."""


def n_members(model: Artifact) -> int:
    """One that was made before there were ensembles says nothing, and is one."""
    return int(model.summary.get("n_members") or 1)


def asked(project: Project) -> list[Run]:
    """Runs over the project's rollouts, newest first."""
    return list(Run.objects.filter(kind=KIND, deleted=None, inputs__artifact=project.source_id).distinct())


def models_of(run: Run) -> list[Artifact]:
    return [one.artifact for one in run.inputs.filter(name="reward").select_related("artifact")]


def of(project: Project) -> dict[str, Any]:
    """The run at work and the one whose scores the groups have, each None where there is none; reward models to ask."""
    found = asked(project)
    scored = next((one for one in found if one.pk == project.scored_by), None)
    models = list(artifacts.visible("checkpoint").filter(role="reward")[:MOST])
    own = orders.reward_models(project).first()
    asked_of = models_of(scored) if scored else []
    newest = found[0] if found else None
    return {
        "n_scored": project.groups.filter(uncertainty__isnull=False).count(),
        "live": newest if newest and newest.is_live else None,
        # Between the end of a run and the sweep that takes its scores.
        "soon": newest if newest and newest.status == SUCCEEDED and newest.pk > project.scored_by else None,
        "failed": newest if newest and newest.error and not newest.is_live else None,
        "scored": scored,
        "asked_of": asked_of,
        "newer": own if scored and own and own not in asked_of else None,
        "models": [(one, n_members(one)) for one in models],
        "chosen": _suggested(models, own),
        "possible": sum(map(n_members, models)) > 1,
    }


def _suggested(models: list[Artifact], own: Artifact | None) -> list[str]:
    """Ids of a model with several members, if it can be one that learned from the project; else of the newest two."""
    several = [one for one in ([own] if own else []) + models if n_members(one) > 1]
    chosen = several[:1] or list(dict.fromkeys(([own] if own else []) + models))[:2]
    return [one.pk for one in chosen]
