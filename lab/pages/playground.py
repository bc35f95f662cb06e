"""The playground: one or two models that continue a text or answer, token by token; and where a passage was read."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import path, reverse

from core_ml.errors import UserError
from core_ml.model.checkpoint import read_config
from core_ml.tokenizer.tokenizer import BOS
from lab.models import Artifact
from lab.models.arena import SILENT
from lab.queries import artifacts, lineage, served
from lab.templatetags.lab import stone

MAX_MODELS = 60
MORE = ("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "stop")
"""Ways of sampling that are folded away; an empty one is not asked for."""
BEYOND = {"file": "GGUF", "address": "elsewhere"}


def playground(request: HttpRequest) -> HttpResponse:
    models = [_described(one) for one in speakers()[:MAX_MODELS]] + _beyond()
    known = [model["id"] for model in models]
    chosen = [id for id in request.GET.getlist("model") if id in known][:2] or known[:1]
    more = {name: request.GET.get(name, "")[:5000] for name in MORE}
    context = {
        "section": "playground",
        "stage": "assistant",
        "models": models,
        "first": chosen[0] if chosen else "",
        "second": chosen[1] if len(chosen) > 1 else "",
        "given": {
            "mode": request.GET.get("mode", ""),
            "prompt": request.GET.get("prompt", "")[:20_000],
            "temperature": request.GET.get("temperature", "0.8"),
            "top_p": request.GET.get("top_p", "0.95"),
            "max_tokens": request.GET.get("max_tokens", "64"),
            "seed": request.GET.get("seed", "37"),
        },
        "more": more | {"open": any(more.values())},
        "script": {"models": models, "search": reverse("playground_search")},
    }
    return render(request, "playground/playground.html", context)


def speakers() -> Any:
    return artifacts.visible("checkpoint").exclude(role__in=SILENT)


def _beyond() -> list[dict[str, Any]]:
    """Exports as GGUF, files and addresses: the engine asks them in the same way."""
    told = [
        {"id": one.pk, "name": one.name, "role": one.summary.get("role") or "", "read": True, "echoes": True}
        | {"number": one.run_id or "", "stone": stone(one.run.status) if one.run else "people"}
        for one in artifacts.visible("export")[:MAX_MODELS]
        if one.summary.get("format") == "gguf"
    ]
    for kind, found in (("file", served.files()), ("address", served.addresses())):
        told += [
            {
                "id": f"{kind}-{one.pk}",
                "name": one.name,
                "role": BEYOND[kind],
                "read": False,
                "echoes": kind == "file",
            }
            | {"number": "", "stone": "empty"}
            for one in found[:MAX_MODELS]
        ]
    return [one | {"vocab_size": None, "max_seq_len": None, "bos": None} for one in told]


def _described(artifact: Artifact) -> dict[str, Any]:
    run = artifact.run
    return {
        "id": artifact.pk,
        "name": artifact.name,
        "role": artifact.role,
        "number": run.pk if run else "",
        "stone": stone(run.status) if run else "people",
        "read": True,
        "echoes": True,
        **_shape(str(artifacts.path(artifact))),
    }


@lru_cache(maxsize=256)
def _shape(folder: str) -> dict[str, Any]:
    """What the page must know of a checkpoint; an artifact never changes, so it is read once.

    `bos` begins a document: a prompt in token ids is read as it stands, and has to begin with it itself.
    """
    try:
        config = read_config(folder)
        added = json.loads((Path(folder) / "tokenizer.json").read_text())["added_tokens"]
        bos = next((token["id"] for token in added if token["content"] == BOS), None)
    except (UserError, OSError, ValueError, KeyError):
        return {"vocab_size": None, "max_seq_len": None, "bos": None}
    return {"vocab_size": config.vocab_size, "max_seq_len": config.max_seq_len, "bos": bos}


def search(request: HttpRequest) -> JsonResponse:
    """Where a passage stands, word for word, in the documents that a model was trained on."""
    id = request.GET.get("model", "")[:80].replace("\0", "")
    model = speakers().filter(pk=id).first() or artifacts.visible("export").filter(pk=id).first()
    if model is None:
        return JsonResponse({"detail": "There is no such model.", "errors": []}, status=404)
    try:
        passage, places = lineage.trained_on(model, request.GET.get("q", ""))
    except UserError as error:
        errors = [{"field": error.field or "", "message": error.message}]
        return JsonResponse({"detail": error.message, "errors": errors}, status=422)
    found = [
        {
            "dataset": one.dataset.name,
            "form": one.dataset.form,
            "url": f"{reverse('dataset', args=[one.dataset.pk])}?view=rows",
            "count": one.count,
            "items": one.items,
        }
        for one in places
    ]
    return JsonResponse({"passage": passage, "datasets": found})


urlpatterns = [
    path("playground", playground, name="playground"),
    path("playground/search", search, name="playground_search"),
]
