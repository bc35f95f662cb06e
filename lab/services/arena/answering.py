"""Both answers of a battle's last turn, sampled by the engine at the same time and told as they form.

What is told holds texts and sides, and never what the engine says of itself: a model's name, its id, or an error
that names it. Those who ask again, after a lost connection or from another tab, take an answer over; its seed is the
battle's, so that a model of the lab's own says the same again.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.db import DatabaseError, close_old_connections, transaction

from lab.errors import Conflict
from lab.models import Answer, Battle
from lab.models.arena import DONE, FAILED, WAITING
from lab.services import engine

logger = logging.getLogger(__name__)
MAX_LETTERS = 100_000
"""Of one answer; a server elsewhere may not keep to max_tokens."""
TOO_LONG = "context_length_exceeded"
NO_ENGINE = "The models do not answer now. Try again in a moment, or leave this battle."
NO_ANSWER = "This answer could not be had. Try again, or leave this battle."
NO_ROOM = (
    "The conversation has grown longer than this model can read. Vote on what stands, or leave this battle."
)
TAKEN = "This battle goes on in another window."
Done = TypeVar("Done")


@dataclass(frozen=True, slots=True)
class Claim:
    """One answer to be sampled."""

    pk: int
    side: str
    claim: str
    model: str
    messages: list[dict[str, str]]
    settings: dict[str, Any]
    account: int


def claim(battle: Battle) -> list[Claim]:
    """What is missing in the last turn, from now on for whoever called. Raises Conflict for a battle that is over."""
    with transaction.atomic():
        locked = Battle.objects.select_for_update().select_related("left", "right").get(pk=battle.pk)
        if locked.ended:
            raise Conflict("this battle is over: begin the next one")
        turns = list(locked.turns.prefetch_related("answers"))
        missing = [one for one in turns[-1].answers.all() if one.status != DONE]
        secret = secrets.token_hex(8)
        Answer.objects.filter(pk__in=[one.pk for one in missing]).update(
            status=WAITING, claim=secret, problem="", text=""
        )
        seed = (locked.seed + len(turns) - 1) % 2**31
        return [
            Claim(
                pk=one.pk,
                side=one.side,
                claim=secret,
                model=getattr(locked, one.side).model,
                messages=_messages(turns, one.side),
                settings=locked.settings | {"seed": seed},
                account=locked.account_id,
            )
            for one in missing
        ]


def _messages(turns: list[Any], side: str) -> list[dict[str, str]]:
    """The conversation as one side knows it, up to the prompt that it is to answer now."""
    said = []
    for turn in turns[:-1]:
        text = next(answer.text for answer in turn.answers.all() if answer.side == side)
        said += [{"role": "user", "content": turn.prompt}, {"role": "assistant", "content": text}]
    return [*said, {"role": "user", "content": turns[-1].prompt}]


def keep(claim: Claim, **fields: Any) -> bool:
    """Write what became of an answer; False when somebody else has taken it over."""
    found = Answer.objects.filter(pk=claim.pk, claim=claim.claim, status=WAITING)
    return bool(found.update(**fields))


async def answers(claims: list[Claim]) -> AsyncGenerator[dict[str, Any], None]:
    """Events of both sides as they come: {"side", "text"} for each piece, then {"side", "done"} or {"side", "failed"}.

    Closing the generator ends the sampling.
    """
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    speaking = [asyncio.create_task(_speak(one, told)) for one in claims]
    n_left = len(speaking)
    try:
        while n_left:
            event = await told.get()
            n_left -= "text" not in event
            yield event
    finally:
        for task in speaking:
            task.cancel()
        await asyncio.gather(*speaking, return_exceptions=True)


async def _speak(claim: Claim, told: asyncio.Queue[dict[str, Any]]) -> None:
    began = time.monotonic()
    parts: list[str] = []
    ended: dict[str, Any] = {}
    try:
        async with aclosing(_pieces(claim, ended)) as pieces:
            async for text in pieces:
                parts.append(text)
                await told.put({"side": claim.side, "text": text})
        kept = await _in_database(keep)(
            claim, status=DONE, text="".join(parts), seconds=time.monotonic() - began, **ended
        )
        event: dict[str, Any] = {"done": ended | {"text": "".join(parts)}} if kept else {"failed": TAKEN}
    except engine.Absent as error:
        event = await _failed(claim, NO_ENGINE, error)
    except engine.Refused as error:
        event = await _failed(claim, NO_ROOM if error.code == TOO_LONG else NO_ANSWER, error)
    except Exception as error:  # whoever listens waits for both sides to end
        logger.exception("an answer of the arena failed")
        event = await _failed(claim, NO_ANSWER, error)
    await told.put({"side": claim.side} | event)


async def _failed(claim: Claim, reason: str, error: Exception) -> dict[str, Any]:
    try:
        await _in_database(keep)(claim, status=FAILED, problem=storable(str(error)[:2000]))
    except DatabaseError:
        logger.exception("that an answer failed could not be kept")
    return {"failed": reason}


async def _pieces(claim: Claim, ended: dict[str, Any]) -> AsyncGenerator[str, None]:
    """What the model says, piece by piece; `ended` is told how it ended and how many tokens it took."""
    body = {"model": claim.model, "messages": claim.messages, "stream_options": {"include_usage": True}}
    for settings in _ways(claim.settings):
        n_letters = 0
        try:
            async with aclosing(
                engine.stream("/v1/chat/completions", body | settings, claim.account)
            ) as events:
                async for event in events:
                    if usage := event.get("usage"):
                        ended["n_tokens"] = usage.get("completion_tokens")
                    for choice in event.get("choices") or ():
                        if text := (choice.get("delta") or {}).get("content"):
                            n_letters += len(text)
                            yield storable(text)
                        if choice.get("finish_reason"):
                            ended["finish"] = str(choice["finish_reason"])[:20]
                    if n_letters > MAX_LETTERS:
                        ended["finish"] = "length"
                        return
            return
        except engine.Refused as error:
            if error.code != TOO_LONG or "max_tokens" not in settings:
                raise


def storable(text: str) -> str:
    """Without NUL and halves of surrogate pairs, which a server elsewhere may send and no database keeps."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _ways(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """As the battle says; a model whose context has no room for so many tokens fills what it has."""
    return [settings, {name: value for name, value in settings.items() if name != "max_tokens"}]


def _in_database(act: Callable[..., Done]) -> Callable[..., Any]:
    """In the loop's own small pool: a stream that lasts minutes must not hold a request's thread."""

    def connected(*args: Any, **fields: Any) -> Done:
        try:
            return act(*args, **fields)
        finally:
            close_old_connections()

    return sync_to_async(connected, thread_sensitive=False)
