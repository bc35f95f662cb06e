"""One battle: two models are drawn, prompts go to both, and a person votes once or goes on without a vote."""

import math
import re
import secrets
from typing import Any

import numpy as np
from django.db import IntegrityError, transaction
from django.utils import timezone

from core_ml.evaluation import arena
from lab.errors import Conflict, FieldError, Invalid
from lab.models import OUTCOMES, Account, Answer, Battle, Contender, Turn, Vote
from lab.models.arena import DONE, HUMAN, JUDGE, SIDES, WAITING
from lab.queries import ratings

SETTINGS = {"temperature": 0.7, "top_p": 1.0, "max_tokens": 1024}
"""Those of Chatbot Arena's own conversations; both sides get the same."""
MAX_PROMPT = 20_000
MAX_TURNS = 10
MAX_SECONDS = 24 * 3600
PLAIN_WORD = re.compile(r"[a-z]+|.{1,2}")
"""A name such as `chat` stands in texts by chance, and gives nobody away."""
FEW = "the arena needs two active models: a researcher chooses them on the page of its models"


def begin(account: Account, prompt: str) -> Battle:
    """Draw two models and their sides, and put the prompt to both; this person's open battle is left.

    Raises: Invalid for no prompt or too long a one; Conflict when fewer than two models are active.
    """
    prompt = _checked(prompt)
    left, right = _drawn()
    now = timezone.now()
    with transaction.atomic():
        Battle.objects.filter(account=account, ended=None).update(ended=now, abandoned=True)
        battle = Battle.objects.create(
            account=account,
            left=left,
            right=right,
            seed=secrets.randbelow(2**31),
            settings=SETTINGS,
        )
        _ask(battle, 0, prompt)
    return battle


def _drawn() -> tuple[Contender, Contender]:
    """The pair about which one more vote would tell most, more or less (`arena.next_pair`)."""
    known = {one.pk: one for one in Contender.objects.filter(is_active=True)}
    if len(known) < 2:
        raise Conflict(FEW)
    votes = ratings.votes("people")
    # Those without votes stand at the end: they are merely the least known.
    models = [*votes.contenders, *sorted(set(known) - set(votes.contenders))]
    games = votes.games(n_models=len(models))
    active = [place for place, pk in enumerate(models) if pk in known]
    first, second = arena.next_pair(games, active, np.random.default_rng())
    return known[models[first]], known[models[second]]


def follow_up(battle: Battle, account: Account, prompt: str) -> Battle:
    """The next prompt of the conversation, to both. Raises: Invalid; Conflict when it is not its turn."""
    prompt = _checked(prompt)
    with transaction.atomic():
        battle = _open(battle, account)
        turns = list(battle.turns.prefetch_related("answers"))
        if not _is_whole(turns[-1]):
            raise Conflict("an answer is missing: wait for it, or try it again, before you ask on")
        if len(turns) >= MAX_TURNS:
            raise Conflict(f"a battle has {MAX_TURNS} turns at most: vote on these")
        _ask(battle, len(turns), prompt)
    return battle


def _ask(battle: Battle, number: int, prompt: str) -> None:
    turn = Turn.objects.create(battle=battle, number=number, prompt=prompt)
    Answer.objects.bulk_create(Answer(turn=turn, side=side) for side in SIDES)


def vote(battle: Battle, account: Account, outcome: str, seconds: float = 0.0) -> Vote:
    """Keep this person's vote, which ends the battle and lets the names be shown. Sent again, it counts once.

    It cannot be taken back: the names follow at once, and a second vote of someone who has read them is not blind.
    A turn in which an answer failed is passed over. The vote of an account that a program plays is a judge's.
    Raises: Invalid; Conflict while an answer is under way, when none is whole, and for another outcome than before.
    """
    if outcome not in OUTCOMES:
        raise Invalid([FieldError("outcome", f"{outcome[:20]!r} is none: choose {', '.join(OUTCOMES)}")])
    if not math.isfinite(seconds) or not 0 <= seconds <= MAX_SECONDS:
        raise Invalid([FieldError("seconds", f"{seconds} will not do: give 0 to {MAX_SECONDS} seconds")])
    if known := _known(battle, account, outcome):
        return known
    given = {"kind": JUDGE, "judge": account.username} if account.is_simulated else {"kind": HUMAN}
    try:
        with transaction.atomic():
            battle = _open(battle, account)
            turns = list(battle.turns.prefetch_related("answers"))
            if any(answer.status == WAITING for answer in turns[-1].answers.all()):
                raise Conflict("both answers must have ended before you vote")
            texts = said(turns)
            if not texts[0]:
                raise Conflict("an answer has failed: try it again, or leave this battle")
            battle.style = [style(side) for side in texts]
            battle.ended = timezone.now()
            battle.save(update_fields=["style", "ended"])
            blind = not tells_a_name(battle, texts)
            return Vote.objects.create(
                battle=battle, account=account, outcome=outcome, seconds=seconds, counts=blind, **given
            )
    except (IntegrityError, Conflict):
        # Two tabs in the same instant: the other one's vote stands, and has ended the battle.
        if known := _known(battle, account, outcome):
            return known
        raise


def _known(battle: Battle, account: Account, outcome: str) -> Vote | None:
    known = battle.vote_of(account)
    if known is not None and known.outcome != outcome:
        raise Conflict("you have voted on this battle, and have seen who spoke: that vote stands")
    return known


def leave(battle: Battle, account: Account) -> None:
    """Go on without a vote; nobody is told who spoke. Leaving again changes nothing."""
    Battle.objects.filter(pk=battle.pk, account=account, ended=None).update(
        ended=timezone.now(), abandoned=True
    )


def style(texts: list[str]) -> list[int]:
    """What `arena.style` counts, over all that one side said."""
    return np.sum([arena.style(text) for text in texts], axis=0).tolist()  # type: ignore[no-any-return]


def said(turns: list[Turn]) -> list[list[str]]:
    """What the left and the right said, over the turns that both answered: what a vote is about."""
    whole = [turn for turn in turns if _is_whole(turn)]
    return [[_text(turn, side) for turn in whole] for side in SIDES]


def tells_a_name(battle: Battle, texts: list[list[str]]) -> bool:
    """Whether either side says either name: then the vote was not blind (Chiang et al. 2024 leave such out)."""
    text = "\n".join(text for side in texts for text in side)
    names = [one.name for one in (battle.left, battle.right) if not PLAIN_WORD.fullmatch(one.name)]
    # A name with a number or a sign is nobody else's, however it is written; `Owl` may be a bird as `owl`.
    ways = ((name, 0 if name.isalpha() else re.IGNORECASE) for name in names)
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, how) for name, how in ways)


def _open(battle: Battle, account: Account) -> Battle:
    """The battle's row, locked. Raises Conflict when it has ended."""
    locked = Battle.objects.select_for_update().get(pk=battle.pk, account=account)
    if locked.ended:
        raise Conflict("this battle is over: begin the next one")
    return locked


def _is_whole(turn: Turn) -> bool:
    return all(answer.status == DONE for answer in turn.answers.all())


def _text(turn: Turn, side: str) -> str:
    return next(answer.text for answer in turn.answers.all() if answer.side == side)


def _checked(prompt: Any) -> str:
    prompt = str(prompt).replace("\0", "").replace("\r\n", "\n").strip()
    if not prompt:
        raise Invalid([FieldError("prompt", "there is nothing to answer: write a question")])
    if len(prompt) > MAX_PROMPT:
        text = f"{len(prompt):,} characters are too many: write up to {MAX_PROMPT:,}"
        raise Invalid([FieldError("prompt", text)])
    return prompt
