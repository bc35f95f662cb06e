"""What goes over the wire: JSON in and out, and every exception as `{"detail", "errors"}`."""

import errno
import json
import logging
import math
from typing import Any

from django.core.exceptions import ObjectDoesNotExist, RequestDataTooBig, SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse
from django.http.request import UnreadablePostError
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError
from ninja.parser import Parser
from ninja.renderers import JSONRenderer

from core_ml.errors import UserError
from lab.errors import Conflict, FieldError, Invalid, NotAllowed

logger = logging.getLogger(__name__)
SOURCES = ("body", "form", "file")


class StrictParser(Parser):
    """JSON without what the database cannot hold: NUL, halves of surrogate pairs, NaN and infinities.

    ninja tells the caller nothing about what is raised here, so the reason is left on the request.
    """

    def parse_body(self, request: HttpRequest) -> Any:
        kind = (request.content_type or "").lower()
        if kind and kind != "application/json":
            raise _unreadable(request, 415, f"The body is {kind}: send application/json.")
        try:
            data = json.loads(request.body, parse_constant=_refuse_constant)
            _check(data)
        except RecursionError:
            raise _unreadable(request, 400, "The body is nested too deeply.") from None
        except ValueError as error:
            raise _unreadable(request, 400, f"The body is not JSON: {error}.") from None
        return data

    def parse_querydict(self, data: Any, list_fields: list[str], request: HttpRequest) -> Any:
        for key in data:
            for value in data.getlist(key):
                if isinstance(value, str) and "\0" in key + value:
                    raise HttpError(400, f"{key[:40]!r} holds a NUL character.")
        return super().parse_querydict(data, list_fields, request)


def _unreadable(request: Any, status: int, detail: str) -> ValueError:
    request.unreadable = HttpError(status, detail)
    return ValueError(detail)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _check(data: Any) -> None:
    if isinstance(data, str):
        if "\0" in data:
            raise ValueError("a text holds a NUL character")
        try:
            data.encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds half of a surrogate pair") from None
    elif isinstance(data, float):
        # 1e999 is read as infinity without asking parse_constant.
        if not math.isfinite(data):
            raise ValueError("a number is too large")
    elif isinstance(data, int):
        if abs(data) >= 2**63:
            raise ValueError("an integer has more than 63 bits")
    elif isinstance(data, list):
        for value in data:
            _check(value)
    elif isinstance(data, dict):
        for key, value in data.items():
            _check(key)
            _check(value)


class FiniteRenderer(JSONRenderer):
    """Numbers that JSON has no word for become null; Python's own writer would make a text nobody can read."""

    def render(self, request: HttpRequest, data: Any, *, response_status: int) -> Any:
        try:
            return json.dumps(data, cls=self.encoder_class, allow_nan=False)
        except ValueError:
            return json.dumps(_finite(data), cls=self.encoder_class, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data


def handle_errors(api: NinjaAPI) -> None:
    """Register how each exception is told."""

    def tell(
        request: HttpRequest, status: int, detail: str, errors: list[FieldError] | None = None
    ) -> HttpResponse:
        shown = [{"field": error.field, "message": error.message} for error in errors or []]
        return api.create_response(request, {"detail": detail, "errors": shown}, status=status)

    def invalid(request: HttpRequest, error: Invalid) -> HttpResponse:
        return tell(request, 422, str(error), error.errors)

    def user_error(request: HttpRequest, error: UserError) -> HttpResponse:
        return tell(request, 422, error.message, [FieldError(error.field or "", error.message)])

    def validation(request: HttpRequest, error: ValidationError) -> HttpResponse:
        return invalid(request, Invalid([_field_error(entry) for entry in error.errors]))

    def http_error(request: Any, error: HttpError) -> HttpResponse:
        error = getattr(request, "unreadable", error)
        return tell(request, error.status_code, str(error))

    def failure(request: HttpRequest, error: Exception) -> HttpResponse:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return tell(request, 507, "The disk is full: free some space and try again; nothing was kept.")
        logger.exception("%s %s failed", request.method, request.path)
        return tell(request, 500, "This failed on our side; the server's log says where.")

    api.add_exception_handler(Invalid, invalid)
    api.add_exception_handler(UserError, user_error)
    api.add_exception_handler(ValidationError, validation)
    api.add_exception_handler(HttpError, http_error)
    api.add_exception_handler(NotAllowed, lambda request, error: tell(request, 403, str(error)))
    api.add_exception_handler(Conflict, lambda request, error: tell(request, 409, str(error)))
    for missing in (Http404, ObjectDoesNotExist):
        api.add_exception_handler(
            missing, lambda request, _: tell(request, 404, "There is no such thing here.")
        )
    api.add_exception_handler(
        RequestDataTooBig, lambda request, _: tell(request, 413, "The body is too large.")
    )
    api.add_exception_handler(
        SuspiciousOperation, lambda request, _: tell(request, 400, "The request is malformed.")
    )
    api.add_exception_handler(
        UnreadablePostError, lambda request, _: tell(request, 400, "The body broke off.")
    )
    api.add_exception_handler(Exception, failure)


def _field_error(entry: dict[str, Any]) -> FieldError:
    """One of pydantic's errors; its place loses what only the code knows: the source and the argument's name."""
    source, *place = entry["loc"]
    if source in SOURCES and place and place[0] == "data":
        place = place[1:]
    message = entry["msg"].removeprefix("Value error, ")
    return FieldError(".".join(str(part) for part in place), message[:1].upper() + message[1:])
