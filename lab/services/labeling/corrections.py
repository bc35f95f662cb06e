"""Corrections of rankings that were made elsewhere: a project over the dataset itself, which nobody is asked to rank.

It holds the groups that a researcher opened, each as the dataset has it. Its export (export.py) is the whole dataset, in
which a settled order stands in place of the rankings that its group had.
"""

from pathlib import Path

from django.db import transaction
from django.utils import timezone

from core_ml.artifact import Folder
from core_ml.feedback.sets import stored
from core_ml.feedback.sets.ranked import OF_A_VOTE, Ranked
from lab.errors import FieldError, Invalid
from lab.models import Account, Artifact, Group, Project
from lab.queries.lineage import project_of
from lab.services import artifacts
from lab.services.storable import storable


def correct(dataset: Artifact, group_id: str, account: Account | None = None) -> Group:
    """The group of a dataset of rankings as one that can be settled; asked for again, it is the same one.

    An export of a project has its groups there; any other dataset has a project of its own, made with the first of them.
    Raises: Invalid for another form, or a group that is not there or has fewer than two answers with texts.
    """
    if dataset.form != "rankings":
        what = f"{dataset.kind} {dataset.what}".strip()
        text = f"only an order in a dataset of rankings can be corrected, and {dataset.name} is a {what}"
        raise Invalid([FieldError("dataset", text)])
    project = project_of(dataset)
    if project is not None:
        if group := project.groups.filter(metadata__group_id=group_id).first():
            return group
        if project.corrects:
            dataset = project.source
    ranked = _read(dataset, group_id)
    with transaction.atomic():
        # Whoever comes second waits here, and finds what the first one made.
        Artifact.objects.select_for_update().get(pk=dataset.pk)
        if project is None or not project.corrects:
            project = dataset.projects.order_by("pk").first() or Project.objects.create(
                name=f"corrections of {dataset.name}"[:100],
                source=dataset,
                created_by=account,
                closed=timezone.now(),
            )
        group = project.groups.filter(metadata__group_id=group_id).first()
        return group or Group.objects.create(
            project=project,
            index=project.groups.count(),
            prompt=storable(ranked.prompt),
            completions=[storable(text) for text in ranked.completions],
            metadata={
                "group_id": group_id,
                "places": ranked.metadata.get("places") or list(range(len(ranked.completions))),
                "metadata": storable({k: v for k, v in ranked.metadata.items() if k not in OF_A_VOTE}),
            },
        )


def votes(group: Group) -> Ranked:
    """What the dataset says of a group that is corrected: its texts, and the rankings that the correction replaces."""
    return _read(group.project.source, group.metadata["group_id"])


def _read(dataset: Artifact, group_id: str) -> Ranked:
    found = next(stored.groups(_paths(dataset), only=group_id), None)
    if found is None:
        text = f"{dataset.name} has no group {group_id[:80]!r}: take an id from its column group_id"
        raise Invalid([FieldError("group_id", text)])
    if len(found.completions) < 2 or found.metadata.get("without_texts"):
        text = f"group {group_id[:80]!r} of {dataset.name} has no two answers whose texts are known: there is no order to correct"  # fmt: skip
        raise Invalid([FieldError("group_id", text)])
    return found


def _paths(dataset: Artifact) -> list[Path]:
    return Folder(artifacts.local_path(dataset)).files(".parquet")
