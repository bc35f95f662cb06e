"""The reward model's order against the labelers': held-out groups, the worst disagreement first.

A reward run keeps ids, scores and orders beside its weights (core_ml/feedback/orders.py); prompts and answers are
those of a labelling project, or of the datasets that the run learned from, wherever their rankings were made. What comes
from a file is checked against the group before anything is shown of it.
"""

from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

from core_ml.artifact import Folder
from core_ml.errors import UserError
from core_ml.feedback.orders import FILE, MAX_GROUPS, as_share
from lab.models import Artifact, Group, Project
from lab.models.labeling import GROUP_ID
from lab.queries import artifacts, rows
from lab.queries.lineage import project_of


@dataclass(frozen=True)
class Orders:
    """Some groups of one reward model, and how many there are to look at."""

    items: list[dict[str, Any]]
    count: int


def exports(project: Project) -> QuerySet[Artifact]:
    """The datasets of rankings that were exported from a project, newest first."""
    source = {f"manifest__origin__inputs__{project.source.form}__0": project.source_id}
    return artifacts.visible("dataset").filter(
        form="rankings",
        manifest__origin__recipe="labeling",
        manifest__origin__config__project=project.pk,
        **source,
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
    kept = _kept(model)
    ids = [row.get("group_id") for row in kept]
    known = dict(project.groups.filter(metadata__group_id__in=ids).values_list(GROUP_ID, "pk"))
    found = [row for row in kept if row.get("group_id") in known]
    part = found[offset : offset + limit]
    groups = project.groups.in_bulk([known[row["group_id"]] for row in part])
    return Orders([_of_group(groups[known[row["group_id"]]], row) for row in part], len(found))


def of_model(model: Artifact, *, offset: int = 0, limit: int = 1) -> Orders:
    """As `of`, for any reward model: each group with its `dataset`, and its `project` and `task` where it has them.

    Groups whose dataset is not here any more have no prompt and no completions.
    Raises: UserError when a file is damaged.
    """
    kept = _kept(model)
    part = kept[offset : offset + limit]
    texts = _texts(model, [str(row.get("group_id")) for row in part])
    return Orders([_of_dataset(model, texts.get(str(row.get("group_id"))), row) for row in part], len(kept))


def _kept(model: Artifact) -> list[dict[str, Any]]:
    folder = Folder(artifacts.path(model))
    if all(file.path != FILE for file in folder.manifest.files):
        return []
    # In the order of the file, which is the order in which they are shown.
    sql = f"SELECT * FROM read_parquet($file) LIMIT {MAX_GROUPS}"
    return rows.fetch(folder.path, sql, {"file": str((folder.path / FILE).resolve())})


@dataclass(frozen=True)
class _Text:
    dataset: Artifact
    group_id: str
    prompt: str
    completions: list[str]


def _texts(model: Artifact, ids: list[str]) -> dict[str, _Text]:
    """By kept id. Of datasets that share an id, a later one's has its number behind it (core_ml/feedback/several.py)."""
    run = model.run
    given = (
        run.inputs.filter(name="rankings").order_by("position").select_related("artifact__run") if run else []
    )
    datasets = [(n, one.artifact) for n, one in enumerate(given, 1)]
    datasets = [(n, one) for n, one in datasets if one.run is None or one.run.deleted is None]
    found: dict[str, _Text] = {}
    for numbered in (False, True):
        for number, dataset in datasets:
            end = f"/{number}" if numbered else ""
            wanted = {id.removesuffix(end): id for id in ids if id not in found and id.endswith(end)}
            for text in _read(dataset, list(wanted)) if wanted else ():
                found[wanted[text.group_id]] = text
    return found


def _read(dataset: Artifact, ids: list[str]) -> list[_Text]:
    folder = Folder(artifacts.path(dataset))
    sql = (
        "SELECT group_id::VARCHAR AS group_id, first(prompt) AS prompt, first(completions) AS completions "
        "FROM read_parquet($files) WHERE list_contains($ids, group_id::VARCHAR) GROUP BY 1"
    )
    files = [str(path.resolve()) for path in folder.files(".parquet")]
    told = rows.fetch(folder.path, sql, {"files": files, "ids": ids})
    return [_Text(dataset, row["group_id"], row["prompt"], list(row["completions"])) for row in told]


def _of_group(group: Group, row: dict[str, Any]) -> dict[str, Any]:
    return {"task": group.pk, "project": group.project_id} | _item(
        f"group {group.pk}", group.prompt, group.completions, row
    )


def _of_dataset(model: Artifact, text: _Text | None, row: dict[str, Any]) -> dict[str, Any]:
    group = _group(text) if text else None
    about = (f"group {text.group_id}", text.prompt, text.completions) if text else ("it", None, None)
    return _item(*about, row) | {
        "group_id": text.group_id if text else row["group_id"],
        "dataset": text.dataset if text else None,
        "task": group.pk if group else None,
        "project": group.project_id if group else None,
        "shares": [as_share(score) for score in row["scores"]],
        "raw": [raw(model, score) for score in row["scores"]],
    }


def _group(text: _Text) -> Group | None:
    """The group of the project that the rankings were exported from, where there is one."""
    project = project_of(text.dataset)
    return project.groups.filter(metadata__group_id=text.group_id).first() if project else None


def _item(
    name: str, prompt: str | None, completions: list[str] | None, row: dict[str, Any]
) -> dict[str, Any]:
    """Raises: UserError when the file is not about this group's answers."""
    scores, order = row.get("scores") or [], row.get("labelers_order") or []
    n = len(scores) if completions is None else len(completions)
    placed = [index for tied in order for index in tied]
    if len(scores) != n or len(set(placed)) < len(placed) or not set(placed) <= set(range(n)):
        raise UserError(f"{FILE} does not fit {name}: it scores {len(scores)} answers and the group has {n}")
    return {
        "prompt": prompt,
        "completions": completions,
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
