"""The protocol that all clients speak, at the lab's own address: /v1 goes through to the engine as it stands.

`lab.security.signed_in` has found out who asks, by token or by session; the engine is shown its own key, and
never theirs. Answers stream through; when the caller leaves, the connection to the engine closes with it,
and the engine stops sampling.
"""

import json
from collections.abc import AsyncIterator
from http import HTTPMethod
from typing import Any

import httpx
from asgiref.sync import sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from lab.models import ROLES
from lab.security import engine_problem
from lab.services import served

TIMEOUT = httpx.Timeout(600, connect=5)
"""A long completion behind a full batch may take minutes; whether the engine is there is known at once."""
PASSED_ON = ("content-type", "x-request-id", "cache-control")
ABSENT = (
    "The engine does not answer: it is starting, or it has stopped. Its log is in LAB_HOME/logs/engine.log."
)
KEY_REFUSED = "The engine does not take the lab's key: start both with the same ENGINE_KEY."
LOST = "The engine stopped in the middle of this answer: ask again."


@require_GET
async def models(request: HttpRequest) -> HttpResponseBase:
    return await _forward(request, "/v1/models")


@require_GET
async def model(request: HttpRequest, id: str) -> HttpResponseBase:
    return await _forward(request, f"/v1/models/{id}")


@csrf_exempt  # a token needs no form's secret, and signed_in weighs the writes of a session
@require_POST
async def completions(request: HttpRequest) -> HttpResponseBase:
    return await _forward(request, "/v1/completions")


@csrf_exempt
@require_POST
async def chat_completions(request: HttpRequest) -> HttpResponseBase:
    return await _forward(request, "/v1/chat/completions")


async def _forward(request: Any, address: str) -> HttpResponseBase:
    if request.role is None or ROLES.index(request.role) < ROLES.index("researcher"):
        return _error(403, "The engine answers to researchers and administrators.")
    sources = await sync_to_async(served.sources)()
    client = _client()
    try:
        asked = client.build_request(
            HTTPMethod(request.method),
            httpx.URL(path=address),
            content=request.body if request.method == "POST" else None,
            headers={
                "Content-Type": request.headers.get("Content-Type", ""),
                "x-sources": sources["version"],
            },
        )
        answer = await client.send(asked, stream=True)
        if answer.status_code == 428:  # the engine was started anew, or the list has changed
            await answer.aclose()
            (await client.put("/sources", json=sources)).raise_for_status()
            answer = await client.send(asked, stream=True)
        headers = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
        if headers.get("content-type", "").startswith("text/event-stream"):
            # nginx would otherwise keep the tokens until its buffer is full.
            headers["X-Accel-Buffering"] = "no"
            relayed, client = _relay(client, answer), None  # the stream closes it
            return StreamingHttpResponse(relayed, status=answer.status_code, headers=headers)
        body = await answer.aread()
    except httpx.HTTPStatusError:
        return _error(503, KEY_REFUSED)
    except (httpx.TransportError, OSError):
        return _error(503, ABSENT)
    finally:
        if client is not None:
            await client.aclose()
    if answer.status_code == 401:
        return _error(503, KEY_REFUSED)
    return HttpResponse(body, status=answer.status_code, headers=headers)


async def _relay(client: httpx.AsyncClient, answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in answer.aiter_raw():
            yield part
    except httpx.TransportError:
        yield b"data: " + json.dumps(engine_problem(503, LOST)).encode() + b"\n\n"
    finally:
        await answer.aclose()
        await client.aclose()


def _client() -> httpx.AsyncClient:
    """One for each request: a connection to a Unix socket costs nothing, and it belongs to one event loop."""
    headers = {"Authorization": f"Bearer {settings.ENGINE_KEY}"}
    if settings.ENGINE_URL.startswith("unix://"):
        transport = httpx.AsyncHTTPTransport(uds=settings.ENGINE_URL.removeprefix("unix://"))
        return httpx.AsyncClient(
            transport=transport, base_url="http://engine", headers=headers, timeout=TIMEOUT
        )
    return httpx.AsyncClient(base_url=settings.ENGINE_URL, headers=headers, timeout=TIMEOUT, trust_env=False)


def _error(status: int, message: str) -> HttpResponse:
    return JsonResponse(engine_problem(status, message), status=status)


urlpatterns = [
    path("models", models),
    path("models/<path:id>", model),
    path("completions", completions),
    path("chat/completions", chat_completions),
]
"""To be included below /v1/."""
