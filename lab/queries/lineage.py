"""What an artifact stands on: the runs, labelling projects and artifacts before it, and what it was taught with."""

from dataclasses import dataclass
from typing import Any

from core_ml.errors import UserError
from lab.models import Artifact, Project, Run
from lab.queries import rows
from lab.queries.artifacts import inputs_of

MIN_PASSAGE, MAX_PASSAGE = 8, 200
N_EXCERPTS, AROUND = 5, 90


@dataclass(frozen=True)
class Places:
    """Where a passage stands in one dataset: the number of its rows, and the first few as
    {"title", "before", "passage", "after"}."""

    dataset: Artifact
    count: int
    items: list[dict[str, str]]


def exported_from(artifact: Artifact) -> int | None:
    """The number of the labelling project that a dataset of rankings was exported from."""
    origin = artifact.manifest.get("origin", {})
    number = _number(origin.get("config", {}).get("project"))
    return number if origin.get("recipe") == "labeling" else None


def project_of(artifact: Artifact) -> Project | None:
    """The project itself. What another lab exported may name a number that is another project's here."""
    found = Project.objects.select_related("source").filter(pk=exported_from(artifact) or 0).first()
    return found if found and found.source_id in inputs_of(artifact) else None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and 0 < value < 2**31 else None


def ancestors(thing: Artifact | Run) -> tuple[dict[int, Run], dict[int, Project], dict[str, Artifact]]:
    """All runs, projects and artifacts above a thing, by id; of an artifact its own run is among them."""
    runs: dict[int, Run] = {}
    projects: dict[int, Project] = {}
    taken: dict[str, Artifact] = {}
    waiting = [thing] if isinstance(thing, Artifact) else _taken_by(thing)
    taken |= {one.pk: one for one in waiting if one is not thing}
    seen = {one.pk for one in waiting}
    while waiting:
        made = waiting.pop()
        above: list[Artifact] = []
        if made.run_id and made.run_id not in runs:
            assert made.run is not None
            runs[made.run_id] = made.run
            above = _taken_by(made.run)
        elif not made.run_id:
            if project := project_of(made):
                projects[project.pk] = project
            above = list(Artifact.objects.filter(pk__in=inputs_of(made)).select_related("run"))
        waiting += [one for one in above if one.pk not in seen]
        seen |= {one.pk for one in above}
        taken |= {one.pk: one for one in above}
    return runs, projects, taken


def _taken_by(run: Run) -> list[Artifact]:
    return [given.artifact for given in run.inputs.select_related("artifact__run")]


def chain(thing: Artifact | Run, most: int) -> list[Run | Project]:
    """The runs and labelling projects that a thing stands on, in the order in which they came about; the last
    `most` of them. What made an artifact is the artifact's own stone and not among them."""
    runs, projects, _ = ancestors(thing)
    own = thing.run_id if isinstance(thing, Artifact) else thing.pk
    before: list[Run | Project] = [*(run for run in runs.values() if run.pk != own), *projects.values()]
    return sorted(before, key=lambda one: one.created)[-most:]


def trained_on(model: Artifact, text: str) -> tuple[str, list[Places]]:
    """Where a passage stands, word for word, in the texts that a model was trained on.

    Returns: the passage as it was sought, its blanks made single, and where it stands.
    Raises: UserError when the passage is too short to tell anything.
    """
    passage = " ".join(text.replace("\0", "").split())[:MAX_PASSAGE]
    if len(passage) < MIN_PASSAGE:
        raise UserError(
            f"Choose at least {MIN_PASSAGE} characters: shorter passages stand everywhere.", field="q"
        )
    _, _, taken = ancestors(model)
    found = []
    for dataset in taken.values():
        if dataset.form not in ("documents", "conversations"):
            continue
        try:
            part = rows.page(dataset, q=passage, limit=N_EXCERPTS)
        except UserError:
            continue
        found.append(Places(dataset, part.count, [_excerpt(row, passage) for row in part.items]))
    return passage, found


def _excerpt(row: dict[str, Any], passage: str) -> dict[str, str]:
    texts = (
        [row["text"] or ""]
        if "text" in row
        else [message["content"] or "" for message in row.get("messages") or []]
    )
    text = next((one for one in texts if passage.lower() in one.lower()), "")
    at = max(0, text.lower().find(passage.lower()))
    return {
        "title": str(row.get("url") or f"row {row['number'] + 1:,}")[:200],
        "before": text[max(0, at - AROUND) : at],
        "passage": text[at : at + len(passage)],
        "after": text[at + len(passage) : at + len(passage) + AROUND],
    }
