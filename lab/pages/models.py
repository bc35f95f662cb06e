"""What the engine serves, and how to speak to it from any client."""

from typing import Any

import httpx
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path

from lab.queries import machine


def models(request: HttpRequest) -> HttpResponse:
    served, error = _served()
    context = {"served": served, "error": error, "example": served[0]["id"] if served else "MODEL"}
    return render(request, "home/models.html", context)


def _served() -> tuple[list[dict[str, Any]], str]:
    """The engine's list, or a sentence that says why there is none."""
    try:
        with machine.engine_client() as client:
            answer = client.get("/v1/models")
            answer.raise_for_status()
            return answer.json()["data"], ""
    except (httpx.HTTPError, OSError, ValueError, KeyError):
        return (
            [],
            "The engine does not answer: it is starting, or it has stopped. The terminal of make run tells.",
        )


urlpatterns = [path("models", models, name="models")]
