"""Verdicts of judge models as votes: read from a dataset of rankings, each row of which names its battle.

A judge's labeler begins with `judge:`; a checkpoint is told by its run too, since runs may share a name. Its row must hold the battle's own texts, so that verdicts on the battles of
another lab, whose numbers may be the same, are not taken for verdicts on ours.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from django.db.models import Prefetch

from core_ml.artifact import Folder
from core_ml.evaluation.judging import BAD, LEFT, OUTCOMES, RIGHT, TIE
from core_ml.feedback.sets.exporting import stored_rows
from core_ml.feedback.sets.ranked import FIRST, SECOND
from lab.errors import FieldError, Invalid
from lab.models import Account, Answer, Artifact, Battle, Turn, Vote
from lab.models.arena import JUDGE
from lab.services.arena.answering import storable
from lab.services.arena.battles import said, style, tells_a_name
from lab.services.arena.export import JUDGED, texts
from lab.services.artifacts import local_path

AT_ONCE = 200
MAX_JUDGE = 200
NOT_A_JUDGE, UNKNOWN, OTHER, NO_VERDICT = (
    "by a labeler who is no judge",
    "on a battle that is not here",
    "on other texts than the battle's",
    "without a verdict on two answers",
)


@dataclass(frozen=True)
class Imported:
    """What came of a dataset's rows."""

    votes: int
    repeated: int
    """Judges vote once on a battle; these had."""
    passed_over: dict[str, int]
    """Rows that are no votes, by why."""


def import_judgements(artifact: Artifact, account: Account | None = None) -> Imported:
    """Store the verdicts of judge models, marked so. Bringing in the same ones again changes nothing.

    Raises: Invalid for another dataset than rankings, and when no row of it is a judge's verdict on a battle here.
    """
    if artifact.kind != "dataset" or artifact.form != "rankings":
        what = f"{artifact.kind} {artifact.what}".strip()
        raise Invalid([FieldError("artifact", f"{artifact.name} is a {what}: verdicts come as rankings")])
    counts: Counter[str] = Counter()
    n_votes = n_repeated = 0
    for batch in _batches(Folder(local_path(artifact)), counts):
        fresh, repeated = _store(batch, artifact, account, counts)
        n_votes, n_repeated = n_votes + fresh, n_repeated + repeated
    if not n_votes + n_repeated:
        why = ", ".join(f"{n:,} {what}" for what, n in counts.most_common()) or "it has no rows"
        raise Invalid([FieldError("artifact", f"{artifact.name} holds no verdict on a battle here: {why}")])
    return Imported(n_votes, n_repeated, dict(counts))


@dataclass(frozen=True, slots=True)
class Verdict:
    battle: int
    judge: str
    outcome: str
    verdicts: list[str] | None
    completions: list[str]
    seconds: float


def _batches(folder: Folder, counts: Counter[str]) -> Iterator[list[Verdict]]:
    waiting: list[Verdict] = []
    makers: dict[str, str] = {}
    for row in stored_rows(folder.files(".parquet")):
        verdict = _read(row, makers)
        if isinstance(verdict, str):
            counts[verdict] += 1
            continue
        waiting.append(verdict)
        if len(waiting) == AT_ONCE:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _read(row: dict[str, Any], makers: dict[str, str]) -> Verdict | str:
    """The row's verdict, or why it is none; `makers` remembers who made which checkpoint."""
    labeler, metadata = storable(str(row["labeler"] or "")), _parsed(row["metadata"])
    battle, judge = metadata.get("battle"), labeler.removeprefix(JUDGED).strip()
    if not labeler.startswith(JUDGED) or not judge:
        return NOT_A_JUDGE
    if isinstance(battle, bool) or not isinstance(battle, int) or not 0 < battle < 2**31:
        return UNKNOWN
    outcome = _outcome(row["order"], bool(row["all_bad"]))
    if outcome is None:
        return NO_VERDICT
    seconds = row["seconds"] if isinstance(row["seconds"], float) and math.isfinite(row["seconds"]) else 0.0
    judge = _named(judge, _of_judge(metadata).get("checkpoint"), makers)
    return Verdict(
        battle, judge, outcome, _both_ways(metadata), list(row["completions"] or ()), max(0.0, seconds)
    )


def _named(judge: str, checkpoint: Any, makers: dict[str, str]) -> str:
    if not isinstance(checkpoint, str) or not checkpoint:
        return judge[:MAX_JUDGE]
    id = storable(checkpoint[:80])
    if id not in makers:
        run = Artifact.objects.filter(pk=id).values_list("run_id", flat=True).first()
        makers[id] = f", run {run}" if run else f", {id.partition('-')[0]}"
    return judge[: MAX_JUDGE - len(makers[id])] + makers[id]


def _of_judge(metadata: dict[str, Any]) -> dict[str, Any]:
    judge = metadata.get("judge")
    return judge if isinstance(judge, dict) else {}


def _outcome(order: Any, all_bad: bool) -> str | None:
    told = [sorted(tied) for tied in order or () if tied]
    if told == FIRST:
        return LEFT
    if told == SECOND:
        return RIGHT
    return (BAD if all_bad else TIE) if told == [[0, 1]] else None


def _both_ways(metadata: dict[str, Any]) -> list[str] | None:
    """The verdicts as shown and with the sides swapped, by place: [[0, 1, as shown, swapped]] in a judge's rows."""
    match _of_judge(metadata).get("verdicts"):
        case [[0, 1, str(as_shown), str(swapped)]] if {as_shown, swapped} <= set(OUTCOMES):
            return [as_shown, swapped]
    return None


def _store(
    batch: list[Verdict], artifact: Artifact, account: Account | None, counts: Counter[str]
) -> tuple[int, int]:
    answers = Prefetch("answers", Answer.objects.order_by("side"))
    turns = Prefetch("turns", Turn.objects.prefetch_related(answers))
    found = Battle.objects.filter(pk__in={one.battle for one in batch})
    found = found.select_related("left", "right").prefetch_related(turns)
    battles = {one.pk: one for one in found}
    made: list[Vote] = []
    restyled: dict[int, Battle] = {}
    for one in batch:
        battle = battles.get(one.battle)
        if battle is None:
            counts[UNKNOWN] += 1
            continue
        known = list(battle.turns.all())
        if texts(known)[1] != one.completions:
            counts[OTHER] += 1
            continue
        answers_of = said(known)
        if battle.style is None:
            battle.style = [style(side) for side in answers_of]
            restyled[battle.pk] = battle
        made.append(
            Vote(
                battle=battle,
                kind=JUDGE,
                account=account,
                judge=one.judge,
                outcome=one.outcome,
                verdicts=one.verdicts,
                seconds=one.seconds,
                source=artifact,
                counts=not tells_a_name(battle, answers_of),
            )
        )
    with transaction.atomic():
        Battle.objects.bulk_update(restyled.values(), ["style"])
        votes = Vote.objects.filter(kind=JUDGE, battle__in=battles.values())
        before = votes.count()
        Vote.objects.bulk_create(made, ignore_conflicts=True)
        fresh = votes.count() - before
    return fresh, len(made) - fresh


def _parsed(text: Any) -> dict[str, Any]:
    try:
        told = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
