"""Checkpoints: the list by role, and of each the network to scale, its report card, its ancestors and files."""

from typing import Any

from django.contrib import messages
from django.db.models import Count
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_POST

from core_ml.artifact import ROLES
from core_ml.errors import UserError
from lab.errors import Invalid
from lab.models import Artifact, Run, Sample
from lab.pages import lineage
from lab.pages.orders import of_checkpoint
from lab.queries import artifacts, report_cards
from lab.queries.lineage import ancestors
from lab.services import runs
from lab.templatetags.lab import number

STAGES = {"base": "base", "chat": "assistant", "reasoner": "reasoner", "aligned": "aligned", "reward": "aligned", "player": "arena"}  # fmt: skip
ABOUT = {
    "base": "A base model continues text: it has read much and was asked nothing yet.",
    "chat": "A chat model answers: it has learned from conversations where to speak and how.",
    "reasoner": "A reasoner thinks before it answers: it has learned by practice which thoughts lead to right ones.",
    "aligned": "An aligned model has practised against what people prefer.",
    "reward": "A reward model reads a prompt and a response and gives one number: how much the labelers would like it.",
    "player": "A player has learned a game by playing against itself.",
}
HEADLINES = (
    ("val_bits_per_byte", "bits per byte"),
    ("val_accuracy", "of pairs as labelers"),
    ("val_liked_last", "liked"),
    ("val_loss", "nats a token"),
    ("val_reward_last", "reward"),
)
N_SAMPLES = 3
EXPORT_PRESETS = (("f16", "GGUF f16"), ("q8_0", "q8_0"), ("q4_0", "q4_0"), ("huggingface", "Hugging Face"))


def headline(artifact: Artifact) -> str:
    """The figure by which a list tells checkpoints of one role apart."""
    for key, words in HEADLINES:
        if isinstance(value := artifact.summary.get(key), int | float):
            return f"{number(float(value), 3)} {words}"
    return ""


def checkpoints(request: HttpRequest) -> HttpResponse:
    role, q = request.GET.get("role", ""), request.GET.get("q", "").strip()[:200]
    role = role if role in ROLES else ""
    everything = artifacts.visible("checkpoint", q)
    counts = dict(everything.order_by().values_list("role").annotate(n=Count("pk")))
    found = list((everything.filter(role=role) if role else everything)[:200])
    context = {
        "stage": STAGES.get(role),
        "found": [(one, headline(one)) for one in found],
        "roles": [(name, counts[name]) for name in ROLES if counts.get(name)],
        "role": role,
        "about": ABOUT.get(role, ""),
        "n_all": sum(counts.values()),
        "q": q,
    }
    return render(request, "checkpoints/list.html", context)


def checkpoint(request: HttpRequest, id: str) -> HttpResponse:
    artifact = artifacts.find("checkpoint", id)
    if artifact is None:
        raise Http404
    context: dict[str, Any] = {
        "stage": STAGES.get(artifact.role),
        "checkpoint": artifact,
        "about": ABOUT.get(artifact.role, ""),
        "chain": lineage.chain(artifact, "this checkpoint"),
        "speaks": artifact.role not in ("reward", "player"),
        "facts": _facts(artifact),
        "taken_by": list(
            dict.fromkeys(
                one.run for one in artifact.taken_by.select_related("run").filter(run__deleted=None)
            )
        )[:8],
        "findings": artifact.summary.get("findings")
        or (artifact.run.summary.get("findings") if artifact.run else []),
        "rewards": report_cards.reward_card(artifact) if artifact.role == "reward" else [],
        "n_runs": len(ancestors(artifact)[0]),
        "exports": _exports(artifact),
        "export_presets": EXPORT_PRESETS,
    }
    try:
        context["network"] = report_cards.network(artifacts.path(artifact))
    except UserError as error:
        context["problem"] = error.message
    try:
        context["card"] = card = report_cards.of(artifact)
    except UserError as error:
        context["card_problem"], card = f"The report of this checkpoint cannot be read: {error}", None
    context["samples"] = _samples(artifact.run, card)
    if card and card.findings:
        context["findings"] = card.findings
    return render(request, "checkpoints/checkpoint.html", context)


@require_POST
def take_home(request: HttpRequest, id: str) -> HttpResponse:
    """Queue an export at a click: measured on the texts that the model comes from, where the lab has them."""
    artifact = artifacts.find("checkpoint", id)
    if artifact is None:
        raise Http404
    documents = [one.pk for one in ancestors(artifact)[2].values() if one.form == "documents"][:4]
    preset = request.POST.get("as", "")
    inputs: dict[str, Any] = {"checkpoint": artifact.pk} | ({"documents": documents} if documents else {})
    try:
        run = runs.submit(
            kind="export",
            preset=preset,
            inputs=inputs,
            name=f"{artifact.name[:80]} as {preset[:12]}",
            account=request.user,
        )  # type: ignore[arg-type]
    except Invalid as error:
        messages.error(request, str(error))
        return redirect("checkpoint", artifact.pk)
    return redirect("run", run.pk)


def _exports(artifact: Artifact) -> list[Artifact]:
    """Its exports, the newest first."""
    found = artifacts.visible("export").filter(run__inputs__artifact=artifact).distinct()
    return list(found[:8])


def _samples(run: Run | None, card: report_cards.ReportCard | None) -> list[Sample]:
    """What it says: answers of its last exam, or the last samples of the run that made it."""
    if card:
        told = card.run.samples.order_by("-id")[:400]
        mine = [
            one for one in told if one.data.get("model") == card.name and one.data.get("answers") == "greedy"
        ]
        if mine:
            return mine[:N_SAMPLES]
    newest = run.samples.exclude(text="").order_by("-step", "id")[:40] if run else []
    return list({one.prompt: one for one in reversed(newest)}.values())[::-1][:N_SAMPLES]


def _facts(artifact: Artifact) -> list[tuple[str, Any]]:
    shown = ("tokens", "epochs", "steps", "n_steps", "n_conversations", "n_rankings", "n_held_out_pairs", "tokens_per_second", "device")  # fmt: skip
    return [
        (name.removeprefix("n_").replace("_", " "), artifact.summary[name])
        for name in shown
        if name in artifact.summary
    ]


urlpatterns = [
    path("checkpoints", checkpoints, name="checkpoints"),
    path("checkpoints/<str:id>", checkpoint, name="checkpoint"),
    path("checkpoints/<str:id>/orders", of_checkpoint, name="checkpoint_orders"),
    path("checkpoints/<str:id>/export", take_home, name="take_home"),
]
