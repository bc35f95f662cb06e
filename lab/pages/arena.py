"""The arena: a battle of two hidden models, the ratings that come of many, and the choice of who meets."""

import math
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils.text import capfirst
from django.views.decorators.http import require_GET, require_POST

from core_ml.evaluation.arena import Ties
from core_ml.evaluation.judging import BAD, LEFT, RIGHT, TIE
from lab import markup
from lab.errors import Conflict, Invalid
from lab.models import Contender
from lab.models.arena import SIDES
from lab.queries import arena as queries
from lab.queries import artifacts, judges, ratings
from lab.services import arena as services

STEP = 50
"""Points to which the axis of the ratings is rounded."""
N_RECENT = 12
WORDS = {LEFT: "left", RIGHT: "right", TIE: "as good", BAD: "both bad"}
TIES_NAMES = (("half", "half a win for each"), ("model", "an outcome of their own"))
VOTER_NAMES = (("people", "People"), ("judges", "Judges"), ("all", "Both"))


@require_GET
def arena(request: Any) -> HttpResponse:
    """The battle at hand. Who only labels sees no names here but those of a battle that they have voted on."""
    battle = queries.open_battle(request.user)
    is_researcher = request.role != "labeler"
    context = {
        "section": "arena",
        "stage": "arena",
        "n_active": Contender.objects.filter(is_active=True).count(),
        "n": queries.n_votes(request.user),
        "max_prompt": services.MAX_PROMPT,
        "script": {
            "battle": queries.shown(battle, request.user) if battle else None,
            "researcher": is_researcher,
            "turns": services.MAX_TURNS,
        },
    }
    if is_researcher:
        context |= _rated("people")
    return render(request, "arena/battle.html", context)


def _rated(voters: ratings.Voters, ties: Ties = "half") -> dict[str, Any]:
    board = ratings.leaderboard(voters, ties)
    return {
        "board": board,
        "start": math.floor(board.low / STEP) * STEP - STEP,
        "end": math.ceil(board.high / STEP) * STEP + STEP,
        "wins": ratings.wins(board, voters),
        "few": ratings.FEW,
    }


@require_GET
def arena_ratings(request: Any) -> HttpResponse:
    voters = request.GET.get("voters", "people")
    ties = request.GET.get("ties", "half")
    if voters not in ratings.VOTERS or ties not in ratings.TIES:
        raise Http404
    rated = _rated(voters, ties)
    found = judges.judges()
    context = {
        "section": "arena",
        "stage": "arena",
        "voters": voters,
        "voter_names": VOTER_NAMES,
        "ties": ties,
        "ties_names": TIES_NAMES,
        "counts": ratings.counts(),
        "effects": [_effect(one) for one in rated["board"].effects],
        "undecided": ratings.undecided(rated["board"], voters),
        "judges": found.judges,
        "people_longer": found.people_longer,
        "judged": _judged(),
        "can_judge": _can_judge(),
        "recent": [_recent(one) for one in queries.played(request.user).filter(abandoned=False)[:N_RECENT]],
        "export_url": reverse("api:download_votes"),
        **rated,
    }
    return render(request, "arena/ratings.html", context)


def _effect(effect: Any) -> dict[str, Any]:
    """A factor of the odds, which people read more easily than logits."""
    value, low, high = (math.exp(one) for one in (effect.value, effect.low, effect.high))
    return {"name": effect.name, "value": value, "low": low, "high": high, "sure": not low <= 1 <= high}


def _can_judge() -> list[tuple[str, str]]:
    """(value, title) of the lab's own checkpoints that answer; another server's model is asked for by name."""
    found = artifacts.visible("checkpoint").filter(role__in=services.JUDGES)[:60]
    return [(one.pk, f"{one.name}, {one.role}{f', run {one.run_id}' if one.run_id else ''}") for one in found]


def _judged() -> list[Any]:
    """Datasets of verdicts that may be brought in."""
    found = artifacts.visible("dataset").filter(form="rankings")[:200]
    return [one for one in found if str(one.summary.get("judge", "")).startswith("judge:")]


def _recent(battle: Any) -> dict[str, Any]:
    told = queries.told(battle)
    turns = [
        {"prompt": turn.prompt, "answers": [markup.html(one.text) for side in SIDES for one in turn.answers.all() if one.side == side]}
        for turn in battle.turns.all()
    ]  # fmt: skip
    votes = [one | {"word": WORDS[one["outcome"]]} for one in told["votes"]]
    return told | {"turns": turns, "votes": votes}


def arena_models(request: Any) -> HttpResponse:
    """Who may be drawn; without script, each change is a form of its own."""
    errors: dict[str, str] = {}
    if request.method == "POST":
        chosen = request.POST.getlist("model")[:200]
        if not chosen:
            errors["model"] = "no model is chosen: mark those that may be drawn"
        for model in chosen:
            try:
                made = services.add(request.user, model.replace("\0", ""))
                messages.info(request, f"{made.name} may be drawn from now on.")
            except Invalid as error:
                errors["model"] = error.errors[0].message
        if not errors:
            return redirect("arena_models")
    return _models(request, errors)


def _models(request: Any, errors: dict[str, str]) -> HttpResponse:
    fought = ratings.fought()
    contenders = [(one, fought.get(one.pk, 0)) for one in queries.contenders()]
    context = {
        "section": "arena",
        "stage": "arena",
        "contenders": contenders,
        "n_active": sum(one.is_active for one, _ in contenders),
        "candidates": queries.candidates(),
        "errors": errors,
    }
    return render(request, "arena/models.html", context, status=422 if errors else 200)


@require_POST
def change_contender(request: Any, id: int) -> HttpResponse:
    """Rest, wake, anchor, rename or remove, by the name of the button that was pressed."""
    contender = Contender.objects.filter(pk=id).first() if id < 2**31 else None
    if contender is None:
        raise Http404
    do = request.POST.get("do", "")
    try:
        if do == "remove":
            services.remove(contender)
            messages.info(request, f"{contender.name} is out of the arena.")
        elif do == "rename":
            services.change(contender, name=request.POST.get("name", ""))
        elif do in ("rest", "wake"):
            services.change(contender, active=do == "wake")
        elif do in ("anchor", "no-anchor"):
            services.change(contender, anchor=do == "anchor")
    except Invalid as error:
        messages.error(request, error.errors[0].message)
    except Conflict as error:
        messages.error(request, str(error))
    return redirect("arena_models")


@require_POST
def export(request: Any) -> HttpResponse:
    battles = request.POST.get("what") == "battles"
    try:
        if battles:
            made = services.export_battles(request.user)
        else:
            made = services.export(request.user, judges=request.POST.get("judges") == "true")
    except Conflict as error:
        messages.error(request, f"{capfirst(str(error))}.")
        return redirect("arena_ratings")
    if battles:
        messages.info(request, f"{made.summary['n_rows']:,} battles are a dataset for a judge now.")
    else:
        messages.info(request, f"{made.summary['rankings']:,} votes are a dataset of rankings now.")
    return redirect("dataset", made.pk)


@require_POST
def ask_judge(request: Any) -> HttpResponse:
    """Queue a run of a judge over all battles; its verdicts become votes when it ends."""
    try:
        run = services.ask_judge(request.POST.get("model", "")[:300].replace("\0", ""), request.user)
    except Conflict as error:
        messages.error(request, f"{capfirst(str(error))}.")
        return redirect(reverse("arena_ratings") + "#judges")
    except Invalid as error:
        messages.error(request, error.errors[0].message)
        return redirect(reverse("arena_ratings") + "#judges")
    messages.info(
        request,
        "The judge is asked; its verdicts become votes, marked as a judge's, when this run has ended.",
    )
    return redirect("run", run.pk)


@require_POST
def bring_judgements(request: Any) -> HttpResponse:
    """A judge's verdicts, from a dataset that a judge's run has made."""
    artifact = artifacts.find("dataset", request.POST.get("artifact", ""))
    if artifact is None:
        messages.error(request, "Choose the verdicts that are to become votes.")
        return redirect("arena_ratings")
    try:
        told = services.import_judgements(artifact, request.user)
        known = f", {told.repeated:,} were here already" if told.repeated else ""
        left = sum(told.passed_over.values())
        more = f", {left:,} rows were no verdicts on battles here" if left else ""
        messages.info(request, f"{told.votes:,} verdicts are votes of a judge now{known}{more}.")
    except Invalid as error:
        messages.error(request, error.errors[0].message)
    return redirect(reverse("arena_ratings") + "#judges")


urlpatterns = [
    path("arena", arena, name="arena"),
    path("arena/ratings", arena_ratings, name="arena_ratings"),
    path("arena/models", arena_models, name="arena_models"),
    path("arena/models/<int:id>", change_contender, name="change_contender"),
    path("arena/export", export, name="arena_export"),
    path("arena/judge", ask_judge, name="arena_ask_judge"),
    path("arena/judgements", bring_judgements, name="arena_judgements"),
]
