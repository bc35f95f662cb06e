"""The home: the board of all lineages, what runs, what waits for a person, and what could come next."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import get_template
from django.urls import path, reverse

from core_ml import recipes
from core_ml.recipe import Recipe
from lab.models import Project, Run, Tour
from lab.models.run import FAILED, LIVE, QUEUED, SUCCEEDED
from lab.pages.context import COLUMN_TITLES
from lab.pages.tour import steps as tour_steps
from lab.queries import artifacts, machine
from lab.queries.board import COLUMNS, Stone, board, waiting_groups
from lab.queries.headlines import headlines, say
from lab.templatetags.lab import letter, moment, number, stone

N_WAITING, N_NEXT, N_RUNNING = 3, 2, 2

TOUR_STONES = (
    (3, "thousands of pages", "of this machine's own Python"),
    (8, "a vocabulary of 1,024", "learnt from those pages"),
    (14, "a network of 1 M", "reads, and learns to continue"),
    (20, "50,000 conversations", "teach it to answer"),
    (25, "answers, ranked twice", "by a program, and by you"),
    (30, "an aligned model", "practises what was liked"),
    (35, "a report card", "what each stage improved"),
)
"""What the tour will make, for the board of an empty lab: column, name, half-sentence."""


def home(request: HttpRequest) -> HttpResponse:
    """The whole page, or with `?live` only what changes while runs are at work."""
    if not Run.objects.filter(deleted=None).exists():
        return _empty(request)
    context = {"section": "home", **live_parts()}
    return render(request, "home/live.html" if "live" in request.GET else "home/home.html", context)


def _empty(request: HttpRequest) -> HttpResponse:
    first, *others = TOUR_STONES
    context = {
        "section": "home",
        "columns": [(COLUMNS[name], *COLUMN_TITLES[name]) for name in COLUMNS],
        "first": first,
        "others": others,
        "mesh": mesh(9),
    }
    return render(request, "home/empty.html", context)


def board_parts(only: set[int] | None = None) -> dict[str, Any]:
    """The map of all runs, or of those with the given numbers, as its template wants it."""
    drawn = board(only)
    lines = headlines([one.run for one in drawn.stones if one.run])
    return {
        "board": drawn,
        "columns": [(COLUMNS[name], *COLUMN_TITLES[name]) for name in COLUMNS],
        "mesh": mesh(drawn.n_rows),
        "height": 32 * drawn.n_rows,
        "stones": [
            _on_board(one, say(one.run, lines[one.run.pk]) if one.run else "") for one in drawn.stones
        ],
    }


def live_parts() -> dict[str, Any]:
    running = list(
        Run.objects.filter(status__in=LIVE, deleted=None).exclude(status=QUEUED).order_by("id")[:N_RUNNING]
    )
    curves = headlines(running, curves=True)
    tour = Tour.objects.filter(status="running").first()
    return {
        **board_parts(),
        "running": [(run, curves[run.pk]) for run in running],
        "n_queued": Run.objects.filter(status=QUEUED, deleted=None).count(),
        "waiting": _waiting_for_people(),
        "next": _next(),
        "tour": tour,
        "last_tour": None if tour else Tour.objects.first(),
        "tour_parts": tour_steps(tour) if tour else [],
        "tour_words": f"one whole life, started {moment(tour.created)}; it goes on by itself" if tour else "",
        "is_live": bool(tour) or Run.objects.filter(status__in=LIVE, deleted=None).exists(),
    }


def mesh(height: int) -> str:
    """The board's own lines as an SVG path, 32 units to a field."""
    bottom = 32 * (height - 1)
    across = [f"M32 {32 * y}H1184" for y in range(2, height)]
    down = [f"M{32 * x} 64V{bottom}" for x in range(1, 38)]
    return "".join(down + across)


def _on_board(one: Stone, words: str) -> dict[str, Any]:
    item = {"x": round(one.x), "y": round(one.y), "id": one.id, "small": one.small, "stage": _stage(one)}
    if one.project:
        look = "people running" if one.is_live else "people"
        done = "settled" if one.project.corrects else "ranked"
        ranked = f"{number(one.n_groups - one.n_left)} of {number(one.n_groups)} groups {done}"
        url = reverse("labeling_project", args=[one.project.pk])
        return item | {"stone": look, "number": letter(one.project.pk), "name": one.project.name, "words": ranked, "url": url}  # fmt: skip
    if one.arena:
        counted = zip(one.arena, ("model", "vote"), strict=True)
        words = ", ".join(f"{number(n)} {what}{'s' if n != 1 else ''}" for n, what in counted)
        return item | {
            "stone": "people",
            "number": "",
            "name": "Arena",
            "words": words,
            "url": reverse("arena"),
        }
    if one.planned:
        kind = one.planned
        url = reverse("new_run_kind", args=[kind]) if kind in recipes.all_recipes() else reverse("runs")
        return item | {"stone": "waiting", "number": "+", "name": "Reward model", "words": "learns from the rankings", "url": url}  # fmt: skip
    run = one.run
    assert run is not None
    if one.stack:
        name = f"{len(one.stack)} runs"
        return item | {"stone": stone(run.status), "number": len(one.stack), "name": name, "words": f"of {run.kind}", "url": f"{reverse('runs')}?q=kind:{run.kind}"}  # fmt: skip
    return item | {"stone": stone(run.status), "number": run.pk, "name": run.name, "words": words, "url": reverse("run", args=[run.pk]), "status": run.status}  # fmt: skip


def _stage(one: Stone) -> str:
    """The stage's title, for phones, where there are no columns. What people rank serves alignment."""
    if one.arena:
        return COLUMN_TITLES["arena"][0]
    recipe = recipes.all_recipes().get(one.run.kind) if one.run else None
    return COLUMN_TITLES[recipe.stage if recipe else "aligned" if not one.run else "pages"][0]


def _waiting_for_people() -> list[dict[str, Any]]:
    """Failures that nobody has followed up, and groups to rank."""
    items = []
    for run in Run.objects.filter(status=FAILED, deleted=None).order_by("-ended")[:10]:
        if run.clones.filter(deleted=None).exists() or len(items) == N_WAITING - 1:
            continue
        error = run.error or {}
        items.append(
            {
                "stone": "failed",
                "number": run.pk,
                "title": f"{run.name} failed.",
                "text": error.get("message", ""),
                "url": reverse("run", args=[run.pk]),
                "action": "See why, and what to try",
            }
        )
    for project in Project.objects.filter(closed=None)[:10]:
        n_left, _ = waiting_groups(project)
        if n_left and len(items) < N_WAITING:
            items.append(
                {
                    "stone": "people",
                    "number": letter(project.pk),
                    "title": f"{number(n_left)} group{'s' if n_left > 1 else ''} to rank in “{project.name}”",
                    "text": "A reward model learns what people prefer from these, and from nothing else.",
                    "url": reverse("label_project", args=[project.pk]),
                    "action": "Rank some",
                }
            )
    return items


def _next() -> list[dict[str, Any]]:
    """Recipes that nobody has run although what they need stands ready; then, things to do with the newest model."""
    played = set(
        Run.objects.filter(deleted=None, status__in=(*LIVE, SUCCEEDED)).values_list("kind", flat=True)
    )
    items = []
    for kind, recipe in recipes.all_recipes().items():
        if kind not in played and recipe.takes and ready(recipe) and len(items) < N_NEXT:
            items.append(
                {
                    "title": recipe.title,
                    "text": recipe.explanation.split(". ")[0].rstrip(".") + ".",
                    "url": reverse("new_run_kind", args=[kind]),
                    "action": f"Start {kind}",
                }
            )
    checkpoint = artifacts.visible("checkpoint").exclude(role__in=("reward", "base")).first()
    if checkpoint and len(items) < N_NEXT:
        items.append(
            {
                "title": f"Talk to {checkpoint.name}",
                "text": "See each token with its probability and its rivals, and branch where you like.",
                "url": reverse("playground"),
                "action": "Open the playground",
            }
        )
    pretrains = Run.objects.filter(deleted=None, status=SUCCEEDED, kind="pretrain").order_by("-id")[:2]
    if len(pretrains) == 2 and len(items) < N_NEXT:
        a, b = pretrains
        items.append(
            {
                "title": f"Compare #{b.pk} and #{a.pk}",
                "text": "Two base models stand here: their curves and what differs in their configs, side by side.",
                "url": f"{reverse('compare')}?ids={b.pk},{a.pk}",
                "action": "Compare",
            }
        )
    return items


def ready(recipe: Recipe) -> bool:
    """Whether each needed input could be chosen now."""
    return not recipe.lacking({name: artifacts.options(recipe, name).exists() for name in recipe.takes})


def machine_facts(request: HttpRequest) -> HttpResponse:
    """A fragment: asking queue and workers takes a moment, for which the page does not wait."""
    state = machine.state()
    parts = {"database": state["database"], "queue": state["queue"], "engine": state["engine"]["status"]}
    silent = [name for name, answer in parts.items() if answer != "ok"] + (
        [] if state["workers"] else ["worker"]
    )
    context = {"state": state, "silent": silent, "gpu": machine.gpu(), "home": settings.LAB_HOME}
    return render(request, "home/machine.html", context)


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


urlpatterns = [path("", home, name="home"), path("machine", machine_facts, name="machine")]
