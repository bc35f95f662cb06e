"""The home: the board of all lineages, what runs, what waits for a person, and what could come next."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import get_template
from django.urls import path, reverse


def home(request: HttpRequest) -> HttpResponse:
    return render(request, "home/home.html", {"section": "home"})


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _error(
        request, 403, "Not for your role", str(exception or "") or "Your account does not reach so far."
    )


def missing(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _error(
        request, 404, "Nothing stands here", "The address leads to nothing: it was mistyped, or deleted."
    )


def _error(request: HttpRequest, status: int, title: str, text: str) -> HttpResponse:
    labeler = request.user.is_authenticated and not request.user.may("researcher")
    url, action = (
        ("/label", "To the labelling") if labeler else (reverse("home"), "To the life of your models")
    )
    context = {"title": title, "text": text, "url": url, "action": action}
    return render(request, "errors/error.html", context, status=status)


def broken(request: HttpRequest) -> HttpResponse:
    """Without context: whatever failed may fail again in it."""
    return HttpResponse(get_template("errors/500.html").render({}), status=500)


urlpatterns = [path("", home, name="home")]
