"""Addresses for programs: the REST API, and the engine's own protocol for every model of the lab."""

from importlib.util import find_spec
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.urls import URLPattern, URLResolver, include, path, re_path
from django.views.decorators.csrf import csrf_exempt

from lab.api.app import api
from lab.security import problem


@csrf_exempt
def missing(request: HttpRequest, **_: Any) -> JsonResponse:
    return problem(404, "There is no such address; /api/v1/docs lists those that are.")


urlpatterns: list[URLPattern | URLResolver] = [path("api/v1/", api.urls)]
if find_spec("lab.api.engine_proxy"):
    urlpatterns.append(path("v1/", include("lab.api.engine_proxy")))
urlpatterns.append(re_path(r"^(?:api|v1)(?:/.*)?$", missing))
