"""Tokenizers: a text as the numbers that a model sees, the chat protocol, two side by side, how a word was merged."""

from pathlib import Path
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path

from core_ml.errors import UserError
from core_ml.tokenizer import inspect
from core_ml.tokenizer.patterns import PATTERNS
from core_ml.tokenizer.tokenizer import Message, Tokenizer
from lab.errors import Invalid
from lab.models import Artifact
from lab.pages import lineage
from lab.queries import artifacts
from lab.queries.tokenizers import load, spelled, vocabulary
from lab.services import tokenizers as services

MAX_CHARS = 4000
PER_PAGE = 240
TEXT = (
    "The heart of a whale beats 9.11 times a minute when it dives, and 37 times at the surface.\n"
    "Stones skip on water because they spin; antidisestablishment does not help.\n"
    "καλημέρα, naïve café"
)
TRY = (
    ("9.11 and 9.9", "Which is larger, 9.11 or 9.9?"),
    ("strawberry", "How many r's are in strawberry?"),
    ("Python", "def add(a: int, b: int) -> int:\n    return a + b\n"),
    ("Finnish", "Kivi hyppii veden pinnalla, koska se pyörii."),
)
QUESTION, ANSWER = (
    "Why do stones skip on water?",
    "A flat stone pushes the water down, and the water pushes back.",
)
LANGUAGES = (
    (
        "English",
        "A flat stone that spins pushes the water down, and the water pushes back before the stone can sink.",
    ),
    (
        "Python",
        "for name, value in sorted(counts.items()):\n    total += value\n    print(f'{name}: {value}')\n",
    ),
    ("Finnish", "Litteä kivi painaa vettä alaspäin, ja vesi työntää sen takaisin ennen kuin se ehtii upota."),
    (
        "German",
        "Ein flacher Stein drückt das Wasser nach unten, und das Wasser stößt ihn zurück, bevor er sinkt.",
    ),
    ("Korean", "납작한 돌이 물을 아래로 밀면 물이 돌을 다시 밀어 올린다."),
    ("Arithmetic", "37 + 48 = 85, 912 - 47 = 865, 6 * 7 = 42, 1001 / 7 = 143"),
)
"""One sentence each, written for this page: enough to compare two tokenizers, not to rate one."""


def tokenizers(request: HttpRequest) -> HttpResponse:
    errors: dict[str, str] = {}
    if request.method == "POST":
        try:
            made = _bring(request)
            messages.info(request, f"{made.name} is here.")
            return redirect("tokenizer", made.pk)
        except Invalid as error:
            errors = {one.field or "file": one.message for one in error.errors}
        except UserError as error:
            errors = {"file": error.message}
    q = request.GET.get("q", "").strip()[:200]
    context = {
        "stage": "tokens",
        "found": list(artifacts.visible("tokenizer", q)[:200]),
        "q": q,
        "patterns": [(name, one.title) for name, one in PATTERNS.items()],
        "errors": errors,
        "given": request.POST,
    }
    return render(request, "tokenizers/list.html", context, status=422 if errors else 200)


def _bring(request: HttpRequest) -> Artifact:
    """A tokenizer from an uploaded file or from an address. Raises Invalid."""
    pattern = request.POST.get("pattern", "gpt4")
    about: dict[str, Any] = {
        "name": request.POST.get("name", ""),
        "pattern": pattern if pattern in PATTERNS or pattern == "own" else "gpt4",
        "own_pattern": request.POST.get("own_pattern", ""),
        "account": request.user,
    }
    if url := request.POST.get("url", "").strip():
        return services.import_url(url, **about)
    if (file := request.FILES.get("file")) is None:
        raise UserError("no file was chosen: choose a tokenizer.json or a file of ranks, or give an address")
    # The upload handler of the settings keeps every upload in a file of its own.
    return services.import_upload(Path(file.temporary_file_path()), file.name, **about)


def tokenizer(request: HttpRequest, id: str) -> HttpResponse:
    artifact = _get(id)
    context: dict[str, Any] = {
        "stage": "tokens",
        "tokenizer": artifact,
        "chain": lineage.chain(artifact, "this tokenizer"),
    }
    try:
        mine = load(artifact)
    except UserError as error:
        return render(request, "tokenizers/page.html", {**context, "problem": error.message})
    context |= {
        "vocab_size": mine.vocab_size,
        "n_merges_text": f"{len(mine.merge_ranks):,}",
        "problem": "",
        "view": request.GET.get("view") if request.GET.get("view") in ("vocabulary", "report") else "text",
        "has_report": bool(artifact.summary.get("report")),
        "writes_ranks": mine.ranks is not None,
    }
    if context["view"] == "vocabulary":
        return render(request, "tokenizers/vocabulary.html", context | _vocabulary(request, mine))
    if context["view"] == "report":
        return render(request, "tokenizers/report.html", context | _report(artifact, mine))
    text = _typed(request, "text", TEXT)
    other, theirs = _other(request, artifact)
    question, answer = _typed(request, "user", QUESTION, 1000), _typed(request, "assistant", ANSWER, 1000)
    word = _typed(request, "word", "strawberry", 60).strip() or "strawberry"
    context |= {
        "text": text,
        "try": TRY,
        "mine": counted(mine, text),
        "question": question,
        "answer": answer,
        "chat": chat(mine, question, answer),
        "others": [one for one in artifacts.visible("tokenizer")[:30] if one.pk != artifact.pk],
        "other": other,
        "theirs": counted(theirs, text) if theirs else None,
        "languages": languages(mine, theirs),
        "word": word,
        **merged(mine, word),
    }
    return render(request, "tokenizers/tokenizer.html", context)


def _get(id: str) -> Artifact:
    artifact = artifacts.find("tokenizer", id)
    if artifact is None:
        raise Http404
    return artifact


def _typed(request: HttpRequest, name: str, default: str, limit: int = MAX_CHARS) -> str:
    """What a person typed; browsers send line ends as CR LF, which nobody typed."""
    return request.GET.get(name, default).replace("\r\n", "\n")[:limit]


def _other(request: HttpRequest, artifact: Artifact) -> tuple[Artifact | None, Tokenizer | None]:
    id = request.GET.get("with", "")
    others = artifacts.visible("tokenizer").exclude(pk=artifact.pk)
    other = others.filter(pk=id[:80].replace("\0", "")).first() if id else others.first()
    if other is None:
        return None, None
    try:
        return other, load(other)
    except UserError:
        return other, None


def counted(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    tokens = [_shown(token) for token in inspect.tokens(tokenizer, text)]
    n_bytes = len(text.encode("utf-8", errors="replace"))
    return {
        "tokens": tokens,
        "n": len(tokens),
        "bytes": n_bytes,
        "ratio": n_bytes / len(tokens) if tokens else None,
    }


def _shown(token: inspect.TokenView) -> dict[str, Any]:
    return {**token, "bytes": " ".join(f"{byte:02x}" for byte in token["bytes"]), "text": spelled(token)}


def chat(tokenizer: Tokenizer, question: str, answer: str) -> dict[str, Any]:
    """A conversation as one document: its tokens, in lines that end where a message does."""
    messages: list[Message] = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    ids, mask = tokenizer.conversation(messages)
    tokens = [
        _shown(token) | {"trained": bool(on)}
        for token, on in zip(inspect.views(tokenizer, ids), mask, strict=True)
    ]
    lines: list[list[dict[str, Any]]] = [[]]
    for token in tokens:
        lines[-1].append(token)
        if token["id"] == tokenizer.end_id:
            lines.append([])
    return {"lines": [line for line in lines if line], "n": len(tokens), "n_trained": sum(mask)}


def languages(mine: Tokenizer, theirs: Tokenizer | None) -> list[dict[str, Any]]:
    """Bytes a token of each sample, and where they stand on an axis from 0 to 6."""
    rows = []
    for name, text in LANGUAGES:
        n_bytes = len(text.encode())
        own = n_bytes / len(mine.encode(text))
        other = n_bytes / len(theirs.encode(text)) if theirs else None
        rows.append({"name": name, "mine": own, "theirs": other, "x": _x(own), "x2": _x(other), "text": text})
    return rows


def _x(value: float | None) -> float | None:
    return None if value is None else round(4 + 84 * min(1.0, value / 6), 1)


def merged(tokenizer: Tokenizer, word: str) -> dict[str, Any]:
    """The steps of every pre-tokenized piece of a word, as rows of pieces over the whole word.

    A piece is {"text", "width", "new"}, its width in bytes, so that the rows stand above each other.
    """
    symbols = inspect.words_of(tokenizer, word)
    # Of each pre-tokenized piece its first row, then one for each merge; the pieces take turns by rank.
    steps = inspect.merges_of(tokenizer, word)
    states = [
        [_letters(one), *(step["pieces"] for step in own)] for one, own in zip(symbols, steps, strict=True)
    ]
    order = sorted(
        (step["rank"], which, number) for which, own in enumerate(steps) for number, step in enumerate(own)
    )
    now = [0] * len(states)
    rows = [{"label": "letters", "pieces": _row(states, now, None)}]
    for rank, which, number in order:
        now[which] = number + 1
        step = steps[which][number]
        fresh = (which, step["left"] + step["right"])
        rows.append({"label": f"{rank + 1:,}", "left": step["left"], "right": step["right"], "pieces": _row(states, now, fresh)})  # fmt: skip
    return {"merge_rows": rows, "n_steps": len(rows) - 1, "n_letters": len(word), "n_word_tokens": len(tokenizer.encode(word))}  # fmt: skip


def _letters(symbols: list[str]) -> list[str]:
    return [inspect.shown(symbol) for symbol in symbols]


def _row(
    states: list[list[list[str]]], now: list[int], fresh: tuple[int, str] | None
) -> list[dict[str, Any]]:
    pieces = []
    for which, (state, at) in enumerate(zip(states, now, strict=True)):
        before = state[at - 1] if at else []
        for place, text in enumerate(state[at]):
            # New is where this row first differs from the one before it.
            is_new = fresh == (which, text) and before[:place] == state[at][:place] and before[place] != text
            pieces.append({"text": text, "width": min(24, max(1, len(text.encode()))), "new": is_new})
    return pieces


def _report(artifact: Artifact, tokenizer: Tokenizer) -> dict[str, Any]:
    """What its run measured, and what it could not. An imported tokenizer was measured by nobody."""
    summary = artifact.summary
    report = summary.get("report") or {}
    top = max([6.0, *(row["bytes_per_token"] for rows in _GROUPS for row in report.get(rows[0], []))])
    groups = [
        (title, [row | {"x": round(4 + 84 * row["bytes_per_token"] / top, 1)} for row in report[name]])
        for name, title in _GROUPS
        if report.get(name)
    ]
    seldom = [
        {"token": _shown(inspect.views(tokenizer, [id])[0]), "count": count}
        for id, count in report.get("seldom", [])
        if id < tokenizer.vocab_size
    ]
    return {
        "report": report,
        "summary": summary,
        "groups": groups,
        "seldom": seldom,
        "regex": tokenizer.pattern,
        "best": max((row["bytes_per_token"] for row in report.get("patterns", [])), default=None),
    }


_GROUPS = (("languages", "Language"), ("domains", "Domain"), ("patterns", "Words cut"))


def _vocabulary(request: HttpRequest, tokenizer: Tokenizer) -> dict[str, Any]:
    q = request.GET.get("q", "")[:60]
    found = vocabulary(tokenizer, q)
    text = request.GET.get("offset", "")
    offset = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
    return {
        "q": q,
        "found": [_shown(token) for token in found[offset : offset + PER_PAGE]],
        "n_found": len(found),
        "first": offset + 1,
        "last": min(offset + PER_PAGE, len(found)),
        "earlier": max(0, offset - PER_PAGE) if offset else None,
        "later": offset + PER_PAGE if offset + PER_PAGE < len(found) else None,
    }


urlpatterns = [
    path("tokenizers", tokenizers, name="tokenizers"),
    path("tokenizers/<str:id>", tokenizer, name="tokenizer"),
]
