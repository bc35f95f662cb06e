"""The live stream of a run: server-sent events that go on where a broken connection left off.

Each message's id is the listener's cursor, signed, so that the browser's own `Last-Event-ID` brings it back
after a reload of the network or of the server.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from asgiref.sync import sync_to_async
from django.core import signing
from django.db import DatabaseError, close_old_connections
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from ninja import Header, Router

from lab.api.base import Number, answers
from lab.api.wire import FiniteRenderer
from lab.models import Run
from lab.models.run import ENDED
from lab.queries import runs as queries

router = Router(tags=["runs"])
POLL = 0.5  # seconds
HEARTBEAT = 10.0  # seconds; proxies cut what is silent for longer
SALT = "lab.api.events"
Cursor = dict[str, Any]


@router.get(
    "/runs/{id}/events",
    response=answers(None),
    openapi_extra={"responses": {200: {"content": {"text/event-stream": {}}}}},
)
async def run_events(
    request: HttpRequest,
    id: Number,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
) -> Any:
    """Events `status`, `progress`, `metrics`, `samples`, `log` and `figures`; `end` after the last of them.

    204 tells a listener that comes back after the end to stop asking.
    """
    cursor = _read_cursor(id, last_event_id)
    state, _, _ = await _look(id, cursor)
    if state == "gone":
        raise Run.DoesNotExist
    if cursor.get("ended") and state == "ended":
        return HttpResponse(status=204)
    cursor.pop("ended", None)
    response = StreamingHttpResponse(_stream(id, cursor), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    return response


async def _stream(id: int, cursor: Cursor) -> AsyncIterator[bytes]:
    told = time.monotonic()
    yield b"retry: 1000\n\n"
    while True:
        state, payload, cursor = await _look(id, cursor)
        if payload:
            yield _messages(payload, cursor, id)
            told = time.monotonic()
        elif state in ("ended", "gone"):
            yield _message("end", {"status": state}, _write_cursor(id, cursor | {"ended": True}))
            return
        elif time.monotonic() - told > HEARTBEAT:
            yield b": still here\n\n"
            told = time.monotonic()
        await asyncio.sleep(POLL)


# In the loop's own small pool and not in the request's thread: hundreds of listeners must not hold a thread
# and a database connection each.
@sync_to_async(thread_sensitive=False)
def _look(id: int, cursor: Cursor) -> tuple[str, dict[str, Any], Cursor]:
    """Whether the run is live, ended or gone; what is new since the cursor; and the next cursor."""
    try:
        run = Run.objects.get(pk=id)
        payload, following = queries.changes(run, cursor)
        return "ended" if run.status in ENDED else "live", payload, following
    except Run.DoesNotExist:
        return "gone", {}, cursor
    except DatabaseError:
        # A restarted database costs a listener a moment, not its stream.
        return "live", {}, cursor
    finally:
        close_old_connections()


def _messages(payload: dict[str, Any], cursor: Cursor, id: int) -> bytes:
    """One message for each kind of news; only the last bears the cursor, for all must have come before it counts."""
    progress = (payload.get("status") or {}).get("progress")
    news = {**payload, "progress": progress} if progress else payload
    *first, last = news
    lines = [_message(name, news[name]) for name in first]
    return b"".join([*lines, _message(last, news[last], _write_cursor(id, cursor))])


def _message(name: str, data: Any, cursor: str | None = None) -> bytes:
    text = FiniteRenderer().render(None, data, response_status=200)  # type: ignore[arg-type]
    mark = f"id: {cursor}\n" if cursor else ""
    return f"event: {name}\n{mark}data: {text}\n\n".encode()


def _write_cursor(id: int, cursor: Cursor) -> str:
    return signing.dumps({"run": id, **cursor}, salt=SALT, compress=True)


def _read_cursor(id: int, text: str | None) -> Cursor:
    """What a listener has seen; from the beginning when it says nothing, or nothing that we have signed."""
    try:
        cursor = signing.loads(text or "", salt=SALT)
    except (signing.BadSignature, ValueError):
        return {}
    return cursor if cursor.pop("run", None) == id else {}
