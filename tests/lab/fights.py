"""Contenders and battles that were fought, for the tests of the arena."""

import itertools
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone

from core_ml.artifact import Origin, Writer
from lab.models import Account, Answer, Artifact, Battle, Contender, Turn, Vote
from lab.models.arena import DONE
from lab.services import artifacts
from lab.services.arena import battles

_numbers = itertools.count(1)


def checkpoint(name: str, role: str = "chat") -> Artifact:
    """A checkpoint without weights: enough to be chosen."""
    uid = f"{next(_numbers):08x}"
    target = Path(settings.ARTIFACT_ROOT) / uid / "checkpoint"
    writer = Writer(
        target,
        id=f"{uid}-checkpoint",
        kind="checkpoint",
        role=role,
        name=name,
        origin=Origin(recipe="import"),
    )
    writer.finish({})
    return artifacts.adopt(target)


def contender(name: str, **fields: Any) -> Contender:
    return Contender.objects.create(**{"name": name, "model": f"address-{next(_numbers)}", **fields})


def begun(account: Account, left: Contender, right: Contender, prompt: str = "What is 2 + 2?") -> Battle:
    battle = Battle.objects.create(account=account, left=left, right=right, seed=1, settings=battles.SETTINGS)
    battles._ask(battle, 0, prompt)
    return battle


def answer(battle: Battle, left: str = "4", right: str = "It is **five**.") -> Battle:
    """Both sides of the last turn."""
    for side, text in (("left", left), ("right", right)):
        told = Answer.objects.filter(turn=battle.turns.last(), side=side)
        told.update(status=DONE, text=text, n_tokens=len(text), finish="stop")
    return battle


def fought(
    account: Account,
    left: Contender,
    right: Contender,
    outcome: str = "left",
    *texts: str,
    prompt: str = "Which?",
) -> Vote:
    return battles.vote(answer(begun(account, left, right, prompt), *texts), account, outcome, 3.5)


def many(account: Account, rows: list[tuple[Contender, Contender, str]]) -> None:
    """Votes as they are kept, without texts, quickly."""
    made = Battle.objects.bulk_create(
        Battle(
            account=account, left=left, right=right, seed=0, ended=timezone.now(), style=[[10, 0, 0, 0]] * 2
        )
        for left, right, _ in rows
    )
    Vote.objects.bulk_create(
        Vote(battle=battle, account=account, outcome=row[2]) for battle, row in zip(made, rows, strict=True)
    )


def turns(battle: Battle) -> list[Turn]:
    return list(battle.turns.order_by("number"))
