"""Rankings out of a project: a dataset, or rows. A settled group has one ranking, the researcher's.

Left out are second rankings of a group by the same labeler and those of gold groups, which measure people.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from django.conf import settings

from core_ml.artifact import Origin, Writer
from core_ml.feedback.pairs import n_pairs
from core_ml.tasks.rows import SCHEMAS
from lab.errors import Conflict
from lab.models import Account, Artifact, Group, Project, Ranking
from lab.models.run import new_uid
from lab.services import artifacts


def export(project: Project, account: Account | None = None) -> Artifact:
    """The project's rankings as a dataset. Raises Conflict when there are none yet."""
    found = rows(project)
    if not found:
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
        table = pa.Table.from_pylist(found, SCHEMAS["rankings"])
        pq.write_table(table, writer.path / "rankings.parquet", compression="zstd")
        writer.finish(_summary(project, found))
    except BaseException:
        writer.discard()
        raise
    return artifacts.adopt(writer.target)


def rows(project: Project) -> list[dict[str, Any]]:
    """The project's rankings as an export lays them out, a group's together."""
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


def _summary(project: Project, found: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "project": project.pk,
        "rankings": len(found),
        "simulated": sum(row["simulated"] for row in found),
        "groups": len({row["group_id"] for row in found}),
        "labelers": len({row["labeler"] for row in found}),
        "settled": project.groups.filter(settled__isnull=False).count(),
        "pairs": sum(n_pairs(row["order"]) for row in found),
        "seconds": round(sum(row["seconds"] for row in found), 1),
    }
