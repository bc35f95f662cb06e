"""Marks on tricks, taken back or made into rankings that a reward model learns from."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from django.conf import settings

from core_ml import parquet
from core_ml.artifact import Origin, Writer
from core_ml.feedback.gaming import kept, teaching
from core_ml.feedback.pairs import n_pairs
from core_ml.tasks.rows import SCHEMAS
from lab.errors import Conflict, FieldError, Invalid
from lab.models import VERDICTS, Account, Artifact, Run, TrickMark
from lab.models.run import new_uid
from lab.queries import tricks
from lab.services import artifacts

COLUMNS = ("group_id", "prompt", "completions", "trick", "kind")


def mark(run: Run, trick: str, verdict: str, account: Account | None) -> TrickMark:
    """Say that a trick is nonsense, or that it is a fair answer. Said again, it counts once.

    Raises: Invalid for a verdict or a trick that does not exist; Conflict while the hunt has not ended.
    """
    if verdict not in VERDICTS:
        raise Invalid([FieldError("verdict", f"{verdict[:40]!r} will not do: say {' or '.join(VERDICTS)}")])
    hunt = tricks.read(run)
    if hunt is None:
        raise Conflict(f"run {run.pk} has found nothing to mark: it is no hunt, or it has not ended")
    if all(one.id != trick for one in hunt.tricks):
        raise Invalid([FieldError("trick", f"run {run.pk} knows no trick {trick[:40]!r}")])
    last = TrickMark.objects.filter(trick=trick).last()
    if last is not None and (last.run_id, last.verdict, last.by_id) == (
        run.pk,
        verdict,
        account and account.pk,
    ):
        return last
    return TrickMark.objects.create(run=run, trick=trick, verdict=verdict, by=account)


def undo(run: Run, account: Account | None) -> TrickMark:
    """Take back this person's last mark in a hunt, which is returned; what was said before counts again.

    Raises: Conflict when there is none.
    """
    last = TrickMark.objects.filter(run=run, by=account).last()
    if last is None or not TrickMark.objects.filter(pk=last.pk).delete()[0]:
        raise Conflict("you have marked nothing here: there is nothing to undo")
    return last


def make_rankings(run: Run, account: Account | None, ordered: bool = False) -> Artifact:
    """What is marked as nonsense, last among the fair answers to the same prompts, as a dataset of rankings.

    Fair answers stand in the order that a labelling project over this hunt's groups gave them, and are tied where
    nobody has ranked them; with `ordered` only those groups are taken that somebody has ranked.
    Raises: Conflict when nothing is marked as nonsense, or nothing of it is ordered.
    """
    hunt, source = tricks.read(run), tricks.dataset(run)
    said = tricks.verdicts(one.id for one in hunt.tricks) if hunt else {}
    nonsense = {trick for trick, verdict in said.items() if verdict == "nonsense"}
    if not nonsense or source is None:
        raise Conflict("nothing is marked as nonsense yet: mark some tricks first")
    name = account.username if account else "hunt"
    with parquet.open_file(artifacts.local_path(source) / kept.ROWS) as file:
        found = list(
            teaching.rankings(
                parquet.rows(file, list(COLUMNS)),
                nonsense,
                name,
                tricks.orders(source),
                simulated=bool(account and account.is_simulated),
            )
        )
    if ordered:
        found = [row for row in found if row["metadata"]["fair"] == "ranked"]
        if not found:
            raise Conflict("no labeler has ordered the fair answers beside what you marked: rank them first")
    if not found:
        raise Conflict(
            "no prompt is left at which what you marked stands beside fair answers: mark other tricks"
        )
    return _write(run, source, found, name, len(nonsense))


def _write(run: Run, source: Artifact, found: list[dict[str, Any]], by: str, n_tricks: int) -> Artifact:
    uid = new_uid()
    title = f"tricks of {run.name}"[:100]
    writer = Writer(
        Path(settings.ARTIFACT_ROOT) / uid / "rankings",
        id=f"{uid}-rankings",
        kind="dataset",
        form="rankings",
        name=title,
        origin=Origin(
            recipe="labeling", name=title, config={"hunt": run.pk, "by": by}, inputs={"rollouts": [source.pk]}
        ),
    )
    try:
        laid = [{**row, "metadata": json.dumps(row["metadata"])} for row in found]
        table = pa.Table.from_pylist(laid, SCHEMAS["rankings"])
        pq.write_table(table, writer.path / "rankings.parquet", compression="zstd")
        writer.finish(
            {
                "hunt": run.pk,
                "tricks": n_tricks,
                "rankings": len(found),
                "simulated": sum(row["simulated"] for row in found),
                "groups": len(found),
                "labelers": 1,
                "fair_ranked": sum(row["metadata"]["fair"] == "ranked" for row in found),
                "pairs": sum(n_pairs(row["order"]) for row in found),
            }
        )
    except BaseException:
        writer.discard()
        raise
    return artifacts.adopt(writer.target)
