"""How uncertain a project's groups are, asked of reward models: a run is queued, and its scores are taken when it has ended.

Whoever queued a run of that kind over a project's rollouts, from its page, the form or the API: the newest that has ended
counts. An older one that ends later is passed over.
"""

import json
from collections.abc import Sequence

from django.db import transaction
from django.db.models import F

from core_ml import parquet
from core_ml.artifact import Folder
from lab.errors import FieldError, Invalid
from lab.models import Account, Artifact, Project, Run, RunInput
from lab.models.labeling import GROUP_ID
from lab.models.run import SUCCEEDED
from lab.services import artifacts, runs
from lab.services.labeling.turns import set_uncertainty

KIND = "uncertainty"


def ask(project: Project, models: Sequence[str], account: Account | None = None) -> Run:
    """Queue a run that asks these reward models (by id) where they disagree about the project's groups.

    Raises: Invalid when they are no reward models, or have but one member in all.
    """
    known = Artifact.objects.filter(pk__in=models, role="reward")
    if len(known) == len(models) and sum(one.summary.get("n_members") or 1 for one in known) < 2:
        text = "one reward model alone disagrees with nobody: choose several, or one with several members"
        raise Invalid([FieldError("reward", text)])
    return runs.submit(
        kind=KIND,
        name=f"where models disagree: {project.name}"[:100],
        inputs={"reward": list(models), "rollouts": project.source_id},
        account=account,
    )


def take_scores() -> None:
    """Store what runs came to in the projects over their rollouts. Called by the sweep; done twice, it counts once."""
    ended = RunInput.objects.filter(
        name="rollouts",
        run__kind=KIND,
        run__status=SUCCEEDED,
        run__deleted=None,
        run__gt=F("artifact__projects__scored_by"),
    )
    newest = dict(ended.order_by("run").values_list("artifact__projects", "run"))
    for project, run in newest.items():
        _take(Project.objects.get(pk=project), Run.objects.get(pk=run))


def _take(project: Project, run: Run) -> None:
    made = run.artifacts.get(output="rollouts")
    scores = _scores(made)
    names = set(project.groups.values_list(GROUP_ID, flat=True))
    with transaction.atomic():
        # One change of this row, so that of two sweeps at a time one stores the scores.
        if Project.objects.filter(pk=project.pk, scored_by__lt=run.pk).update(scored_by=run.pk):
            set_uncertainty(project, {name: scores[name] for name in names & set(scores)})


def _scores(made: Artifact) -> dict[str, float]:
    found = {}
    for path in Folder(artifacts.local_path(made)).files(".parquet"):
        with parquet.open_file(path) as file:
            for row in parquet.rows(file, ["group_id", "metadata"]):
                uncertainty = json.loads(row["metadata"] or "{}").get("uncertainty")
                if uncertainty is not None:
                    found[str(row["group_id"])] = float(uncertainty)
    return found
