"""Asking the engine from web: over its Unix socket or its address, with the lab's key and the lab's list of models.

A client is made for each request: a connection to a Unix socket costs nothing, and it belongs to one event loop.
"""

import json
from collections.abc import AsyncGenerator
from http import HTTPMethod
from typing import Any

import httpx
from asgiref.sync import sync_to_async
from django.conf import settings

from lab.services import served

TIMEOUT = httpx.Timeout(600, connect=5)
"""A long completion behind a full batch may take minutes; whether the engine is there is known at once."""
ABSENT = (
    "The engine does not answer: it is starting, or it has stopped. Its log is in LAB_HOME/logs/engine.log."
)
KEY_REFUSED = "The engine does not take the lab's key: start both with the same ENGINE_KEY."
LOST = "The engine stopped in the middle of this answer: ask again."
MAX_EVENT_BYTES = 8 << 20


class Absent(Exception):
    """There is no engine to be asked: one sentence that says why, for people."""


class Refused(Exception):
    """The engine will not do this: its own sentence, and its code where it gives one."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


async def send(
    method: str, path: str, content: bytes | None, kind: str, account: int
) -> tuple[httpx.AsyncClient, httpx.Response]:
    """The head of the engine's answer, which knows every model of the lab; close both when it has been read.

    Args:
        kind: of the content: application/json.
        account: who asks, so that accounts take turns at the engine.
    Raises: Absent.
    """
    sources = await sync_to_async(served.sources)()
    client = _client()
    try:
        asked = client.build_request(
            HTTPMethod(method),
            httpx.URL(path=path),
            content=content,
            headers={"Content-Type": kind, "x-sources": sources["version"], "x-account": str(account)},
        )
        answer = await client.send(asked, stream=True)
        if answer.status_code == 428:  # the engine was started anew, or the list has changed
            await answer.aclose()
            (await client.put("/sources", json=sources)).raise_for_status()
            answer = await client.send(asked, stream=True)
        if answer.status_code == 401:
            raise Absent(KEY_REFUSED)
    except BaseException as error:
        await client.aclose()
        if isinstance(error, httpx.HTTPStatusError):
            raise Absent(KEY_REFUSED) from None
        if isinstance(error, httpx.TransportError | OSError):
            raise Absent(ABSENT) from None
        raise
    return client, answer


async def stream(path: str, body: dict[str, Any], account: int) -> AsyncGenerator[dict[str, Any], None]:
    """The events of an account's streamed answer. Whoever stops reading closes the connection, and the engine stops sampling.

    Raises: Absent; Refused with what the engine said.
    """
    client, answer = await send(
        "POST", path, json.dumps(body | {"stream": True}).encode(), "application/json", account
    )
    try:
        if answer.status_code != 200:
            raise _refusal(await answer.aread())
        async for line in answer.aiter_lines():
            if len(line) > MAX_EVENT_BYTES:
                raise Refused("The engine streams an event that is too large.")
            if not line.startswith("data:") or (data := line[5:].strip()) == "[DONE]":
                continue
            event = json.loads(data)
            if "error" in event:
                raise _refusal(data.encode())
            yield event
    except httpx.TransportError:
        raise Absent(LOST) from None
    finally:
        await answer.aclose()
        await client.aclose()


def _refusal(data: bytes) -> Refused:
    try:
        told = json.loads(data)["error"]
        return Refused(str(told["message"])[:1000], told.get("code"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Refused("The engine answered with an error and did not say which.")


def _client() -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {settings.ENGINE_KEY}"}
    if settings.ENGINE_URL.startswith("unix://"):
        transport = httpx.AsyncHTTPTransport(uds=settings.ENGINE_URL.removeprefix("unix://"))
        return httpx.AsyncClient(
            transport=transport, base_url="http://engine", headers=headers, timeout=TIMEOUT
        )
    return httpx.AsyncClient(base_url=settings.ENGINE_URL, headers=headers, timeout=TIMEOUT, trust_env=False)
