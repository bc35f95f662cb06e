"""Datasets: the list, rows to read and search, uploads, and of a crawl what became of every page."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.db.models import Count
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import path

from core_ml.artifact import FORMS
from core_ml.errors import UserError
from core_ml.tokenizer import inspect
from lab.errors import Conflict, Invalid
from lab.models import Artifact
from lab.pages import funnel, lineage
from lab.queries import artifacts, crawl, rows, set_agreement, tokenizers
from lab.queries.lineage import exported_from
from lab.services import datasets as services

PER_PAGE = {"documents": 30, "pages": 50, "conversations": 12, "problems": 40, "prompts": 40, "rollouts": 8, "rankings": 8, "tokens": 8}  # fmt: skip
ABOUT = {
    "pages": "Raw web pages as they were fetched, in the format in which the web is archived.",
    "documents": "Texts that are worth reading, one document a row: what a base model learns from.",
    "tokens": "Texts as the numbers that a model sees.",
    "conversations": "Who says what, turn by turn: what an assistant learns its manners from.",
    "problems": "Questions with answers that a program can check.",
    "prompts": "Questions without answers: a model is to find its own.",
    "rollouts": "Several answers of a model to each prompt, as it sampled them.",
    "rankings": "Answers put in order, best first: what a reward model learns to imitate.",
}
N_LABELERS = 40
COUNTS = ("n_rows", "n_documents", "n_conversations", "n_problems", "n_groups", "rankings", "n_pages", "rows")


def n_rows(artifact: Artifact) -> int | None:
    """How many rows a dataset says that it has."""
    own = ("n_pages",) if artifact.form == "pages" else ()
    found = (artifact.summary.get(name) for name in (*own, *COUNTS))
    return next((count for count in found if isinstance(count, int)), None)


def datasets(request: HttpRequest) -> HttpResponse:
    errors: dict[str, str] = {}
    if request.method == "POST":
        try:
            made = _bring(request)
            messages.info(request, f"{made.name} is here.")
            return redirect("dataset", made.pk)
        except Invalid as error:
            errors = {one.field or "file": one.message for one in error.errors}
        except (UserError, Conflict) as error:
            errors = {"file": str(error)}
    form, q = request.GET.get("form", ""), request.GET.get("q", "").strip()[:200]
    everything = artifacts.visible("dataset", q)
    counts = dict(everything.order_by().values_list("form").annotate(n=Count("pk")))
    chosen = everything.filter(form=form) if form in FORMS else everything
    found = list(chosen[:200])
    context = {
        "stage": "pages",
        "found": [(one, n_rows(one), exported_from(one), lineage.brought(one)) for one in found],
        "n_found": sum(counts.values()) if form not in FORMS else counts.get(form, 0),
        "forms": [(name, counts[name]) for name in FORMS if counts.get(name)],
        "form": form if form in FORMS else "",
        "about": ABOUT.get(form, ""),
        "n_all": sum(counts.values()),
        "all_forms": [name for name in FORMS if name in rows.COLUMNS],
        "q": q,
        "errors": errors,
        "given": request.POST,
    }
    return render(request, "datasets/list.html", context, status=422 if errors else 200)


def _bring(request: HttpRequest) -> Artifact:
    """A dataset from an uploaded file, the files of one preference set, or an address. Raises Invalid."""
    name, form = request.POST.get("name", "").strip()[:200], request.POST.get("form") or None
    if url := request.POST.get("url", "").strip():
        return services.import_url(url, name=name, form=form, account=request.user)
    files = request.FILES.getlist("file")
    if not files:
        raise UserError("no file was chosen: choose a JSONL or Parquet file, or give an address")
    # The upload handler of the settings keeps every upload in a file of its own.
    stored = [(Path(file.temporary_file_path()), file.name) for file in files]
    return services.import_uploads(stored, name=name, form=form, account=request.user)


def dataset(request: HttpRequest, id: str) -> HttpResponse:
    artifact = _get(id)
    is_crawl = crawl.is_crawl(artifact)
    view = request.GET.get("view", "funnel" if is_crawl else "rows")
    is_ranked = artifact.form == "rankings"
    known = {"rows": True, "files": True, "funnel": is_crawl, "agreement": is_ranked}
    if not known.get(view):
        raise Http404
    title = "Documents" if is_crawl else "Windows" if artifact.form == "tokens" else "Rows"
    count = None if artifact.form == "tokens" else n_rows(artifact)
    tabs = [("rows", title, count), ("files", "Files", len(artifact.manifest.get("files", [])))]  # fmt: skip
    if is_ranked:
        tabs.insert(1, ("agreement", "Agreement", None))
    if is_crawl:
        tabs.insert(0, ("funnel", "Where the pages went", None))
    context: dict[str, Any] = {
        "stage": _STAGES.get(artifact.form),
        "dataset": artifact,
        "brought": lineage.brought(artifact),
        "about": ABOUT.get(artifact.form, ""),
        "n_rows": count,
        "chain": lineage.chain(artifact, "this dataset"),
        "view": view,
        "tabs": tabs,
        "facts": _facts(artifact),
        "taken_by": list(artifact.taken_by.select_related("run").filter(run__deleted=None)[:12]),
    }
    if view == "rows":
        context |= _rows(request, artifact)
    elif view == "agreement":
        context |= _agreement(artifact)
    elif view == "funnel":
        context |= funnel.context(request, artifact)
    return render(request, f"datasets/{view}.html", context)


def _agreement(artifact: Artifact) -> dict[str, Any]:
    """Each labeler's agreement and reliability in one row, those with most rankings first."""
    try:
        found = set_agreement.of(artifact)
    except UserError as error:
        return {"problem": f"{error.message}."}
    reliability = {one["labeler"]: one["reliability"] for one in found.get("reliability", [])}
    labelers = [
        one | {"reliability": reliability.get(one["labeler"])} for one in found["agreement"]["labelers"]
    ]
    return {
        "found": found,
        "finding": set_agreement.finding(found),
        "people": found["agreement"]["among"] == "people",
        "labelers": labelers[:N_LABELERS],
        "n_more": max(0, found["agreement"]["n_labelers"] - N_LABELERS),
        "judges": found.get("judges", []),
    }


_STAGES = {"pages": "pages", "documents": "pages", "tokens": "tokens"}


def _get(id: str) -> Artifact:
    artifact = artifacts.find("dataset", id)
    if artifact is None:
        raise Http404
    return artifact


def _rows(request: HttpRequest, artifact: Artifact) -> dict[str, Any]:
    q, offset = request.GET.get("q", "").strip()[:200], _int(request.GET.get("offset"))
    limit = PER_PAGE.get(artifact.form, 40)
    try:
        found = rows.page(artifact, offset=offset, limit=limit, q=q)
    except UserError as error:
        return {"problem": error.message, "q": q}
    items = [_SHOWN.get(artifact.form, lambda row: row)(row) for row in found.items]
    context = {
        "rows": found,
        "items": items,
        "q": q,
        "row_template": f"datasets/rows_{artifact.form}.html",
        "query": urlencode({"view": "rows", "q": q} if q else {"view": "rows"}),
    }
    if artifact.form == "tokens" and items:
        context |= _windows(artifact, items)
    if artifact.form == "documents" and items:
        wanted = _int(request.GET.get("row"), found.offset)
        chosen = next((item for item in items if item["number"] == wanted), items[0])
        context |= {"chosen": chosen, "pieces": marked(chosen.get("text") or "", q)}
    return context


def _windows(artifact: Artifact, items: list[dict[str, Any]]) -> dict[str, Any]:
    """Each token as a page writes it, and where the documents stand that they come from."""
    tokenizer = tokenizers.load(artifact)
    for item in items:
        for part in item["parts"]:
            views = inspect.views(tokenizer, part["ids"])
            part["tokens"] = [view | {"text": tokenizers.spelled(view)} for view in views]
    taken = artifact.manifest["origin"]["inputs"].get("documents", [])
    return {"source": artifacts.visible("dataset").filter(pk__in=taken).first()}


def _int(text: str | None, default: int = 0) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 12 else default


def marked(text: str, q: str) -> list[tuple[str, bool]]:
    """A text in pieces, each with whether it is what was searched for."""
    if not q:
        return [(text, False)]
    pieces, at, lowered, wanted = [], 0, text.lower(), q.lower()
    while (found := lowered.find(wanted, at)) >= 0 and len(pieces) < 2000:
        pieces += [(text[at:found], False), (text[found : found + len(q)], True)]
        at = found + len(q)
    return [*pieces, (text[at:], False)]


def _metadata(row: dict[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(row.get("metadata") or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _document(row: dict[str, Any]) -> dict[str, Any]:
    text = row.get("text") or ""
    title = (
        _metadata(row).get("title")
        or (row.get("url") or "").partition("://")[2]
        or row.get("url")
        or " ".join(text[:90].split())
        or row.get("id")
    )
    return {**row, "title": title, "cut": (row.get("n_chars") or 0) > len(text)}


def _with_metadata(row: dict[str, Any]) -> dict[str, Any]:
    found = _metadata(row)
    shown = {
        key: value for key, value in found.items() if isinstance(value, str | int | float) and key != "answer"
    }
    return {**row, "facts": shown, "data": found}


def _rollouts(row: dict[str, Any]) -> dict[str, Any]:
    """Each completion with its length and surprise in bits a token, and what the metadata says of it."""
    data = _metadata(row)
    answers = []
    logprobs, ended = row.get("logprobs") or [], row.get("ended") or []
    for i, text in enumerate(row.get("completions") or []):
        scores = [value for value in (_at(logprobs, i) or []) if value is not None]
        answers.append(
            {
                "text": text,
                "n_tokens": len(scores) or None,
                "bits": -sum(scores) / len(scores) / 0.6931471805599453 if scores else None,
                "ended": _at(ended, i),
                "mode": _at(data.get("modes"), i),
                "correct": _at(data.get("correct"), i),
                "liked": _at(data.get("liked"), i),
                "reward": _at(data.get("rewards"), i),
            }
        )
    facts = {
        key: data[key] for key in ("model", "task", "answer") if isinstance(data.get(key), str | int | float)
    }
    return {**row, "answers": answers, "facts": facts}


def _at(values: Any, i: int) -> Any:
    return values[i] if isinstance(values, list) and i < len(values) else None


def _ranking(row: dict[str, Any]) -> dict[str, Any]:
    """The completions best first, each with its place; those tied share one."""
    completions = row.get("completions") or []
    flags = json.loads(row.get("flags") or "{}")
    answers, place = [], 1
    for tied in row.get("order") or []:
        for i in tied:
            answers.append({"place": place, "text": _at(completions, i), "flags": flags.get(str(i), []), "tied": len(tied) > 1})  # fmt: skip
        place += len(tied)
    return {**row, "answers": answers, "facts": _with_metadata(row)["facts"]}


_SHOWN = {
    "documents": _document,
    "problems": _with_metadata,
    "prompts": _with_metadata,
    "conversations": _with_metadata,
    "rollouts": _rollouts,
    "rankings": _ranking,
}


def _facts(artifact: Artifact) -> list[tuple[str, Any]]:
    """The plain figures of the summary, for the list beside the files."""
    return [
        (name.replace("_", " ").removeprefix("n "), value)
        for name, value in artifact.summary.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    ][:14]


def recount(request: HttpRequest, id: str) -> JsonResponse:
    """The funnel under the thresholds in the query (`t.min_alpha_ratio=0.75`), for the script of the page."""
    artifact = _get(id)
    if not crawl.is_crawl(artifact):
        raise Http404
    try:
        return JsonResponse(crawl.recount(artifact, funnel.moved(request.GET)))
    except UserError as error:
        errors = [{"field": error.field or "", "message": error.message}]
        return JsonResponse({"detail": error.message, "errors": errors}, status=422)


urlpatterns = [
    path("datasets", datasets, name="datasets"),
    path("datasets/<str:id>", dataset, name="dataset"),
    path("datasets/<str:id>/recount", recount, name="dataset_recount"),
]
