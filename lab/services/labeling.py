"""Labelling: projects over rollouts, one leased group per labeler at a time, rankings handed in and taken back.

Every change of a project's leases and rankings first locks the project's row, so that two labelers who ask
in the same instant never get the same group (unless the project wants several rankings of each).
"""

import json
import math
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from django.conf import settings
from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from core_ml import parquet
from core_ml.artifact import Folder, Origin, Writer
from core_ml.tasks.rows import SCHEMAS
from lab.errors import Conflict, FieldError, Invalid
from lab.models import FLAGS, Account, Artifact, Group, Lease, Project, Ranking, Tour
from lab.models.run import new_uid
from lab.services import artifacts

LEASE = timedelta(minutes=10)
MAX_RANKINGS_PER_GROUP = 10
MAX_SECONDS = 24 * 3600
BATCH = 1000


def create_project(
    name: str,
    source_artifact: Artifact,
    instructions: str = "",
    rankings_per_group: int = 1,
    account: Account | None = None,
    tour: Tour | None = None,
) -> Project:
    """A project over a rollouts dataset. Raises Invalid for another form, or when no group has two answers."""
    errors = []
    if not 0 < len(name.strip()) <= 100:
        errors.append(FieldError("name", f"a name has 1 to 100 characters, and this has {len(name.strip())}"))
    if not 1 <= rankings_per_group <= MAX_RANKINGS_PER_GROUP:
        text = (
            f"{rankings_per_group} will not do: ask for 1 to {MAX_RANKINGS_PER_GROUP} rankings of each group"
        )
        errors.append(FieldError("rankings_per_group", text))
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
            name=name.strip(),
            source=source_artifact,
            instructions=instructions,
            rankings_per_group=rankings_per_group,
            created_by=account,
            tour=tour,
        )
        Group.objects.bulk_create(_groups(project, rows), batch_size=BATCH)
        if not project.groups.exists():
            text = (
                f"{source_artifact.name} has no group with two different answers: sample more of each prompt"
            )
            raise Invalid([FieldError("source", text)])
    return project


COLUMNS = ("group_id", "prompt", "completions", "ended", "metadata")


def _rollouts(folder: Path) -> Iterator[dict[str, Any]]:
    for path in Folder(folder).files(".parquet"):
        with parquet.open_file(path) as file:
            columns = [name for name in COLUMNS if name in file.schema_arrow.names]
            yield from parquet.rows(file, columns)


def _groups(project: Project, rows: Iterator[dict[str, Any]]) -> Iterator[Group]:
    """Each group's different answers, in an order drawn once and then the same for every labeler."""
    index = 0
    for row in rows:
        first_of = {text: place for place, text in reversed(list(enumerate(row["completions"] or [])))}
        if len(first_of) < 2:
            continue
        places = sorted(first_of.values())
        random.Random(f"{project.source_id}/{row['group_id']}").shuffle(places)
        yield Group(
            project=project,
            index=index,
            prompt=_storable(row["prompt"]),
            completions=[_storable(row["completions"][place]) for place in places],
            metadata={
                "group_id": str(row["group_id"]),
                "places": places,
                "cut_off": [not row["ended"][place] for place in places] if row.get("ended") else None,
                "metadata": json.loads(row["metadata"] or "{}"),
            },
        )
        index += 1


def _storable(text: str | None) -> str:
    """A byte-level model can write NUL, which PostgreSQL cannot keep."""
    return (text or "").replace("\0", "\N{REPLACEMENT CHARACTER}")


def next_group(project: Project, account: Account) -> Group | None:
    """Lease the group that this labeler should rank now: the one at hand, or the first that lacks a ranking."""
    now = timezone.now()
    with transaction.atomic():
        project = _locked(project)
        if project.closed:
            return None
        held = Lease.objects.filter(group__project=project, labeler=account, skipped=False, expires__gt=now)
        lease = held.select_related("group").first()
        group = lease.group if lease else _free(project, account, now).first()
        if group is not None:
            _lease(group, account, now)
        return group


def _free(project: Project, account: Account, now: datetime) -> QuerySet[Group]:
    """Groups with room for one more ranking, that this labeler has neither ranked nor skipped."""
    # Two subqueries and no join: a join would count each ranking once for every lease.
    ranked = Ranking.objects.filter(group__project=project)
    full = (
        ranked.values("group")
        .annotate(n=Count("pk"))
        .filter(n__gte=project.rankings_per_group)
        .values("group")
    )
    free = project.groups.exclude(pk__in=full).exclude(pk__in=ranked.filter(labeler=account).values("group"))
    free = free.exclude(pk__in=Lease.objects.filter(labeler=account, skipped=True).values("group"))
    others = _others_at_work(account, now)
    if project.rankings_per_group == 1:
        return free.exclude(pk__in=Lease.objects.filter(others, group__project=project).values("group"))
    crowded = [
        group.pk
        for group in free.filter(leases__in=Lease.objects.filter(others, group__project=project)).distinct()
        if not _has_room(project, group, account, now)
    ]
    return free.exclude(pk__in=crowded)


def _others_at_work(account: Account, now: datetime) -> Q:
    return Q(skipped=False, expires__gt=now) & ~Q(labeler=account)


def _has_room(project: Project, group: Group, account: Account, now: datetime) -> bool:
    n_taken = group.rankings.exclude(labeler=account).count()
    return n_taken + group.leases.filter(_others_at_work(account, now)).count() < project.rankings_per_group


def _lease(group: Group, account: Account, now: datetime, skipped: bool = False) -> None:
    Lease.objects.update_or_create(
        group=group, labeler=account, defaults={"expires": now + LEASE, "skipped": skipped}
    )


def _locked(project: Project) -> Project:
    """The project's row, locked until the transaction ends. (SQLite locks all when the transaction begins.)"""
    return Project.objects.select_for_update().get(pk=project.pk)


def hand_in(
    group: Group,
    account: Account,
    order: list[list[int]],
    all_bad: bool = False,
    flags: dict[str, list[str]] | None = None,
    seconds: float = 0.0,
) -> Ranking:
    """Store a ranking of a leased group.

    Raises: Invalid when it does not name every answer once, or a flag or a time will not do; Conflict when the
        group is not this labeler's to rank.
    """
    flags = {str(key): sorted(set(names)) for key, names in (flags or {}).items() if names}
    errors = _wrong(len(group.completions), order, flags, seconds)
    if errors:
        raise Invalid(errors)
    now = timezone.now()
    with transaction.atomic():
        project = _locked(group.project)
        if project.closed:
            raise Conflict("this project is closed: it takes no more rankings")
        if group.rankings.filter(labeler=account).exists():
            raise Conflict("you have ranked this group already: undo that first")
        lease = group.leases.filter(labeler=account, skipped=False).first()
        if lease is None:
            raise Conflict("this group is not leased to you: ask for the next one")
        if lease.expires <= now and not _has_room(project, group, account, now):
            raise Conflict(
                "your ten minutes were over and somebody else has this group now: ask for the next one"
            )
        lease.delete()
        return Ranking.objects.create(
            group=group, labeler=account, order=order, all_bad=all_bad, flags=flags, seconds=seconds
        )


def _wrong(n: int, order: Any, flags: dict[str, list[str]], seconds: float) -> list[FieldError]:
    errors = []
    places = [index for tied in order for index in tied]
    if any(not tied for tied in order) or sorted(places) != list(range(n)):
        text = f"name each of the {n} answers (0 to {n - 1}) once, best first, for example {example_order(n)}"
        errors.append(FieldError("order", text))
    for key, names in flags.items():
        if key not in {str(index) for index in range(n)}:
            errors.append(FieldError("flags", f"there is no answer {key!r}: the answers are 0 to {n - 1}"))
        for name in set(names) - set(FLAGS):
            errors.append(FieldError("flags", f"there is no flag {name!r}: choose among {', '.join(FLAGS)}"))
    if not math.isfinite(seconds) or not 0 <= seconds <= MAX_SECONDS:
        errors.append(FieldError("seconds", f"{seconds} will not do: give 0 to {MAX_SECONDS} seconds"))
    return errors


def example_order(n: int) -> str:
    return json.dumps([[index] for index in reversed(range(n))])


def skip(group: Group, account: Account) -> None:
    """Pass a group on: this labeler does not get it again, the others do. Raises Conflict when it is not theirs."""
    with transaction.atomic():
        _locked(group.project)
        if not group.leases.filter(labeler=account, skipped=False).exists():
            raise Conflict("this group is not leased to you: ask for the next one")
        _lease(group, account, timezone.now(), skipped=True)


def undo(project: Project, account: Account) -> Ranking:
    """Take back this labeler's last ranking (which is returned) and lease its group to them again."""
    now = timezone.now()
    with transaction.atomic():
        project = _locked(project)
        if project.closed:
            raise Conflict("this project is closed: its rankings stand")
        mine = Ranking.objects.filter(group__project=project, labeler=account)
        last = mine.select_related("group").order_by("-id").first()
        if last is None:
            raise Conflict("you have ranked nothing in this project yet: there is nothing to undo")
        # What was at hand goes back to the others; a labeler holds one group at a time.
        Lease.objects.filter(group__project=project, labeler=account, skipped=False).delete()
        last.delete()
        _lease(last.group, account, now)
        return last


def close(project: Project) -> Project:
    """Take no more rankings."""
    Project.objects.filter(pk=project.pk, closed=None).update(closed=timezone.now())
    project.refresh_from_db()
    return project


def reopen(project: Project) -> Project:
    Project.objects.filter(pk=project.pk).update(closed=None)
    project.refresh_from_db()
    return project


def delete_project(project: Project) -> None:
    """Remove a project with its rankings; what was exported from it stays."""
    if project.tour and project.tour.status == "running":
        raise Conflict("a tour is ranking in this project: cancel the tour first")
    project.delete()


def export(project: Project, account: Account | None = None) -> Artifact:
    """The project's rankings as a dataset. Raises Conflict when there are none yet."""
    rankings = _rankings(project)
    if not rankings:
        raise Conflict("nothing has been ranked in this project yet: there is nothing to export")
    uid = new_uid()
    writer = Writer(
        Path(settings.ARTIFACT_ROOT) / uid / "rankings",
        id=f"{uid}-rankings",
        kind="dataset",
        form="rankings",
        name=project.name,
        origin=Origin(
            recipe="labeling",
            name=project.name,
            config={"project": project.pk, "instructions": project.instructions, "by": str(account or "")},
            inputs={"rollouts": [project.source_id]},
        ),
    )
    try:
        table = pa.Table.from_pylist([_ranking_row(ranking) for ranking in rankings], SCHEMAS["rankings"])
        pq.write_table(table, writer.path / "rankings.parquet", compression="zstd")
        writer.finish(_summary(project, rankings))
    except BaseException:
        writer.discard()
        raise
    return artifacts.adopt(writer.target)


def rows(project: Project) -> list[dict[str, Any]]:
    """The project's rankings as an export lays them out."""
    return [_ranking_row(ranking) for ranking in _rankings(project)]


def _rankings(project: Project) -> list[Ranking]:
    found = Ranking.objects.filter(group__project=project).select_related("group", "labeler")
    return list(found.order_by("group__index", "id"))


def _ranking_row(ranking: Ranking) -> dict[str, Any]:
    group = ranking.group
    return {
        "group_id": group.metadata["group_id"],
        "prompt": group.prompt,
        "completions": group.completions,
        "labeler": ranking.labeler.username,
        "simulated": ranking.labeler.is_simulated,
        "order": ranking.order,
        "all_bad": ranking.all_bad,
        "flags": json.dumps(ranking.flags),
        "seconds": ranking.seconds,
        "metadata": json.dumps(group.metadata["metadata"] | {"places": group.metadata["places"]}),
    }


def _summary(project: Project, rankings: list[Ranking]) -> dict[str, Any]:
    return {
        "project": project.pk,
        "rankings": len(rankings),
        "simulated": sum(ranking.labeler.is_simulated for ranking in rankings),
        "groups": len({ranking.group_id for ranking in rankings}),
        "labelers": len({ranking.labeler_id for ranking in rankings}),
        "pairs": sum(n_pairs(ranking.order) for ranking in rankings),
        "seconds": round(sum(ranking.seconds for ranking in rankings), 1),
    }


def n_pairs(order: list[list[int]]) -> int:
    """How many pairs of answers a ranking puts in an order; ties make none."""
    n = sum(len(tied) for tied in order)
    return n * (n - 1) // 2 - sum(len(tied) * (len(tied) - 1) // 2 for tied in order)
