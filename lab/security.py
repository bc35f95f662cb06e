"""Who may ask for what, closed by default: response headers, same-origin writes, signed-in accounts.

An address is open only when it stands in OPEN. `/api/` and `/v1/` answer to a bearer token or to the
session of our own pages; every other address to the session alone. A labeler reaches what stands in
LABELER_PAGES, LABELER_PLACES and LABELER_API. A view finds the account in `request.user` and the role in
`request.role`, which for a token may be less than the account's.
"""

import json
from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.exceptions import DisallowedHost, PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.utils.decorators import sync_and_async_middleware, sync_only_middleware

from lab.services import accounts

GetResponse = Callable[[HttpRequest], Any]

OPEN = ("/sign-in", "/api/v1/health", "/favicon.ico")
MACHINE = ("/api/", "/v1/")
"""Prefixes of what programs call: answers and errors are JSON."""
LABELER_PAGES = ("/label", "/sign-out")
LABELER_PLACES = ("/arena",)
"""Pages that a labeler reaches without what stands below them."""
LABELER_API = ("/api/v1/labeling", "/api/v1/arena/battles", "/api/v1/me")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")

POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'{style}; img-src 'self' data: blob:; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def plots(view: Callable[..., Any]) -> Callable[..., Any]:
    """Let a page hold Plotly, which writes style elements and attributes of its own."""
    if iscoroutinefunction(view):

        @wraps(view)
        async def asynchronous(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            response: HttpResponseBase = await view(request, *args, **kwargs)
            response["Content-Security-Policy"] = POLICY.format(style=" 'unsafe-inline'")
            return response

        return asynchronous

    @wraps(view)
    def synchronous(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response: HttpResponseBase = view(request, *args, **kwargs)
        response["Content-Security-Policy"] = POLICY.format(style=" 'unsafe-inline'")
        return response

    return synchronous


def is_machine(request: HttpRequest) -> bool:
    return request.path_info.startswith(MACHINE)


def problem(status: int, detail: str, **headers: str) -> JsonResponse:
    """An error as every endpoint of ours tells it."""
    response = JsonResponse({"detail": detail, "errors": []}, status=status, headers=headers)
    response.detail = detail  # type: ignore[attr-defined]
    return response


def engine_problem(status: int, message: str) -> dict[str, Any]:
    """An error as clients of the engine's protocol expect it below /v1/."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


@sync_and_async_middleware
def headers(get_response: GetResponse) -> GetResponse:
    """Refuse foreign host names; add the headers that every answer carries; tell a program's errors as JSON."""
    if iscoroutinefunction(get_response):

        async def asynchronous(request: HttpRequest) -> HttpResponseBase:
            return _foreign_host(request) or _finished(request, await get_response(request))

        return asynchronous

    def synchronous(request: HttpRequest) -> HttpResponseBase:
        return _foreign_host(request) or _finished(request, get_response(request))

    return synchronous


def _foreign_host(request: HttpRequest) -> HttpResponse | None:
    try:
        request.get_host()
    except DisallowedHost:
        detail = "This host name is not one of the lab's: add it to LAB_ALLOWED_HOSTS if it should be."
        return _finished(request, problem(400, detail))
    return None


def _finished(request: HttpRequest, response: Any) -> Any:
    if response.status_code >= 400 and is_machine(request) and not _is_json(response):
        # What Django answers by itself: an unknown address, a wrong method, a failure.
        plain = problem(response.status_code, HTTPStatus(response.status_code).phrase)
        if response.has_header("Allow"):
            plain["Allow"] = response["Allow"]
        response = plain
    if request.path_info.startswith("/v1/") and hasattr(response, "detail"):
        response.content = json.dumps(engine_problem(response.status_code, response.detail))
        response["Content-Length"] = len(response.content)
    response.setdefault("Content-Security-Policy", POLICY.format(style=""))
    response.setdefault("X-Content-Type-Options", "nosniff")
    response.setdefault("X-Frame-Options", "DENY")
    response.setdefault("Referrer-Policy", "same-origin")
    response.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    if is_machine(request):
        response.setdefault("Cache-Control", "no-store")
    return response


def _is_json(response: Any) -> bool:
    return response.get("Content-Type", "").partition(";")[0] in ("application/json", "text/event-stream")


@sync_and_async_middleware
def same_origin(get_response: GetResponse) -> GetResponse:
    """Refuse a write that another site's page sends; programs send neither Origin nor Sec-Fetch-Site."""
    if iscoroutinefunction(get_response):

        async def asynchronous(request: HttpRequest) -> HttpResponseBase:
            answer: HttpResponseBase = _foreign_write(request) or await get_response(request)
            return answer

        return asynchronous

    def synchronous(request: HttpRequest) -> HttpResponseBase:
        answer: HttpResponseBase = _foreign_write(request) or get_response(request)
        return answer

    return synchronous


def _foreign_write(request: HttpRequest) -> HttpResponse | None:
    if request.method in SAFE_METHODS:
        return None
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if origin is not None and _netloc(origin) != request.get_host().lower():
        return problem(403, "This request comes from a page of another site.")
    if site is not None and site not in ("same-origin", "none"):
        return problem(403, "This request comes from a page of another site.")
    return None


def _netloc(origin: str) -> str:
    """Host and port of an origin; empty for "null" and for what is no origin."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


# It asks the database, so it is sync; as the innermost middleware it makes Django run the whole chain in one
# thread, where an asynchronous one would cost a change of threads for each of Django's own.
@sync_only_middleware
def signed_in(get_response: GetResponse) -> GetResponse:
    def middleware(request: HttpRequest) -> HttpResponseBase:
        request.role = None  # type: ignore[attr-defined]
        path = request.path_info
        if path in OPEN or path.startswith(settings.STATIC_URL):
            refusal = None
        elif is_machine(request):
            refusal = _refuse_program(request)
        else:
            refusal = _refuse_person(request)
        answer: HttpResponseBase = refusal or get_response(request)
        return answer

    return middleware


def _refuse_program(request: Any) -> HttpResponse | None:
    authorization = request.headers.get("Authorization")
    if authorization is not None:
        scheme, _, secret = authorization.partition(" ")
        token = accounts.verify_token(secret.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            return problem(401, "This token is not valid, or no longer.", **{"WWW-Authenticate": "Bearer"})
        request.user, request.role, request.by_token = token.account, accounts.reach(token), True
    elif request.user.is_authenticated:
        request.role, request.by_token = request.user.role, False
        if refusal := _unproven(request):
            return refusal
    elif request.path_info == "/api/v1/docs":
        return redirect(_sign_in(request))
    else:
        return problem(401, "Send a token: Authorization: Bearer …", **{"WWW-Authenticate": "Bearer"})
    if request.role == "labeler" and not _below(request.path_info, LABELER_API):
        return problem(403, "A labeler reaches only the endpoints of labelling and of battles.")
    return None


def _unproven(request: HttpRequest) -> HttpResponse | None:
    """A session's write must be one that only our own pages can send.

    A foreign page can make a browser send a form or plain text with our cookie, but neither JSON nor a header
    of its choice; and `same_origin` has already refused whatever names a foreign origin.
    """
    if request.method in SAFE_METHODS or request.content_type == "application/json":
        return None
    if request.headers.get("Origin") or request.headers.get("Sec-Fetch-Site") == "same-origin":
        return None
    return problem(403, "Send application/json, or say by Origin that this comes from the lab's own page.")


def _refuse_person(request: Any) -> HttpResponse | None:
    if not request.user.is_authenticated:
        if request.headers.get("HX-Request"):
            # htmx would put the sign-in page into a corner of this one.
            return HttpResponse(status=401, headers={"HX-Redirect": "/sign-in"})
        return redirect(_sign_in(request))
    request.role = request.user.role
    path = request.path_info
    if request.role == "labeler" and path not in LABELER_PLACES and not _below(path, LABELER_PAGES):
        if path == "/":
            return redirect("/label")
        raise PermissionDenied("A labeler sees only the labelling pages and the arena.")
    return None


def _sign_in(request: HttpRequest) -> str:
    here = request.get_full_path() if request.method == "GET" else "/"
    return "/sign-in" if here == "/" else f"/sign-in?next={quote(here)}"


def _below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)
