"""The HTTP side: routes, the key, bodies within bounds, event streams, and callers who leave."""

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from core_ml.engine.backend import Generation, Piece
from core_ml.engine.errors import ApiError, bad_request
from core_ml.engine.loop import Loop
from core_ml.engine.models import Models
from core_ml.engine.protocol import Answer, ChatAnswer, CompletionAnswer, chat_job, completion_job
from core_ml.engine.schemas import ChatRequest, CompletionRequest, check_known, parse
from core_ml.engine.sources import Sources

log = logging.getLogger(__name__)
MAX_BODY_BYTES = 8 << 20
ACCOUNT = "x-account"
"""The header in which a lab says for which of its accounts it asks."""
Done = TypeVar("Done")


def build(
    models: Models, loop: Loop, *, device: str, key: str | None = None, hosts: list[str] | None = None
) -> Starlette:
    """The application.

    Args:
        key: callers must show it as `Authorization: Bearer KEY`; None where only the owner can connect.
        hosts: names by which it may be called; a page of a foreign name that points here is refused.
    """
    routes = [
        Route("/health", health, methods=["GET"]),
        Route("/v1/models", list_models, methods=["GET"]),
        Route("/v1/models/{id:path}", one_model, methods=["GET"]),
        Route("/sources", put_sources, methods=["PUT"]),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
    ]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)] if hosts else []
    if key:
        middleware.append(Middleware(KeyRequired, key=key))
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
            ClientDisconnect: _left,
            Exception: _failure,
        },
    )
    app.state.models, app.state.loop, app.state.device = models, loop, device
    return app


class KeyRequired:
    """Turns strangers away. `/health` answers to anybody, and tells them nothing more than that it is up."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app, self.expected = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            shown = dict(scope["headers"]).get(b"authorization", b"")
            scope["known"] = secrets.compare_digest(shown, self.expected)
            if not scope["known"] and scope["path"] != "/health":
                error = ApiError(
                    401, "Show the engine's key: Authorization: Bearer KEY.", code="invalid_api_key"
                )
                await JSONResponse(error.body(), 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        await self.app(scope, receive, send)


async def health(request: Request) -> Response:
    state = request.app.state
    if not request.scope.get("known", True):
        return JSONResponse({"status": "ok"})
    running, waiting = state.loop.n_rows
    return JSONResponse(
        {
            "status": "ok",
            "device": state.device,
            "models": await asyncio.to_thread(state.models.loaded),
            "running": running,
            "waiting": waiting,
        }
    )


async def list_models(request: Request) -> Response:
    _check_sources(request)
    entries = await asyncio.to_thread(request.app.state.models.entries)
    return JSONResponse({"object": "list", "data": [entry.describe() for entry in entries]})


async def one_model(request: Request) -> Response:
    _check_sources(request)
    entry = await asyncio.to_thread(request.app.state.models.find, request.path_params["id"])
    return JSONResponse(entry.describe())


async def put_sources(request: Request) -> Response:
    """Take over the list of addresses and files. Only from who shows a key: paths and keys stand in it."""
    if not request.scope.get("known", False):
        raise ApiError(403, "An engine that is started without --key takes no list of models.")
    try:
        given = Sources.model_validate(await _body(request))
    except ValidationError as error:
        # Without its input, in which keys stand.
        raise bad_request(f"{error.errors(include_input=False)[0]['msg']}") from None
    request.app.state.models.sources = given
    return JSONResponse({"version": given.version})


async def completions(request: Request) -> Response:
    _check_sources(request)
    asked = parse(CompletionRequest, await _body(request))
    entry, backend = await request.app.state.models.get(asked.model)
    check_known(asked, backend.takes, entry.backend)
    answer = CompletionAnswer(entry.id, backend, asked)
    generation = await _unless_gone(
        request, backend.start(completion_job(asked, _client(request, asked.user)))
    )
    request.app.state.models.trim()
    return await _answer(request, answer, generation, asked.stream, asked.include_usage)


async def chat_completions(request: Request) -> Response:
    _check_sources(request)
    asked = parse(ChatRequest, await _body(request))
    entry, backend = await request.app.state.models.get(asked.model)
    check_known(asked, backend.takes, entry.backend)
    answer = ChatAnswer(entry.id, backend, asked)
    generation = await _unless_gone(request, backend.start(chat_job(asked, _client(request, asked.user))))
    request.app.state.models.trim()
    return await _answer(request, answer, generation, asked.stream, asked.include_usage)


def _client(request: Request, user: str | None) -> str:
    """Who takes turns with the others: the account that a lab speaks for, else the caller's `user`, else the caller.

    A lab's word goes first, or one of its accounts could take the turns of many by naming many users.
    """
    if account := request.headers.get(ACCOUNT):
        return f"account {account}"
    host = request.client.host if request.client else "socket"
    return f"{host} {request.headers.get('authorization', '')} {user or ''}"


def _check_sources(request: Request) -> None:
    """Who speaks for a lab says which list of models it goes by; an engine that was started anew has none."""
    wanted = request.headers.get("x-sources")
    if wanted is not None and wanted != request.app.state.models.sources.version:
        raise ApiError(428, "The engine has another list of models: send it.", code="sources")


async def _answer(
    request: Request, answer: Answer, generation: Generation, stream: bool, with_usage: bool
) -> Response:
    headers = {"x-request-id": answer.id, "Cache-Control": "no-store"}
    if stream:
        events = _events(answer, generation, with_usage)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)
    try:
        pieces = await _unless_gone(request, _collect(generation))
    finally:
        generation.close()
    return JSONResponse(answer.whole(pieces, generation), headers=headers)


async def _collect(generation: Generation) -> list[Piece]:
    return [piece async for piece in generation]


async def _events(answer: Answer, generation: Generation, with_usage: bool) -> AsyncIterator[bytes]:
    try:
        for choice in answer.begin(generation):
            yield _event(answer.chunk([choice], with_usage))
        async for piece in generation:
            if piece.text or piece.tokens or piece.calls or piece.finish_reason:
                yield _event(answer.chunk([answer.delta(piece)], with_usage))
        if with_usage:
            yield _event(answer.end(generation))
        yield b"data: [DONE]\n\n"
    except ApiError as error:
        yield _event(error.body())
    finally:
        generation.close()  # also when the caller has left


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def _unless_gone(request: Request, work: Awaitable[Done]) -> Done:
    """The result of the work, given up when the caller leaves. Raises ClientDisconnect."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> Any:
    """The JSON of a request. Raises ApiError for another type, for too much, and for what is no JSON."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # A foreign page can make a browser send text or a form here, but not JSON.
        raise ApiError(415, "Send the body as application/json.")
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY_BYTES:
            raise ApiError(413, f"The body is larger than {MAX_BODY_BYTES >> 20} MB: send less at a time.")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"The body is not JSON: {str(error)[:200]}") from None


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    return JSONResponse(told.body(), error.status_code, error.headers)


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _failure(request: Request, error: Exception) -> Response:
    return JSONResponse(ApiError(500, "The engine failed; its log says why.").body(), 500)
