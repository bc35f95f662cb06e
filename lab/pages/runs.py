"""Runs: the table, one run live, several side by side, and what people do with them."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path


def runs(request: HttpRequest) -> HttpResponse:
    return render(request, "home/home.html", {"section": "runs"})


def run(request: HttpRequest, id: int, tab: str = "overview") -> HttpResponse:
    return render(request, "home/home.html", {"section": "runs"})


urlpatterns = [
    path("runs", runs, name="runs"),
    path("runs/<int:id>", run, name="run"),
    path("runs/<int:id>/<str:tab>", run, name="run_tab"),
]
