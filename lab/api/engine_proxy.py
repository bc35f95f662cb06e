"""The protocol that all clients speak, at the lab's own address: /v1 goes through to the engine as it stands.

`lab.security.signed_in` has found out who asks, by token or by session; the engine is shown its own key, and
never theirs. Answers stream through; when the caller leaves, the connection to the engine closes with it,
and the engine stops sampling.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from lab.models import ROLES
from lab.security import engine_problem
from lab.services import engine

PASSED_ON = ("content-type", "x-request-id", "cache-control")


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
    content = request.body if request.method == "POST" else None
    try:
        client, answer = await engine.send(
            request.method, address, content, request.headers.get("Content-Type", ""), request.user.pk
        )
    except engine.Absent as error:
        return _error(503, str(error))
    headers = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
    if headers.get("content-type", "").startswith("text/event-stream"):
        # nginx would otherwise keep the tokens until its buffer is full.
        headers["X-Accel-Buffering"] = "no"
        return StreamingHttpResponse(_relay(client, answer), status=answer.status_code, headers=headers)
    try:
        body = await answer.aread()
    except httpx.TransportError:
        return _error(503, engine.ABSENT)
    finally:
        await answer.aclose()
        await client.aclose()
    return HttpResponse(body, status=answer.status_code, headers=headers)


async def _relay(client: httpx.AsyncClient, answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in answer.aiter_raw():
            yield part
    except httpx.TransportError:
        yield b"data: " + json.dumps(engine_problem(503, engine.LOST)).encode() + b"\n\n"
    finally:
        await answer.aclose()
        await client.aclose()


def _error(status: int, message: str) -> HttpResponse:
    return JsonResponse(engine_problem(status, message), status=status)


urlpatterns = [
    path("models", models),
    path("models/<path:id>", model),
    path("completions", completions),
    path("chat/completions", chat_completions),
]
"""To be included below /v1/."""
