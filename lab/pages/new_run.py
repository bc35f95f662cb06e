"""A new run: choose a recipe, fill in its form, see what it will cost, start it."""

import json
import shlex
import shutil
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_POST

from core_ml import recipes
from core_ml.errors import UserError
from core_ml.recipe import STAGES, Recipe
from lab.errors import FieldError, Invalid
from lab.models import Run
from lab.models.run import SUCCEEDED
from lab.pages import forms
from lab.pages.context import COLUMN_TITLES
from lab.pages.forms import Filled
from lab.pages.home import ready
from lab.queries import machine
from lab.services import runs as services


def new_run(request: HttpRequest) -> HttpResponse:
    """The recipes by stage, each with whether its inputs stand ready."""
    stages = []
    for name in STAGES:
        found = [(one, ready(one)) for one in recipes.all_recipes().values() if one.stage == name]
        if found:
            stages.append((*COLUMN_TITLES[name], found))
    return render(request, "runs/new.html", {"section": "runs", "recipe_stages": stages})


def _recipe(kind: str) -> Recipe:
    try:
        return recipes.get(kind)
    except UserError as error:
        raise Http404 from error


def new_run_kind(request: HttpRequest, kind: str) -> HttpResponse:
    recipe = _recipe(kind)
    if request.method != "POST":
        filled, cloned = _opened(request, recipe)
        return _form(request, recipe, filled, {}, cloned)
    filled = forms.filled_by(recipe, request.POST)
    cloned = _cloned(request.POST.get("clone", ""), kind)
    try:
        run = services.submit(
            kind=kind,
            config=forms.config_of(recipe, filled),
            inputs=forms.inputs_of(recipe, filled),
            preset=filled.preset or None,
            name=filled.name or None,
            account=request.user,
            cloned_from=cloned,
        )
    except Invalid as error:
        return _form(request, recipe, filled, _by_field(error.errors), cloned, status=422)
    messages.info(request, f"Run {run.pk} is in the queue.")
    return redirect("run", run.pk)


def _opened(request: HttpRequest, recipe: Recipe) -> tuple[Filled, Run | None]:
    """A form as it is first shown: from a run to clone, or from a preset with the newest inputs that fit."""
    cloned = _cloned(request.GET.get("clone", ""), recipe.kind)
    if cloned:
        inputs: dict[str, list[str]] = {}
        for given in cloned.inputs.all():
            inputs.setdefault(given.name, []).append(given.artifact_id)
        given = {**cloned.given, **_asked(request, recipe)}
        return forms.filled_from(recipe, cloned.preset, given, inputs, cloned.name), cloned
    preset = request.GET.get("preset") or (recipe.presets[0].name if recipe.presets else "")
    if preset and not recipe.preset(preset):
        raise Http404
    inputs = forms.newest(recipe)
    for name in recipe.takes:
        if chosen := request.GET.getlist(f"inputs.{name}"):
            inputs[name] = [value for value in chosen if value]
    config = _asked(request, recipe)
    if "htmx_preset" in request.GET:
        # The person has chosen another preset: its values replace those in the form.
        config = {}
    return forms.filled_from(recipe, preset, config, inputs, request.GET.get("name", "")), None


def _asked(request: HttpRequest, recipe: Recipe) -> dict[str, str]:
    """Fields that the address itself fills in."""
    known = forms.properties(recipe)
    return {
        key[7:]: value for key, value in request.GET.items() if key.startswith("config.") and key[7:] in known
    }


def _cloned(number: str, kind: str) -> Run | None:
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        return None
    return Run.objects.filter(pk=int(number), kind=kind).first()


def _by_field(errors: Iterable[FieldError]) -> dict[str, str]:
    found: dict[str, str] = {}
    for error in errors:
        found.setdefault(error.field, f"{error.message[:1].upper()}{error.message[1:]}.".replace("..", "."))
    return found


def _form(
    request: HttpRequest,
    recipe: Recipe,
    filled: Filled,
    errors: dict[str, str],
    cloned: Run | None,
    status: int = 200,
) -> HttpResponse:
    view, folds = forms.fields(recipe, filled, errors)
    inputs = forms.choices(recipe, filled, errors)
    known = {one["name"] for one in [*view, *inputs, *(f for fold in folds for f in fold["fields"])]}
    context = {
        "section": "runs",
        "stage": recipe.stage,
        "recipe": recipe,
        "filled": filled,
        "cloned": cloned,
        "presets": [(preset, _last_took(recipe.kind, preset.name)) for preset in recipe.presets],
        "view": view,
        "folds": folds,
        "inputs": inputs,
        "name_error": errors.get("name", ""),
        "other_errors": [text for name, text in errors.items() if name not in known and name != "name"],
        "n_fields": len(forms.properties(recipe)),
        **_cost(recipe, filled, errors),
    }
    return render(request, "runs/new_kind.html", context, status=status)


@require_POST
def cost(request: HttpRequest, kind: str) -> HttpResponse:
    """The panel beside the form, and the hint under each field, for the values as they stand."""
    recipe = _recipe(kind)
    filled = forms.filled_by(recipe, request.POST)
    errors: dict[str, str] = {}
    context = _cost(recipe, filled, errors)
    view, folds = forms.fields(recipe, filled, errors)
    hints = [*view, *(one for fold in folds for one in fold["fields"])]
    return render(request, "runs/cost.html", {"recipe": recipe, "hints": hints, "folds": folds, **context})


def _cost(recipe: Recipe, filled: Filled, errors: dict[str, str]) -> dict[str, Any]:
    """What a run would take on this machine. Errors of the config are added to `errors`."""
    config, inputs = forms.config_of(recipe, filled), forms.inputs_of(recipe, filled)
    estimate = None
    try:
        estimate = services.estimate(recipe.kind, config, inputs, filled.preset or None)
    except Invalid as error:
        for field, text in _by_field(error.errors).items():
            errors.setdefault(field, text)
    memory, disk = machine.memory_bytes(), shutil.disk_usage(settings.LAB_HOME).free
    return {
        "cost": estimate,
        "n_given": len(config),
        "n_errors": len([field for field in errors if field.startswith("config")]),
        "config_errors": [text for field, text in errors.items() if field == "config"],
        "memory": memory,
        "disk_free": disk,
        "memory_share": estimate.memory_bytes / memory
        if estimate and estimate.memory_bytes and memory
        else None,
        "disk_share": estimate.disk_bytes / disk if estimate and estimate.disk_bytes and disk else None,
        "last_took": _last_took(recipe.kind, filled.preset) if not config else None,
        "n_ahead": Run.objects.filter(status="queued", pending={}, deleted=None).count(),
        "snippets": _snippets(recipe, filled, config, inputs),
    }


def _last_took(kind: str, preset: str) -> float | None:
    """Seconds that the newest run of a preset, unchanged, took here: better than any estimate."""
    run = (
        Run.objects.filter(kind=kind, preset=preset, given={}, status=SUCCEEDED, attempt=1)
        .order_by("-id")
        .first()
    )
    return (run.ended - run.started).total_seconds() if run and run.ended and run.started else None


def _snippets(
    recipe: Recipe, filled: Filled, config: dict[str, Any], inputs: dict[str, Any]
) -> list[tuple[str, str]]:
    """The same run from a shell, over REST and from Python."""
    name = filled.name or recipe.kind
    shell = [f"python -m core_ml {recipe.kind}"]
    if filled.preset:
        shell.append(f"--preset {filled.preset}")
    if config:
        shell.append(f"--config {shlex.quote(json.dumps(config))}")
    if inputs:
        folders = [
            f"{key}={_folder(one)}"
            for key, value in inputs.items()
            for one in (value if isinstance(value, list) else [value])
        ]
        shell.append(f"--inputs {' '.join(folders)}")
    shell.append(f"--out {shlex.quote(name)}")
    body: dict[str, Any] = {"kind": recipe.kind, "name": name}
    if filled.preset:
        body["preset"] = filled.preset
    body |= {"config": config, "inputs": inputs}
    text = json.dumps(body, indent=1)
    python = f'import httpx\n\nlab = httpx.Client(base_url="http://127.0.0.1:8000/api/v1", headers={{"Authorization": f"Bearer {{token}}"}})\nrun = lab.post("/runs", json={_literal(body)}).json()'
    return [
        ("Shell", " \\\n  ".join(shell)),
        ("API", f"POST /api/v1/runs\n{text}"),
        ("Python", python),
    ]


def _folder(reference: Any) -> str:
    """The folder of an artifact, as it stands below the lab's artifacts."""
    if isinstance(reference, dict):
        return f"OUT-OF-RUN-{reference['run']}/{reference['output']}"
    run, _, output = str(reference).partition("-")
    return shlex.quote(f"var/artifacts/{run}/{output}")


def _literal(body: dict[str, Any]) -> str:
    return "{\n" + "".join(f"    {key!r}: {value!r},\n" for key, value in body.items()) + "}"


urlpatterns = [
    path("runs/new", new_run, name="new_run"),
    path("runs/new/<str:kind>", new_run_kind, name="new_run_kind"),
    path("runs/new/<str:kind>/cost", cost, name="new_run_cost"),
]
