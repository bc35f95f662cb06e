"""`Idempotency-Key` on any POST: a repeated request gets the first one's answer and does nothing."""

import hashlib
import json
from collections.abc import Callable
from functools import wraps
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse, JsonResponse

from lab.errors import Conflict
from lab.security import problem
from lab.services import idempotency

MAX_KEY = 200


def slow(view: Callable[..., Any]) -> Callable[..., Any]:
    """Mark an operation that copies or fetches: it must not hold a transaction."""
    view.is_slow = True  # type: ignore[attr-defined]
    return view


def secret(view: Callable[..., Any]) -> Callable[..., Any]:
    """Mark an operation whose answer is shown once."""
    view.is_secret = True  # type: ignore[attr-defined]
    return view


def idempotent(run: Any) -> Any:
    """Wraps `Operation.run` of every operation of the API."""
    if iscoroutinefunction(run):
        return run
    view = run.__self__.view_func

    @wraps(run)
    def wrapped(request: Any, **kwargs: Any) -> HttpResponse:
        key = request.headers.get("Idempotency-Key")
        if request.method != "POST" or key is None or request.role is None:
            return run(request, **kwargs)
        if not 0 < len(key) <= MAX_KEY or not key.isprintable():
            return problem(400, f"An Idempotency-Key has 1 to {MAX_KEY} printable characters.")

        def act() -> idempotency.Answer:
            response = run(request, **kwargs)
            return response.status_code, json.loads(response.content or b"null")

        try:
            (status, body), repeated = idempotency.once(
                request.user,
                key,
                _fingerprint(request),
                act,
                slow=getattr(view, "is_slow", False),
                secret=getattr(view, "is_secret", False),
            )
        except Conflict as error:
            return problem(409, str(error))
        if status == 204:
            return HttpResponse(status=204)
        response = JsonResponse(body, status=status, safe=False)
        if repeated:
            response["Idempotent-Replayed"] = "true"
        return response

    return wrapped


def _fingerprint(request: HttpRequest) -> str:
    """Of method, address and body. Of an upload the files' content counts, not the boundary between them."""
    digest = hashlib.sha256(f"{request.method} {request.get_full_path()}\n".encode())
    if request.content_type == "multipart/form-data":
        for name in sorted(request.POST):
            digest.update(json.dumps([name, request.POST.getlist(name)]).encode())
        for name, file in sorted(request.FILES.items()):
            digest.update(json.dumps([name, file.name]).encode())
            for chunk in file.chunks():
                digest.update(chunk)
            file.seek(0)
    else:
        digest.update(request.body)
    return digest.hexdigest()
