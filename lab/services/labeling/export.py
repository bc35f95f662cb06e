"""Rankings out of a project: a dataset, or rows. A settled group has one ranking, the researcher's.

Left out are second rankings of a group by the same labeler and those of gold groups, which measure people.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from django.conf import settings

from core_ml.artifact import Folder, Origin, Writer
from core_ml.feedback.pairs import n_pairs
from core_ml.feedback.sets import exporting, stored
from core_ml.tasks.rows import SCHEMAS, as_dict
from lab.errors import Conflict
from lab.models import Account, Artifact, Group, Project, Ranking
from lab.models.run import new_uid
from lab.services import artifacts


def export(project: Project, account: Account | None = None) -> Artifact:
    """The project's rankings as a dataset. Raises Conflict when there are none yet."""
    settled = project.groups.filter(settled__isnull=False).count()
    found = rows(project)
    if not (settled if project.corrects else found):
        what = "corrected" if project.corrects else "ranked"
        raise Conflict(f"nothing has been {what} in this project yet: there is nothing to export")
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
            inputs={project.source.form: [project.source_id]},
        ),
    )
    try:
        counted = _Counted()
        exporting.write_parquet(counted.each(found), writer.path / "rankings.parquet")
        writer.finish({"project": project.pk, "settled": settled} | counted.summary())
    except BaseException:
        writer.discard()
        raise
    return artifacts.adopt(writer.target)


def rows(project: Project) -> Iterable[dict[str, Any]]:
    """The project's rankings as an export lays them out, a group's together; of corrections the whole corrected dataset."""
    return _corrected(project) if project.corrects else _ranked(project)


def _ranked(project: Project) -> list[dict[str, Any]]:
    rankings = Ranking.objects.filter(
        group__project=project, round=0, group__settled__isnull=True, group__gold__isnull=True
    )
    found = [
        (ranking.group.index, ranking.pk, _ranking_row(ranking))
        for ranking in rankings.select_related("group", "labeler")
    ]
    settled = project.groups.filter(settled__isnull=False).select_related("settled_by")
    found += [(group.index, 0, _settled_row(group)) for group in settled]
    return [row for _, _, row in sorted(found, key=lambda one: one[:2])]


def _corrected(project: Project) -> Iterator[dict[str, Any]]:
    """The dataset's rows, a group's together: of a settled group one with the settled order, in place of all it had."""
    groups = project.groups.filter(settled__isnull=False).select_related("settled_by")
    settled = {group.metadata["group_id"]: group for group in groups}
    paths = Folder(artifacts.local_path(project.source)).files(".parquet")
    for id, rows in groupby(stored.rows(paths), key=lambda row: str(row["group_id"])):
        if id in settled:
            yield _settled_row(settled[id])
        else:
            yield from map(_kept, rows)


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it was; what its ranking weighs stands where every dataset of rankings may have it."""
    kept = {name: row[name] for name in SCHEMAS["rankings"].names}
    if row["weight"] is not None:
        kept["metadata"] = json.dumps(as_dict(row["metadata"]) | {"weight": row["weight"]})
    return kept


def _ranking_row(ranking: Ranking) -> dict[str, Any]:
    said = {name: getattr(ranking, name) for name in ("shown", "marks", "comment", "correction")}
    return _row(ranking.group, {name: value for name, value in said.items() if value}) | {
        "labeler": ranking.labeler.username,
        "simulated": ranking.labeler.is_simulated,
        "order": ranking.order,
        "all_bad": ranking.all_bad,
        "flags": json.dumps(ranking.flags),
        "seconds": ranking.seconds,
    }


def _settled_row(group: Group) -> dict[str, Any]:
    return _row(group, {"settled": True, "note": group.settled_note}) | {
        "labeler": str(group.settled_by or "settled"),
        "simulated": False,
        "order": group.settled,
        "all_bad": False,
        "flags": "{}",
        "seconds": 0.0,
    }


def _row(group: Group, more: dict[str, Any]) -> dict[str, Any]:
    return {
        "group_id": group.metadata["group_id"],
        "prompt": group.prompt,
        "completions": group.completions,
        "metadata": json.dumps(group.metadata["metadata"] | {"places": group.metadata["places"]} | more),
    }


class _Counted:
    """Counts rows on their way into a file, a group's together: however many there are, only who ranked is kept."""

    def __init__(self) -> None:
        self._n = dict.fromkeys(("rankings", "simulated", "pairs", "groups"), 0)
        self._seconds = 0.0
        self._group: Any = None
        self._labelers: set[str] = set()

    def each(self, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            self._n["rankings"] += 1
            self._n["simulated"] += bool(row["simulated"])
            self._n["pairs"] += n_pairs(row["order"] or [])
            self._seconds += row["seconds"] or 0
            self._n["groups"] += row["group_id"] != self._group
            self._group = row["group_id"]
            self._labelers.add(row["labeler"])
            yield row

    def summary(self) -> dict[str, Any]:
        return self._n | {"labelers": len(self._labelers), "seconds": round(self._seconds, 1)}
