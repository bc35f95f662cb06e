"""One prompt, two orders: the labelers' white stones, the reward model's black ones, and lines between them."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from core_ml.errors import UserError
from core_ml.feedback.orders import as_share
from lab.models import Artifact, Project, Run
from lab.queries import artifacts, orders
from lab.queries.orders import Orders

TOP, STEP, LEFT, RIGHT, BEND = 46, 44, 46, 190, 62
"""Of the drawing in pixels: the first stones, the way to the next, both columns, and how far lines go straight."""
FAR = 2
"""Places by which an answer moves before its line is drawn as wrong."""


def duel(request: HttpRequest, project: Project) -> dict[str, Any] | None:
    """What templates/labeling/orders.html draws, for the model and the group of the address; None without a model."""
    models = list(orders.reward_models(project)[:6])
    if not models:
        return None
    model = next((one for one in models if one.pk == request.GET.get("model")), models[0])
    named = [(one, _address(one, 1)) for one in models] if len(models) > 1 else []
    return {"models": named} | _one(request, model, lambda n: orders.of(project, model, offset=n))


def of_model(request: HttpRequest, model: Artifact) -> dict[str, Any]:
    """The same of any reward model, whatever its rankings were made in."""
    return _one(request, model, lambda n: orders.of_model(model, offset=n))


def context(request: HttpRequest, run: Run) -> dict[str, Any]:
    """Of a run's own reward model; nothing where it has made none yet."""
    made = run.artifacts.filter(role="reward").first()
    return {"duel": of_model(request, made)} if made else {}


def of_checkpoint(request: HttpRequest, id: str) -> HttpResponse:
    found = artifacts.find("checkpoint", id, role="reward")
    if found is None:
        raise Http404
    told = {"checkpoint": found, "stage": "aligned", "duel": of_model(request, found)}
    return render(request, "checkpoints/orders.html", told)


def _one(request: HttpRequest, model: Artifact, read: Callable[[int], Orders]) -> dict[str, Any]:
    """The group of the address, counted from 1, or the last where there are fewer."""
    found: dict[str, Any] = {"model": model}
    wanted = request.GET.get("group", "")
    number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 6 else 1
    number = max(1, number)
    try:
        some = read(number - 1)
        if not some.items and some.count:
            number = some.count
            some = read(number - 1)
    except UserError as error:
        return found | {"problem": error.message}
    if not some.items:
        return found
    item = some.items[0]
    correct = item["project"] and item["task"]
    return found | {
        "item": item,
        "number": number,
        "count": some.count,
        "earlier": _address(model, number - 1) if number > 1 else "",
        "later": _address(model, number + 1) if number < some.count else "",
        "only_simulated": item["simulated"] == item["rankings"],
        "answers": _answers(item, model),
        "surprise": _surprise(item),
        "drawn": draw(item),
        "correct_url": reverse("labeling_decide", args=[item["project"], item["task"]]) if correct else "",
    }


def _address(model: Artifact, number: int) -> str:
    return f"?{urlencode({'model': model.pk, 'group': number})}#orders"


def _answers(item: dict[str, Any], model: Artifact) -> list[dict[str, Any]]:
    """In the labelers' order, what they did not place last; `apart` by how many places the model moves an answer."""
    by_people, by_model = orders.places(item["labelers_order"]), orders.places(item["model_order"])
    last = len(item["scores"]) + 1
    found = [
        {
            "text": text,
            "share": as_share(item["scores"][i]),
            "raw": orders.raw(model, item["scores"][i]),
            "people": by_people.get(i),
            "model": by_model[i],
            "apart": by_model[i] - by_people.get(i, by_model[i]),
        }
        for i, text in enumerate(item["completions"] or [""] * len(item["scores"]))
    ]
    return sorted(found, key=lambda one: (one["people"] or last, one["model"]))


def _surprise(item: dict[str, Any]) -> tuple[int, int] | None:
    """The places at labelers and at the model of the answer that they place most differently."""
    by_people, by_model = orders.places(item["labelers_order"]), orders.places(item["model_order"])
    apart = max(by_people, key=lambda i: abs(by_people[i] - by_model[i]))
    found = by_people[apart], by_model[apart]
    return found if abs(found[0] - found[1]) >= FAR else None


def draw(item: dict[str, Any]) -> dict[str, Any]:
    """Coordinates of stones and lines. Two lines cross exactly where the model turns a pair of the labelers around."""
    by_people, by_model = orders.places(item["labelers_order"]), orders.places(item["model_order"])
    # Those who share a place stand as the other side orders them, so that ties cross nothing.
    left = sorted(by_people, key=lambda i: (by_people[i], by_model[i], i))
    right = sorted(by_model, key=lambda i: (by_model[i], left.index(i) if i in by_people else len(by_model)))
    y_left = {i: TOP + STEP * row for row, i in enumerate(left)}
    y_right = {i: TOP + STEP * row for row, i in enumerate(right)}
    far = {i: abs(by_people[i] - by_model[i]) for i in left}
    return {
        "height": TOP + STEP * (len(right) - 1) + 22,
        "left": LEFT,
        "right": RIGHT,
        "people": [{"y": y_left[i], "place": by_people[i]} for i in left],
        "model": [
            {"y": y_right[i], "place": by_model[i], "share": as_share(item["scores"][i])} for i in right
        ],
        "lines": [
            {
                "path": f"M{LEFT} {y_left[i]}C{LEFT + BEND} {y_left[i]} {RIGHT - BEND} {y_right[i]} {RIGHT} {y_right[i]}",
                "look": "far" if far[i] >= FAR else "near" if far[i] else "same",
            }
            for i in left
        ],
    }
