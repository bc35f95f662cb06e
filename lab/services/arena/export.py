"""Votes out of the arena: a dataset of rankings, for a reward model to learn from and for judge models to judge.

Battles go out without votes too, as rollouts, so that a judge may compare what nobody has voted on. A row is one vote on one battle, whose two conversations are its completions, the left one first. What was said after
the first prompt belongs to a completion, since from then on the two sides have conversations of their own.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import Prefetch

from core_ml.artifact import Origin, Writer
from core_ml.evaluation.judging import BAD, LEFT, RIGHT, TIE
from core_ml.feedback.pairs import n_pairs
from core_ml.feedback.sets.ranked import FIRST, SECOND
from core_ml.feedback.sets.ranked import TIE as TIED
from core_ml.tasks.rows import write_rows
from lab.errors import Conflict
from lab.models import Account, Answer, Artifact, Battle, Contender, Turn, Vote
from lab.models.arena import DONE, HUMAN, JUDGE, SIDES
from lab.models.run import new_uid
from lab.services import artifacts

ORDERS = {LEFT: FIRST, RIGHT: SECOND, TIE: TIED, BAD: TIED}
JUDGED = "judge:"
"""Begins the labeler of every row that is a judge's."""
GROUP = "battle-"
AT_ONCE = 500


def export(account: Account | None = None, judges: bool = False) -> Artifact:
    """The votes as a dataset; those of judges only where asked for. Raises Conflict when there are none."""
    found = list(_rows(judges))
    if not found:
        raise Conflict("nobody has voted in the arena yet: there is nothing to export")
    config = {"judges": judges, "by": str(account or "")}
    return _written("rankings", "arena votes", found, _summary(found), config)


def export_battles(account: Account | None = None, asked: bool = False) -> Artifact:
    """Battles that are over as a dataset of rollouts, voted on or left: what a judge may compare without people.

    `asked` says that the verdicts of a judge's run on it become votes by themselves.

    Raises Conflict where no battle is over in which both have answered.
    """
    found = list(_fought())
    if not found:
        raise Conflict("no battle is over in which both have answered: there is nothing to export")
    return _written(
        "rollouts",
        "arena battles",
        found,
        {"n_rows": len(found), "completions_per_prompt": len(SIDES)},
        {"by": str(account or ""), "asked": asked},
    )


def _written(
    form: str, name: str, found: list[dict[str, Any]], summary: dict[str, Any], config: dict[str, Any]
) -> Artifact:
    uid = new_uid()
    fought = {row["metadata"][side] for row in found for side in SIDES}
    ids = Contender.objects.filter(name__in=fought, checkpoint__isnull=False).order_by("pk")
    inputs = {"models": list(ids.values_list("checkpoint_id", flat=True))}
    writer = Writer(
        Path(settings.ARTIFACT_ROOT) / uid / form,
        id=f"{uid}-{form}",
        kind="dataset",
        form=form,
        name=name,
        origin=Origin(recipe="arena", name=name, config=config, inputs=inputs),
    )
    try:
        write_rows(writer.path / f"{form}.parquet", form, found)
        writer.finish(summary)
    except BaseException:
        writer.discard()
        raise
    return artifacts.adopt(writer.target)


def rows(judges: bool = False) -> Iterator[dict[str, Any]]:
    """Votes as an export lays them out, a battle's together."""
    return (row | {"metadata": json.dumps(row["metadata"])} for row in _rows(judges))


def _rows(judges: bool) -> Iterator[dict[str, Any]]:
    found = Vote.objects.all() if judges else Vote.objects.filter(kind=HUMAN)
    answers = Prefetch("answers", Answer.objects.order_by("side"))
    turns = Prefetch("battle__turns", Turn.objects.prefetch_related(answers))
    listed = found.select_related("battle__left", "battle__right", "account").prefetch_related(turns)
    for vote in listed.order_by("battle_id", "pk").iterator(chunk_size=AT_ONCE):
        yield _row(vote)


def _fought() -> Iterator[dict[str, Any]]:
    answers = Prefetch("answers", Answer.objects.order_by("side"))
    turns = Prefetch("turns", Turn.objects.prefetch_related(answers))
    over = Battle.objects.filter(ended__isnull=False).select_related("left", "right").prefetch_related(turns)
    for battle in over.order_by("pk").iterator(chunk_size=AT_ONCE):
        prompt, completions, cut_off = texts(list(battle.turns.all()))
        if any(completions):
            yield {
                "group_id": f"{GROUP}{battle.pk}",
                "prompt": prompt,
                "completions": completions,
                "ended": [not cut for cut in cut_off],
                "metadata": _about(battle) | {"cut_off": cut_off},
            }


def _about(battle: Battle) -> dict[str, Any]:
    return {
        "battle": battle.pk,
        "left": battle.left.name,
        "right": battle.right.name,
        "models": [battle.left.model, battle.right.model],
    }


def _row(vote: Vote) -> dict[str, Any]:
    battle = vote.battle
    prompt, completions, cut_off = texts(list(battle.turns.all()))
    metadata: dict[str, Any] = _about(battle) | {"blind": vote.counts, "cut_off": cut_off}
    by_judge = vote.kind == JUDGE
    if vote.verdicts:
        metadata["judge"] = {"model": vote.judge, "verdicts": [[0, 1, *vote.verdicts]]}
    return {
        "group_id": f"{GROUP}{battle.pk}",
        "prompt": prompt,
        "completions": completions,
        "labeler": f"{JUDGED}{vote.judge}" if by_judge else str(vote.account),
        "simulated": by_judge,
        "order": ORDERS[vote.outcome],
        "all_bad": vote.outcome == BAD,
        "flags": "{}",
        "seconds": vote.seconds,
        "metadata": metadata,
    }


def texts(turns: list[Turn]) -> tuple[str, list[str], list[bool]]:
    """The first prompt, what each side said after it, and whether it was cut off, over the turns that both answered."""
    whole = [(turn.prompt, {one.side: one for one in turn.answers.all()}) for turn in turns]
    whole = [(prompt, found) for prompt, found in whole if all(one.status == DONE for one in found.values())]
    said = ["", ""]
    for number, (prompt, found) in enumerate(whole):
        for place, side in enumerate(SIDES):
            before = f"{said[place]}\n\nUser: {prompt}\n\nAssistant: " if number else ""
            said[place] = before + found[side].text
    cut_off = [any(found[side].finish == "length" for _, found in whole) for side in SIDES]
    return turns[0].prompt if turns else "", said, cut_off


def _summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "rankings": len(found),
        "simulated": sum(row["simulated"] for row in found),
        "groups": len({row["group_id"] for row in found}),
        "labelers": len({row["labeler"] for row in found}),
        "models": len({row["metadata"][side] for row in found for side in SIDES}),
        "pairs": sum(n_pairs(row["order"]) for row in found),
        "seconds": round(sum(row["seconds"] for row in found), 1),
    }
