"""The tricks of a hunt: each found text beside fair answers, to be marked, taught, and hunted again; rounds on one chart."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils.text import capfirst
from django.views.decorators.http import require_POST

from core_ml.errors import UserError
from core_ml.feedback.gaming.trick import KINDS as KINDS_OF_TRICK
from lab.errors import Conflict, Invalid
from lab.models import Artifact, Run
from lab.pages import curves
from lab.pages.forms import as_text
from lab.queries import tricks
from lab.services import tricks as services

PER_PAGE = 20
VERDICTS = (("", "all"), ("none", "not marked"), ("nonsense", "nonsense"), ("fair", "fair"))
AGES = (("", "new and old"), ("new", "found now"), ("old", "found before"))


def context(request: HttpRequest, run: Run) -> dict[str, Any]:
    asked = _asked(request)
    words = request.GET.get("offset", "")
    offset = int(words) if words.isascii() and words.isdigit() and len(words) < 7 else 0
    try:
        hunt = tricks.read(run)
        found = tricks.some(run, asked, offset, PER_PAGE)
        counts = tricks.counts(run)
        rounds = tricks.rounds(run)
    except UserError as error:
        return {"problem": error.message}
    fields = {name: value for name, value in request.GET.items() if value and name != "offset"}
    last = offset + len(found.items)
    drawn = run.figures.filter(name="rounds").first()
    return {
        "hunt": hunt,
        "items": found.items,
        "count": found.count,
        "first": offset + 1 if found.items else 0,
        "last": last,
        "earlier": f"?{urlencode({**fields, 'offset': max(0, offset - PER_PAGE)})}#marking" if offset else "",
        "later": f"?{urlencode({**fields, 'offset': last})}#marking" if last < found.count else "",
        "asked": asked,
        "verdicts": VERDICTS,
        "ages": AGES,
        "kinds": KINDS_OF_TRICK,
        "counts": counts,
        "rounds": rounds,
        "figure": curves.figure(drawn) if drawn else None,
        **_next(run, hunt is not None),
    }


def _asked(request: HttpRequest) -> tricks.Asked:
    """What an address asks for; words that mean nothing ask for nothing."""
    given = request.GET
    kind, age, verdict = (given.get(name, "") for name in ("kind", "age", "verdict"))
    return tricks.Asked(
        kind if kind in KINDS_OF_TRICK else "",
        age if age in tricks.AGES else "",
        verdict if verdict in dict(VERDICTS) else "",
        given.get("working") == "1",
    )


def _next(run: Run, has_ended: bool) -> dict[str, Any]:
    """What can be done with the marks: groups to rank, rankings to teach, and the next round."""
    made = tricks.dataset(run)
    if not has_ended or made is None:
        return {}
    taught = [(one, _train_again(run, one)) for one in tricks.taught(run)]
    model = tricks.next_reward(run)
    return {
        **_teaching(run, made),
        "taught": taught,
        "next_reward": model,
        "hunt_again": _hunt_again(run, made, model) if model else "",
    }


def _teaching(run: Run, made: Artifact) -> dict[str, Any]:
    """What rankings of the marks would be worth: in how many groups the fair answers have an order, or would tie."""
    project = tricks.project(run)
    n, ordered = tricks.teachable(run)
    begin = f"{reverse('labeling')}?{urlencode({'source': made.pk})}#new"
    return {
        "n_groups": n,
        "n_ordered": ordered,
        "n_tied": n - ordered,
        "project_url": reverse("labeling_project", args=[project.pk]) if project else begin,
    }


def _train_again(run: Run, rankings: Artifact) -> str:
    """The form of `reward` with what the reward model has learned from so far and the new rankings beside it."""
    before = tricks.reward_run(run)
    given = list(before.inputs.select_related("artifact")) if before else []
    query = [
        (f"inputs.{one.name}", one.artifact_id)
        for one in given
        if one.name != "earlier" and one.artifact_id != rankings.pk
    ]
    query.append(("inputs.rankings", rankings.pk))
    # Beside the one that was fooled it is seen what the patch cost.
    query += [("inputs.earlier", one.artifact_id) for one in run.inputs.filter(name="reward")[:1] if before]
    query += [(f"config.{name}", as_text(value)) for name, value in (before.given if before else {}).items()]
    return f"{reverse('new_run_kind', args=['reward'])}?{urlencode(query)}"


def _hunt_again(run: Run, made: Artifact, model: Artifact) -> str:
    """The form of `hunt` for the new reward model, with this hunt among the earlier ones."""
    query = [("inputs.reward", model.pk)]
    for one in run.inputs.order_by("id"):
        if one.name not in ("reward", "rollouts"):
            query.append((f"inputs.{one.name}", one.artifact_id))
    query.append(("inputs.hunts", made.pk))
    query += [(f"config.{name}", as_text(value)) for name, value in run.given.items()]
    return f"{reverse('new_run_kind', args=['hunt'])}?{urlencode(query)}"


def _get(id: int) -> Run:
    run = Run.objects.filter(pk=id, kind__in=tricks.KINDS, deleted=None).first() if id < 2**31 else None
    if run is None:
        raise Http404
    return run


@require_POST
def mark(request: HttpRequest, id: int) -> HttpResponse:
    run, trick = _get(id), request.POST.get("trick", "")
    return _said(
        request, run, lambda: services.mark(run, trick, request.POST.get("verdict", ""), request.user)
    )  # type: ignore[arg-type]


@require_POST
def undo(request: HttpRequest, id: int) -> HttpResponse:
    run = _get(id)
    return _said(request, run, lambda: services.undo(run, request.user))  # type: ignore[arg-type]


def _said(request: HttpRequest, run: Run, act: Any) -> HttpResponse:
    """The page again; for a script only the trick that was spoken about and the counts."""
    by_script = request.headers.get("HX-Request") == "true"
    try:
        said = act()
    except (Conflict, Invalid, UserError) as error:
        if by_script:
            return HttpResponse(status=409)
        messages.error(request, f"{capfirst(str(error))}.")
        return redirect("run_tab", run.pk, "tricks")
    if not by_script:
        return redirect(f"{reverse('run_tab', args=[run.pk, 'tricks'])}#trick-{said.trick}")
    found = {
        "run": run,
        "item": tricks.one(run, said.trick),
        "counts": tricks.counts(run),
        "hunt": tricks.read(run),
    }
    if made := tricks.dataset(run):
        found |= _teaching(run, made)
    return render(request, "runs/trick_marked.html", found | {"kinds": KINDS_OF_TRICK})


@require_POST
def make_rankings(request: HttpRequest, id: int) -> HttpResponse:
    run = _get(id)
    try:
        made = services.make_rankings(run, request.user, request.POST.get("fair") == "ordered")  # type: ignore[arg-type]
        n, ranked = made.summary["rankings"], made.summary["fair_ranked"]
        ties = "" if ranked == n else f" In {n - ranked:,} the fair answers tie."
        made_now = "1 ranking is made" if n == 1 else f"{n:,} rankings are made"
        messages.info(request, f"{made_now}: what you marked stands last in each.{ties}")
    except (Conflict, UserError) as error:
        messages.error(request, f"{capfirst(str(error))}.")
    return redirect(f"{reverse('run_tab', args=[run.pk, 'tricks'])}#teach")


urlpatterns = [
    path("runs/<int:id>/tricks/mark", mark, name="trick_mark"),
    path("runs/<int:id>/tricks/undo", undo, name="trick_undo"),
    path("runs/<int:id>/tricks/rankings", make_rankings, name="trick_rankings"),
]
