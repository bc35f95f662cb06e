"""Every model that can be asked, whatever runs it; addresses of other servers; GGUF files; and exports."""

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import path
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_POST

from core_ml.engine.gguf_backend import is_installed
from lab.errors import Invalid, NotAllowed
from lab.models import ModelAddress, ModelFile
from lab.queries import artifacts
from lab.queries import served as queries
from lab.services import served

RUN_BY = {"torch": "PyTorch", "gguf": "llama.cpp", "address": "another server"}


def models(request: HttpRequest, **refused: Any) -> HttpResponse:
    """`refused` holds what was typed into a form and what is wrong with it, by field."""
    listed, error = queries.models()
    context = {
        "served": [one | {"run_by": RUN_BY.get(one.get("backend", ""), "")} for one in listed],
        "error": error,
        "example": listed[0]["id"] if listed else "MODEL",
        "addresses": queries.addresses(),
        "files": queries.files(),
        "found": queries.found_files(),
        "has_llama": is_installed(),
        "may_local": request.role == "admin",  # type: ignore[attr-defined]
        "given": {"timeout": "120"} | refused.get("given", {}),
        "errors": refused.get("errors", {}),
        "form": refused.get("form", ""),
    }
    return render(request, "models/models.html", context, status=422 if refused else 200)


@sensitive_post_parameters("key")
@sensitive_variables("given", "key")
@require_POST
def add_address(request: Any) -> HttpResponse:
    given = {name: request.POST.get(name, "").strip() for name in ("url", "name", "model", "key", "timeout")}
    local = request.POST.get("local") == "true"
    # A key that was typed is never written back into a page.
    shown = {name: value for name, value in given.items() if name != "key"} | {"local": local}
    try:
        given["timeout"] = float(given["timeout"] or 120)
    except ValueError:
        wrong = {"timeout": "give the seconds as a number, such as 120"}
        return models(request, form="address", given=shown, errors=wrong)
    try:
        served.check_reach(request.role, local)
        made = served.add_address(request.user, local=local, **given)
    except Invalid as error:
        found = {one.field: one.message for one in error.errors}
        return models(request, form="address", given=shown, errors=found)
    except NotAllowed as error:
        return models(request, form="address", given=shown, errors={"local": str(error)})
    if made.problem:
        messages.warning(request, f"{made.name} is kept, but did not answer well: {made.problem}")
    else:
        messages.info(request, f"{made.name} answers, and can be asked from now on.")
    return redirect("models")


@require_POST
def change_address(request: Any, id: int) -> HttpResponse:
    """Try it or remove it, by the name of the button that was pressed."""
    address = get_object_or_404(ModelAddress, pk=id)
    if "remove" in request.POST:
        return _removed(request, address)
    served.try_address(address)
    if address.problem:
        messages.error(request, f"{address.name}: {address.problem}")
    else:
        messages.info(request, f"{address.name} answers.")
    return redirect("models")


@require_POST
def add_file(request: Any) -> HttpResponse:
    given = {name: request.POST.get(name, "").strip() for name in ("path", "file_name")}
    try:
        made = served.add_file(request.user, path=given["path"], name=given["file_name"])
    except Invalid as error:
        found = {("file_name" if one.field == "name" else one.field): one.message for one in error.errors}
        return models(request, form="file", given=given, errors=found)
    messages.info(request, f"{made.name} can be asked from now on.")
    return redirect("models")


@require_POST
def remove_file(request: Any, id: int) -> HttpResponse:
    return _removed(request, get_object_or_404(ModelFile, pk=id))


def _removed(request: Any, thing: ModelAddress | ModelFile) -> HttpResponse:
    try:
        served.remove(thing, request.user, request.role)
        messages.info(request, f"{thing.name} is not asked any more.")
    except NotAllowed as error:
        messages.error(request, str(error))
    return redirect("models")


def export(request: HttpRequest, id: str) -> HttpResponse:
    """A checkpoint in a format of others: what it costs, and its files."""
    artifact = artifacts.find("export", id)
    if artifact is None:
        raise Http404
    source = artifacts.visible("checkpoint").filter(pk=artifact.summary.get("checkpoint", "")).first()
    rows = [
        (title, artifact.summary.get(f"{name}_original"), artifact.summary.get(name), kind)
        for title, name, kind in (
            ("Size", "bytes", "bytes"),
            ("Bits per byte", "bits_per_byte", "number"),
            ("Tokens a second, one after the other", "tokens_per_second", "number"),
        )
        if name in artifact.summary
    ]
    context = {"stage": "arena", "export": artifact, "source": source, "rows": rows}
    return render(request, "models/export.html", context)


urlpatterns = [
    path("models", models, name="models"),
    path("models/addresses", add_address, name="add_model_address"),
    path("models/addresses/<int:id>", change_address, name="change_model_address"),
    path("models/files", add_file, name="add_model_file"),
    path("models/files/<int:id>/remove", remove_file, name="remove_model_file"),
    path("exports/<str:id>", export, name="export"),
]
