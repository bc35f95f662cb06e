"""Reading the arena: which models may meet, a battle as its player may see it, and those that were played."""

import random
from typing import Any

from django.db.models import Prefetch, QuerySet

from core_ml.errors import UserError
from lab import markup
from lab.models import Account, Answer, Battle, Contender, Turn, Vote
from lab.models.arena import DONE, FAILED, HUMAN, SIDES, SILENT
from lab.queries import artifacts, rows, served

ASKED = ("prompts", "problems", "rollouts")
"""Forms of datasets whose rows hold prompts."""
N_SOURCES = 5
MAX_SUGGESTED = 4000
MOST = 200


def contenders() -> QuerySet[Contender]:
    return Contender.objects.select_related("checkpoint__run", "created_by")


def candidates() -> list[dict[str, str]]:
    """Models that write text and are not in the arena yet: {"model", "name", "what"}, the newest first."""
    taken = set(Contender.objects.values_list("model", flat=True))
    found = [
        {
            "model": one.pk,
            "name": one.name,
            "what": f"{one.role}, run {one.run_id}" if one.run_id else one.role,
        }
        for one in artifacts.visible("checkpoint").exclude(role__in=SILENT)[:MOST]
    ]
    found += [
        {"model": one.pk, "name": one.name, "what": "GGUF"}
        for one in artifacts.visible("export")[:MOST]
        if one.summary.get("format") == "gguf"
    ]
    found += [
        {"model": f"file-{one.pk}", "name": one.name, "what": "GGUF file"} for one in served.files()[:MOST]
    ]
    found += [
        {"model": f"address-{one.pk}", "name": one.name, "what": "elsewhere"}
        for one in served.addresses()[:MOST]
    ]
    return [one for one in found if one["model"] not in taken]


def of(account: Account) -> QuerySet[Battle]:
    """This person's battles, the newest first."""
    answers = Prefetch("answers", Answer.objects.order_by("side"))
    turns = Prefetch("turns", Turn.objects.prefetch_related(answers))
    return (
        Battle.objects.filter(account=account)
        .select_related("left__checkpoint", "right__checkpoint")
        .prefetch_related(turns)
    )


def open_battle(account: Account) -> Battle | None:
    """The one at hand: a reload shows it again."""
    return of(account).filter(ended=None).first()


def shown(battle: Battle, account: Account) -> dict[str, Any]:
    """A battle as its player may see it: who spoke only after their own vote."""
    vote = battle.vote_of(account)
    state = "voted" if vote else "left" if battle.ended else "open"
    return {
        "id": battle.pk,
        "state": state,
        "turns": [_turn(turn) for turn in battle.turns.all()],
        "outcome": vote.outcome if vote else None,
        "counts": vote.counts if vote else None,
        "left": _named(battle.left) if vote else None,
        "right": _named(battle.right) if vote else None,
    }


def _turn(turn: Turn) -> dict[str, Any]:
    found = {answer.side: answer for answer in turn.answers.all()}
    return {
        "number": turn.number,
        "prompt": turn.prompt,
        "answers": [answer(found[side]) for side in SIDES],
    }


def answer(one: Answer) -> dict[str, Any]:
    """One side's answer. Why it failed stands in the engine's words elsewhere: they may name the model."""
    return {
        "side": one.side,
        "status": one.status,
        "text": one.text if one.status == DONE else "",
        "html": markup.html(one.text) if one.status == DONE else "",
        "tokens": one.n_tokens if one.status == DONE else None,
        "cut_off": one.status == DONE and one.finish == "length",
    }


def _named(contender: Contender) -> dict[str, Any]:
    checkpoint = contender.checkpoint
    return {
        "name": contender.name,
        "checkpoint": contender.checkpoint_id,
        "kind": checkpoint.kind if checkpoint else None,
        "run": checkpoint.run_id if checkpoint else None,
    }


def n_votes(account: Account) -> dict[str, int]:
    """All votes of people, and this person's."""
    people = Vote.objects.filter(kind=HUMAN)
    return {"votes": people.count(), "mine": people.filter(account=account).count()}


def played(account: Account) -> QuerySet[Battle]:
    """Battles for researchers, who see names ahead; but not the one that they play themselves now."""
    answers = Prefetch("answers", Answer.objects.order_by("side"))
    votes = Prefetch("votes", Vote.objects.select_related("account").order_by("kind", "pk"))
    return (
        Battle.objects.exclude(account=account, ended=None)
        .select_related("left", "right", "account")
        .prefetch_related(Prefetch("turns", Turn.objects.prefetch_related(answers)), votes)
    )


def told(battle: Battle) -> dict[str, Any]:
    """A battle with names, votes, and why answers failed."""
    turns = list(battle.turns.all())
    return {
        "id": battle.pk,
        "account": battle.account.username,
        "created": battle.created,
        "ended": battle.ended,
        "abandoned": battle.abandoned,
        "prompt": turns[0].prompt if turns else "",
        "n_turns": len(turns),
        "left": battle.left.name,
        "right": battle.right.name,
        "votes": [
            {
                "kind": vote.kind,
                "voter": vote.judge or (vote.account.username if vote.account else ""),
                "outcome": vote.outcome,
                "counts": vote.counts,
                "seconds": vote.seconds,
                "created": vote.created,
            }
            for vote in battle.votes.all()
        ],
        "problems": [
            f"{one.side}: {one.problem}"
            for turn in turns
            for one in turn.answers.all()
            if one.status == FAILED
        ],
    }


def suggestion() -> str:
    """A prompt out of the newest datasets that hold some, for who has no question at hand; empty where there is none."""
    sources = list(artifacts.visible("dataset").filter(form__in=ASKED)[:N_SOURCES])
    random.shuffle(sources)
    for source in sources:
        try:
            count = rows.page(source, limit=1).count
            if count and (found := rows.page(source, offset=random.randrange(count), limit=1).items):
                prompt = str(found[0].get("prompt") or "").strip()
                if 0 < len(prompt) <= MAX_SUGGESTED:
                    return prompt
        except UserError:
            continue  # a damaged dataset says so on its own page
    return ""
