"""Labelling projects: made over rollouts, their settings changed, closed, opened again, removed."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.db import transaction
from django.utils import timezone

from core_ml import parquet
from core_ml.artifact import Folder
from lab.errors import Conflict, FieldError, Invalid
from lab.models import FLAGS, NEXT, Account, Artifact, Group, Project, Tour
from lab.services import artifacts
from lab.services.labeling import orders, turns
from lab.services.storable import storable

MAX_RANKINGS_PER_GROUP = 10
MAX_ANSWERS = 9
"""Of one group: as many as there are digits to pick them with."""
MAX_EVERY = 1000
SCALES = (0, 5, 7)
"""How many marks there are; 7 are those of Ouyang et al. 2022, and 0 asks for none."""
MAX_EXAMPLES = 10
EXAMPLE = ("prompt", "better", "worse", "why")
BATCH = 1000
COLUMNS = ("group_id", "prompt", "completions", "ended", "metadata")


def create_project(
    name: str,
    source_artifact: Artifact,
    instructions: str = "",
    rankings_per_group: int = 1,
    account: Account | None = None,
    tour: Tour | None = None,
    **settings: Any,
) -> Project:
    """A project over a rollouts dataset; `settings` are those of `change`.

    A rollout whose metadata has `gold`, an order of its completions, makes a gold group; `uncertainty` is a number.
    Raises: Invalid for another form, for a setting that will not do, or when no group has two answers.
    """
    settings |= {"name": name, "instructions": instructions, "rankings_per_group": rankings_per_group}
    errors = _wrong(settings)
    if source_artifact.kind != "dataset" or source_artifact.form != "rollouts":
        what = f"{source_artifact.kind} {source_artifact.what}".strip()
        errors.append(
            FieldError("source", f"only rollouts can be ranked, and {source_artifact.name} is a {what}")
        )
    if errors:
        raise Invalid(errors)
    rows = _rollouts(artifacts.local_path(source_artifact))
    with transaction.atomic():
        project = Project.objects.create(
            source=source_artifact, created_by=account, tour=tour, **_settled(settings)
        )
        Group.objects.bulk_create(_groups(project, rows), batch_size=BATCH)
        if not project.groups.exists():
            text = (
                f"{source_artifact.name} has no group with two different answers: sample more of each prompt"
            )
            raise Invalid([FieldError("source", text)])
        turns.deal(project)
    return project


def change(project: Project, **settings: Any) -> Project:
    """Change some of: name, instructions, examples, rankings_per_group, flags, scale, asks_comment,
    asks_correction, next_group, gold_every, repeat_every. Rankings that are there stay as they are.

    Raises: Invalid by field.
    """
    if errors := _wrong(settings):
        raise Invalid(errors)
    with transaction.atomic():
        project = Project.objects.select_for_update().get(pk=project.pk)
        deals = settings.get("next_group", project.next_group) != project.next_group
        for name, value in _settled(settings).items():
            setattr(project, name, value)
        project.save()
        if deals:
            turns.deal(project)
    return project


def _wrong(given: dict[str, Any]) -> list[FieldError]:
    errors = []
    if "name" in given and not 0 < (length := len(given["name"].strip())) <= 100:
        errors.append(FieldError("name", f"a name has 1 to 100 characters, and this has {length}"))
    n = given.get("rankings_per_group", 1)
    if not 1 <= n <= MAX_RANKINGS_PER_GROUP:
        text = f"{n} will not do: ask for 1 to {MAX_RANKINGS_PER_GROUP} rankings of each group"
        errors.append(FieldError("rankings_per_group", text))
    for name in set(given.get("flags", ())) - set(FLAGS):
        errors.append(FieldError("flags", f"there is no flag {name!r}: choose among {', '.join(FLAGS)}"))
    if given.get("scale", 0) not in SCALES:
        errors.append(
            FieldError("scale", f"{given['scale']} will not do: a scale has 5 or 7 marks, 0 for none")
        )
    if given.get("next_group", NEXT[0]) not in NEXT:
        errors.append(FieldError("next_group", f"{given['next_group']!r} will not do: {' or '.join(NEXT)}"))
    for name in ("gold_every", "repeat_every"):
        if not (given.get(name, 0) == 0 or 2 <= given[name] <= MAX_EVERY):
            text = f"{given[name]} will not do: give 2 to {MAX_EVERY} for one in so many, or 0 for none"
            errors.append(FieldError(name, text))
    examples = given.get("examples", ())
    if len(examples) > MAX_EXAMPLES:
        errors.append(
            FieldError("examples", f"{len(examples)} examples are too many: give up to {MAX_EXAMPLES}")
        )
    for one in examples:
        if set(one) - set(EXAMPLE) or not all(isinstance(text, str) for text in one.values()):
            errors.append(FieldError("examples", f"an example has texts named {', '.join(EXAMPLE)}"))
            break
    return errors


def _settled(given: dict[str, Any]) -> dict[str, Any]:
    """As the database keeps it: flags in their order, examples without those that say nothing."""
    kept = dict(given)
    if "name" in kept:
        kept["name"] = kept["name"].strip()
    if "flags" in kept:
        kept["flags"] = [name for name in FLAGS if name in kept["flags"]]
    if "examples" in kept:
        whole = [{key: one.get(key, "").strip() for key in EXAMPLE} for one in kept["examples"]]
        kept["examples"] = [one for one in whole if any(one.values())]
    return kept


def _rollouts(folder: Path) -> Iterator[dict[str, Any]]:
    for path in Folder(folder).files(".parquet"):
        with parquet.open_file(path) as file:
            columns = [name for name in COLUMNS if name in file.schema_arrow.names]
            yield from parquet.rows(file, columns)


def _groups(project: Project, rows: Iterator[dict[str, Any]]) -> Iterator[Group]:
    """Each group's different answers, in an order drawn once: where they stood in the file tells nobody anything.

    Of more than nine answers, nine are drawn.
    """
    index = 0
    for row in rows:
        first_of = {text: place for place, text in reversed(list(enumerate(row["completions"] or [])))}
        if len(first_of) < 2:
            continue
        places = sorted(first_of.values())
        random.Random(f"{project.source_id}/{row['group_id']}").shuffle(places)
        places = places[:MAX_ANSWERS]
        metadata = json.loads(row["metadata"] or "{}")
        uncertainty = metadata.get("uncertainty")
        yield Group(
            project=project,
            index=index,
            prompt=storable(row["prompt"] or ""),
            completions=[storable(row["completions"][place] or "") for place in places],
            gold=_gold(metadata.get("gold"), [first_of[text] for text in row["completions"]], places),
            uncertainty=uncertainty if isinstance(uncertainty, int | float) else None,
            metadata={
                "group_id": str(row["group_id"]),
                "places": places,
                "cut_off": [not row["ended"][place] for place in places] if row.get("ended") else None,
                "metadata": storable(metadata),
            },
        )
        index += 1


def _gold(order: Any, first: list[int], places: list[int]) -> list[list[int]] | None:
    """A known order of a file's completions as one of the group's own; None where it does not name them all.

    Args:
        first: by completion of the file, the first one with the same text.
        places: by completion of the group, its place in the file.
    """
    try:
        found = [[first[place] for place in tied] for tied in order or []]
        mine = [[places.index(place) for place in dict.fromkeys(tied) if place in places] for tied in found]
        kept = [tied for tied in mine if tied]
    except (TypeError, IndexError):
        return None
    return kept if kept and not orders.wrong(len(places), kept) else None


def close(project: Project) -> Project:
    """Take no more rankings."""
    Project.objects.filter(pk=project.pk, closed=None).update(closed=timezone.now())
    project.refresh_from_db()
    return project


def reopen(project: Project) -> Project:
    """Take rankings again. Raises Conflict for corrections, which nobody is asked to rank."""
    if project.corrects:
        text = (
            "these are corrections of a dataset: to have people rank its groups anew, bring it in as rollouts"
        )
        raise Conflict(text)
    Project.objects.filter(pk=project.pk).update(closed=None)
    project.refresh_from_db()
    return project


def delete_project(project: Project) -> None:
    """Remove a project with its rankings; what was exported from it stays."""
    if project.tour and project.tour.status == "running":
        raise Conflict("a tour is ranking in this project: cancel the tour first")
    project.delete()
