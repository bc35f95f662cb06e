"""The reward model's order against the labelers': held-out groups of a project, the worst disagreement first.

A reward run keeps ids, scores and orders beside its weights (core_ml/feedback/orders.py); prompts and answers are
the project's own. What comes from a file is checked against the group before anything is shown of it.
"""

from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

from core_ml.artifact import Folder
from core_ml.errors import UserError
from core_ml.feedback.orders import FILE, MAX_GROUPS
from lab.models import Artifact, Group, Project
from lab.queries import artifacts, rows


@dataclass(frozen=True)
class Orders:
    """Some groups of one reward model, and how many there are to look at."""

    items: list[dict[str, Any]]
    count: int


def exports(project: Project) -> QuerySet[Artifact]:
    """The datasets of rankings that were exported from a project, newest first."""
    return artifacts.visible("dataset").filter(
        form="rankings", manifest__origin__recipe="labeling", manifest__origin__config__project=project.pk
    )


def reward_models(project: Project) -> QuerySet[Artifact]:
    """The reward models that learned from a project's exports, newest first."""
    taught = exports(project).values("pk")
    return (
        artifacts.visible("checkpoint")
        .filter(role="reward", run__inputs__artifact__in=taught)
        .distinct()
        .order_by("-run_id")
    )


def of(project: Project, model: Artifact, *, offset: int = 0, limit: int = 1) -> Orders:
    """Groups `offset` to `offset + limit` that a reward model and the labelers order least alike.

    Raises: UserError when the model's file is damaged. A model that kept no orders has none.
    """
    folder = Folder(artifacts.path(model))
    if all(file.path != FILE for file in folder.manifest.files):
        return Orders([], 0)
    # In the order of the file, which is the order in which they are shown.
    sql = f"SELECT * FROM read_parquet($file) LIMIT {MAX_GROUPS}"
    kept = rows.fetch(folder.path, sql, {"file": str((folder.path / FILE).resolve())})
    ids = [row.get("group_id") for row in kept]
    known = dict(project.groups.filter(metadata__group_id__in=ids).values_list("metadata__group_id", "pk"))
    found = [row for row in kept if row.get("group_id") in known]
    part = found[offset : offset + limit]
    groups = project.groups.in_bulk([known[row["group_id"]] for row in part])
    return Orders([_item(groups[known[row["group_id"]]], row) for row in part], len(found))


def _item(group: Group, row: dict[str, Any]) -> dict[str, Any]:
    """Raises: UserError when the file is not about this group's answers."""
    n, scores, order = len(group.completions), row.get("scores") or [], row.get("labelers_order") or []
    placed = [index for tied in order for index in tied]
    if len(scores) != n or len(set(placed)) < len(placed) or not set(placed) <= set(range(n)):
        raise UserError(
            f"{FILE} does not fit group {group.pk}: it scores {len(scores)} answers and the group has {n}"
        )
    return {
        "task": group.pk,
        "prompt": group.prompt,
        "completions": group.completions,
        "scores": scores,
        "labelers_order": order,
        "model_order": _by_score(scores),
        **{name: row[name] for name in ("pairs", "agree", "rankings", "simulated")},
    }


def _by_score(scores: list[float]) -> list[list[int]]:
    """Best first; equal scores share a place."""
    return [
        [index for index, score in enumerate(scores) if score == value]
        for value in sorted(set(scores), reverse=True)
    ]


def raw(model: Artifact, score: float) -> float:
    """The model's own number, before it was set to the answers that it was trained on."""
    mean, std = (model.summary.get(name) for name in ("reward_mean", "reward_std"))
    known = isinstance(mean, int | float) and isinstance(std, int | float)
    return score * std + mean if known else score  # type: ignore[operator]


def places(order: list[list[int]]) -> dict[int, int]:
    """By answer its place as sports count them: 1, 2, 2, 4."""
    found, place = {}, 1
    for tied in order:
        found |= dict.fromkeys(tied, place)
        place += len(tied)
    return found
