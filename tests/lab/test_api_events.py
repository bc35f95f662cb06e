"""The live stream of a run, as EventSource sees it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.test import AsyncClient
from django.utils import timezone

from lab.api import events
from lab.models import LogLine, Run
from lab.services import accounts, metrics
from tests.lab import making

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(events, "POLL", 0.01)


@pytest.fixture(autouse=True)
async def _no_connection_left():
    """The thread in which asynchronous tests ask the database outlives them, and PostgreSQL drops no database in use."""
    yield
    await sync_to_async(connections.close_all)()


@pytest.fixture
def listen(account):
    _, secret = accounts.make_token(account("researcher"))

    async def get(run: Run, **headers: str) -> Any:
        headers["Authorization"] = f"Bearer {secret}"
        return await AsyncClient().get(f"/api/v1/runs/{run.pk}/events", headers=headers)

    return get


async def messages(answer: Any) -> AsyncIterator[dict[str, Any]]:
    """The stream's messages, parsed by the rules of server-sent events."""
    waiting = ""
    async for part in answer.streaming_content:
        waiting += part.decode()
        while "\n\n" in waiting:
            block, waiting = waiting.split("\n\n", 1)
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            if "event" in fields:
                yield {"event": fields["event"], "id": fields.get("id"), "data": json.loads(fields["data"])}
            elif "" in fields:
                yield {"event": "heartbeat", "id": None, "data": None}


def grow(run: Run, step: int) -> None:
    metrics.append(run, [(step, {"loss": float(step)})])
    LogLine.objects.create(run=run, time=timezone.now(), message=f"step {step}")
    Run.objects.filter(pk=run.pk).update(version=run.version + step, progress={"step": step, "total": 9})


def end(run: Run) -> None:
    Run.objects.filter(pk=run.pk).update(version=run.version + 1000, status="succeeded", ended=timezone.now())


async def test_the_stream_tells_what_is_there_then_what_comes_and_ends_with_the_run(listen):
    run = await sync_to_async(making.run)()
    await sync_to_async(grow)(run, 1)
    answer = await listen(run)
    assert answer["Content-Type"] == "text/event-stream"
    assert answer["Cache-Control"] == "no-store"
    seen: list[dict[str, Any]] = []
    async for message in messages(answer):
        seen.append(message)
        if (
            message["event"] == "log"
            and len(message["data"]) == 1
            and message["data"][0]["message"] == "step 1"
        ):
            await sync_to_async(grow)(run, 2)
        if message["event"] == "log" and message["data"][-1]["message"] == "step 2":
            await sync_to_async(end)(run)
    names = [message["event"] for message in seen]
    assert {"status", "progress", "metrics", "log"} <= set(names)
    assert names[-1] == "end"
    curves = [message["data"]["loss"]["steps"] for message in seen if message["event"] == "metrics"]
    assert curves == [[1], [2]]
    assert [m["data"]["status"] for m in seen if m["event"] == "status"][-1] == "succeeded"


async def test_a_broken_stream_goes_on_where_it_left_off_and_nothing_comes_twice(listen):
    run = await sync_to_async(making.run)()
    await sync_to_async(grow)(run, 1)
    cursor = None
    async for message in messages(await listen(run)):
        cursor = message["id"] or cursor
        if cursor:
            break
    await sync_to_async(grow)(run, 2)
    await sync_to_async(end)(run)
    seen = [message async for message in messages(await listen(run, **{"Last-Event-ID": cursor}))]
    assert [m["data"]["loss"]["steps"] for m in seen if m["event"] == "metrics"] == [[2]]
    assert [line["message"] for m in seen if m["event"] == "log" for line in m["data"]] == ["step 2"]
    # After the end a listener that asks again is told to stop.
    assert (await listen(run, **{"Last-Event-ID": seen[-1]["id"]})).status_code == 204


async def test_only_the_last_message_of_a_batch_moves_the_cursor(listen):
    """A stream that breaks between two of them must tell all of them again."""
    run = await sync_to_async(making.run)("succeeded", ended=timezone.now())
    await sync_to_async(grow)(run, 1)
    seen = [message async for message in messages(await listen(run))]
    assert [message["id"] is not None for message in seen] == [False] * (len(seen) - 2) + [True, True]


@pytest.mark.parametrize("cursor", ["x", "eyJydW4iOjF9", "a:b:c", "{}"])
async def test_a_cursor_that_we_have_not_signed_begins_at_the_beginning(listen, cursor):
    run = await sync_to_async(making.run)("succeeded", ended=timezone.now())
    names = [message["event"] async for message in messages(await listen(run, **{"Last-Event-ID": cursor}))]
    assert names[0] == "status"


async def test_a_silent_run_sends_heartbeats_and_a_deleted_one_ends_the_stream(listen, monkeypatch):
    monkeypatch.setattr(events, "HEARTBEAT", 0.02)
    run = await sync_to_async(making.run)()
    n_beats, last = 0, ""
    async for message in messages(await listen(run)):
        n_beats += message["event"] == "heartbeat"
        last = message["event"]
        if n_beats == 2:
            await Run.objects.filter(pk=run.pk).adelete()
            n_beats += 1
    assert last == "end"


async def test_a_listener_who_leaves_ends_the_stream(listen):
    run = await sync_to_async(making.run)()
    answer = await listen(run)
    stream = messages(answer)
    await anext(stream)
    await stream.aclose()
    answer.close()
    await asyncio.sleep(0)
