"""Battles of the arena, for whoever votes: nothing here tells who spoke before the vote."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from ninja import Router, Status

from lab import markup
from lab.api.arena_forms import BattleOut, PlayedOut, PromptIn, PromptOut, VoteIn
from lab.api.auth import labeler
from lab.api.base import Limit, Number, Offset, Page, answers, page
from lab.models import Answer, Battle
from lab.queries import arena as queries
from lab.services import arena as services

router = Router(tags=["arena"])


def _battle(request: Any, id: int) -> Battle:
    """One's own; another person's is not there."""
    return get_object_or_404(queries.of(request.user), pk=id)


def _shown(request: Any, id: int) -> dict[str, Any]:
    return queries.shown(_battle(request, id), request.user)


@router.get("", response=answers(Page[PlayedOut]))
def list_battles(request: Any, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    """All battles with names and votes, the newest first, but for the one that you play now. For researchers."""
    answer = page(queries.played(request.user), limit, offset)
    return answer | {"items": [queries.told(battle) for battle in answer["items"]]}


@router.post("", response=answers(BattleOut, 201), auth=labeler)
def begin_battle(request: Any, data: PromptIn) -> Status:
    """Put a prompt to two hidden models, drawn with their sides. Your open battle, if any, is left."""
    battle = services.begin(request.user, data.prompt)
    return Status(201, _shown(request, battle.pk))


@router.get("/suggestion", response=answers(PromptOut), auth=labeler)
def suggest_prompt(request: HttpRequest) -> dict[str, str]:
    """A prompt out of the lab's own datasets, for who has no question at hand."""
    return {"prompt": queries.suggestion()}


@router.get("/{id}", response=answers(BattleOut), auth=labeler)
def get_battle(request: Any, id: Number) -> dict[str, Any]:
    """A battle of your own; who spoke stands in it after your vote."""
    return _shown(request, id)


@router.post("/{id}/turns", response=answers(BattleOut, 201), auth=labeler)
def follow_up(request: Any, id: Number, data: PromptIn) -> Status:
    """Ask both on, when both have answered."""
    services.follow_up(_battle(request, id), request.user, data.prompt)
    return Status(201, _shown(request, id))


@router.post(
    "/{id}/answers",
    response=answers(None),
    auth=labeler,
    openapi_extra={"responses": {200: {"content": {"text/event-stream": {}}}}},
)
async def stream_answers(request: Any, id: Number) -> Any:
    """The missing answers of the last turn as server-sent events, both sides at once.

    `piece` {side, text}; then for each side `done` {side, html, tokens, cut_off} or `failed` {side, message}; `end`.
    Asked again, what stands is told first, what failed or was lost is answered anew; another stream of the same
    battle then ends.
    """
    claims, standing = await sync_to_async(_claimed)(request, id)
    response = StreamingHttpResponse(_events(claims, standing), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    return response


def _claimed(request: Any, id: int) -> tuple[list[Any], list[dict[str, Any]]]:
    """What is to be sampled now, and what stands: it may have ended after whoever asks was told that it had not."""
    battle = _battle(request, id)
    claims = services.claim(battle)
    sampled = {one.side for one in claims}
    # Read after the claim, from when on nobody else changes them.
    last = Answer.objects.filter(turn=battle.turns.last())
    return claims, [queries.answer(one) for one in last if one.side not in sampled]


async def _events(claims: list[Any], standing: list[dict[str, Any]]) -> AsyncIterator[bytes]:
    for one in standing:
        yield _event("done", {name: one[name] for name in ("side", "html", "tokens", "cut_off")})
    async with aclosing(services.answers(claims)) as told:
        async for event in told:
            if "text" in event:
                yield _event("piece", {"side": event["side"], "text": event["text"]})
            elif "failed" in event:
                yield _event("failed", {"side": event["side"], "message": event["failed"]})
            else:
                done = event["done"]
                html = await sync_to_async(markup.html, thread_sensitive=False)(done["text"])
                ended = {"tokens": done.get("n_tokens"), "cut_off": done.get("finish") == "length"}
                yield _event("done", {"side": event["side"], "html": html, **ended})
    yield _event("end", {})


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


@router.post("/{id}/vote", response=answers(BattleOut, 201), auth=labeler)
def vote(request: Any, id: Number, data: VoteIn) -> Status:
    """Say which is better; the answer tells who spoke. Sent again it counts once, and it cannot be changed."""
    services.vote(_battle(request, id), request.user, data.outcome, data.seconds)
    return Status(201, _shown(request, id))


@router.post("/{id}/leave", response=answers(None, 204), auth=labeler)
def leave_battle(request: Any, id: Number) -> Status:
    """Go on without a vote; nobody is told who spoke."""
    services.leave(_battle(request, id), request.user)
    return Status(204, None)
