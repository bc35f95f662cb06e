"""Jumping: runs by number or name, artifacts, projects, pages and actions, for Ctrl K and for those without script."""

from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import path, reverse

from core_ml import recipes
from lab.models import Project
from lab.queries import artifacts, runs
from lab.templatetags.lab import letter, stone

N_RESULTS = 10
PAGES = (
    ("Home", "home"),
    ("Runs", "runs"),
    ("Datasets", "datasets"),
    ("Tokenizers", "tokenizers"),
    ("Checkpoints", "checkpoints"),
    ("Playground", "playground"),
    ("Labelling", "labeling"),
    ("Rank answers", "label"),
    ("Arena", "arena"),
    ("Ratings", "arena_ratings"),
    ("Models", "models"),
    ("Settings", "settings"),
    ("Styleguide", "styleguide"),
)
ARTIFACT_PAGES = {
    "dataset": "dataset",
    "tokenizer": "tokenizer",
    "checkpoint": "checkpoint",
    "export": "export",
}


def search(request: HttpRequest) -> HttpResponse:
    q = request.GET.get("q", "").strip()[:100]
    items = found(q)
    if request.GET.get("format") == "json":
        return JsonResponse({"items": items})
    return render(request, "home/search.html", {"q": q, "items": items})


def found(q: str) -> list[dict[str, Any]]:
    """Things whose names hold every word of `q`, runs first; pages and actions when nothing was typed."""
    words = q.lower().split()
    items = _runs(q) + _artifacts(q) + _projects(q)
    if not words:
        items = items[:4]
    places = [_item("empty", "", title, "page", reverse(name)) for title, name in PAGES]
    places += [
        _item("waiting", "+", f"New run: {recipe.title}", "do", reverse("new_run_kind", args=[kind]))
        for kind, recipe in recipes.all_recipes().items()
    ]
    items += [
        item for item in places if all(word in f"{item['name']} {item['kind']}".lower() for word in words)
    ]
    return items[:N_RESULTS]


def _item(stone: str, number: object, name: str, kind: str, url: str) -> dict[str, Any]:
    return {"stone": stone, "number": str(number), "name": name, "kind": kind, "url": url}


def _runs(q: str) -> list[dict[str, Any]]:
    matching = _every_word(runs.recent(), q, lambda queryset, word: queryset & runs.recent(q=word))
    return [
        _item(stone(run.status), run.pk, run.name, f"{run.kind}, {run.status}", reverse("run", args=[run.pk]))
        for run in matching[:6]
    ]


def _artifacts(q: str) -> list[dict[str, Any]]:
    matching = _every_word(
        artifacts.visible(), q, lambda queryset, word: queryset & artifacts.visible(q=word)
    )
    return [
        _item(
            "",
            artifact.run_id or "",
            artifact.name,
            f"{artifact.kind}, {artifact.what}" if artifact.what else artifact.kind,
            reverse(ARTIFACT_PAGES[artifact.kind], args=[artifact.pk]),
        )
        for artifact in matching[:6]
    ]


def _projects(q: str) -> list[dict[str, Any]]:
    matching = _every_word(
        Project.objects.all(), q, lambda queryset, word: queryset.filter(name__icontains=word)
    )
    return [
        _item(
            "people",
            letter(project.pk),
            project.name,
            "labelling",
            reverse("labeling_project", args=[project.pk]),
        )
        for project in matching[:3]
    ]


def _every_word(queryset: Any, q: str, narrowed: Any) -> Any:
    for word in q.split()[:6]:
        queryset = narrowed(queryset, word)
    return queryset


urlpatterns = [path("search", search, name="search")]
