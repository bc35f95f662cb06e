"""Gold against proxy in a run of practice: where it stopped helping, what is kept of that point, and other runs beside it."""

from itertools import pairwise
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse

from core_ml import recipes
from lab.models import Artifact, Run
from lab.pages import overoptimization_plots as plots
from lab.pages.forms import as_text
from lab.queries import overoptimization as queries
from lab.queries.overoptimization import Look, Measured

LETTERS = "abc"
STOP_EARLY = 3
"""Looks without a better one that the offered clone waits for."""


def context(request: HttpRequest, run: Run) -> dict[str, Any]:
    found = queries.measured(run)
    compared, problems = _compared(request, run)
    everything = [found, *compared]
    rows = [queries.row(one) for one in everything]
    parent = queries.parent(run)
    shown = stops(found)
    prompts = queries.answers_at(run, shown) if shown else []
    at = _whole(request.GET.get("prompt"), len(prompts))
    fit = found.fit
    return {
        "measured": found,
        "finding": queries.finding(found),
        "judge": queries.JUDGES[found.judge],
        "parent": parent,
        "fit": fit,
        "fitted": queries.believed(fit),
        "row": rows[0],
        "plot": plots.main(found, compared, shown, parent.name if parent else "the start") if len(found.looks) > 1 else None,
        "multiples": [plots.multiple(one, row) for one, row in plots.by_rankings(everything, rows)] if compared else [],
        "more_heading": _more_heading(rows) if compared else "",
        "rows": sorted(rows, key=lambda row: (row["n_rankings"] or 0, row["run"])),
        "others": queries.others(run),
        "with": {one.run.pk for one in compared},
        "problems": problems,
        "stops": _stops(found, shown, prompts[at] if prompts else {}),
        "prompts": [next(iter(one.values())).prompt for one in prompts],
        "prompt_at": at,
        "noise": _noise(found),
        "won_best": found.won(found.best) if found.best else None,
        "won_last": found.won(found.last) if found.last else None,
        **_offers(run, found),
    }  # fmt: skip


def helped(run: Run) -> str:
    """As far as which step a run has helped, in a sentence for its first page; nothing before its second look."""
    found = queries.measured(run)
    return queries.finding(found) if len(found.looks) > 1 else ""


def stops(found: Measured) -> list[Look]:
    """Three looks whose answers tell the story: on the way, at the peak, at the end; fewer where they coincide."""
    best, last = found.best, found.last
    if best is None or last is None:
        return []
    before = [look for look in found.looks if found.looks[0].step < look.step < best.step]
    half = (best.d or 0) / 2
    way = min(before, key=lambda look: abs((look.d or 0) - half), default=found.looks[0])
    return sorted({look.step: look for look in (way, best, last)}.values(), key=lambda look: look.step)


def _stops(found: Measured, looks: list[Look], answers: dict[int, Any]) -> list[dict[str, Any]]:
    last = found.looks[-1].step if found.looks else 0
    return [
        {
            "letter": letter,
            "look": look,
            "is_peak": look is found.best,
            "is_end": look.step == last,
            "answer": answers.get(look.step),
        }
        for letter, look in zip(LETTERS, looks, strict=False)
    ]


def _compared(request: HttpRequest, run: Run) -> tuple[list[Measured], list[str]]:
    """Runs named by `with`, once or many times, with commas or without; what is no such run is told."""
    texts = [
        text.strip() for given in request.GET.getlist("with") for text in given.split(",") if text.strip()
    ]
    numbers = [int(text) for text in texts if text.isascii() and text.isdigit() and len(text) < 10]
    runs = queries.compared(run, numbers)
    known = {str(one.pk) for one in runs} | {str(run.pk)}
    problems = [
        f"{text[:20]!r} is no run of practice that the lab has: name runs by their numbers."
        for text in dict.fromkeys(texts)
        if text.lstrip("0") not in known
    ]
    if len(runs) >= queries.MAX_COMPARED:
        problems.append(
            f"{len(runs) + 1} runs are too many to tell apart: the first {queries.MAX_COMPARED} are shown."
        )
    return [queries.measured(one) for one in runs[: queries.MAX_COMPARED - 1]], problems[:4]


def _more_heading(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """What the runs side by side show, which is said only where they do."""
    known = sorted(
        (row["n_rankings"], row["peak"]) for row in rows if row["n_rankings"] and row["peak"] is not None
    )
    counts = {n for n, _ in known}
    if len(counts) > 1:
        peaks = [
            sum(p for n, p in known if n == count) / sum(n == count for n, _ in known)
            for count in sorted(counts)
        ]
        if all(a < b for a, b in pairwise(peaks)):
            return "More rankings, a later peak", "the same training against proxies that saw more"
        return "By number of rankings", "the peak does not move with them here as it does in the paper"
    return "Side by side", "runs against proxies of as many rankings"


def _noise(found: Measured) -> float | None:
    """The fall of gold that could just be told from chance at its last look, where none was."""
    best, last = found.best, found.last
    if best is None or last is None or best.gold_sem is None or last.gold_sem is None or found.fell:
        return None
    if last.below_best and best.gold is not None and last.gold is not None:
        # The run compared them prompt by prompt, which says more.
        return found.z * (best.gold - last.gold) / last.below_best
    return found.z * (best.gold_sem**2 + last.gold_sem**2) ** 0.5 or None


def _offers(run: Run, found: Measured) -> dict[str, Any]:
    """What can be done with the peak, and what would have stopped the run there by itself."""
    peak, best = found.peak, found.best
    clone = {"clone": run.pk, "config.stop_early": STOP_EARLY, "config.keep": "last"}
    return {
        "peak": peak,
        "peak_step": best.step if best else None,
        "go_on": _go_on(run, peak) if peak else "",
        "clone": f"{reverse('new_run_kind', args=[run.kind])}?{urlencode(clone)}",
        "stops_early": bool(run.config.get("stop_early")),
        "stop_early": STOP_EARLY,
        "can_finish": run.is_live and found.fell and not run.finish_requested and run.status != "queued",
    }


def _go_on(run: Run, peak: Artifact) -> str:
    """The form of a run from the peak on: the same recipe and inputs, distances still to the same model."""
    recipe = recipes.get(run.kind)
    fields = [("preset", run.preset)] if run.preset else []
    fields += [(f"config.{name}", as_text(value)) for name, value in run.given.items() if value is not None]
    parent = queries.parent(run)
    for taken in run.inputs.all():
        if taken.name not in ("checkpoint", "reference"):
            fields.append((f"inputs.{taken.name}", taken.artifact_id))
    if "reference" in recipe.takes and parent:
        fields.append(("inputs.reference", parent.pk))
    return (
        f"{reverse('new_run_kind', args=[run.kind])}?{urlencode([*fields, ('inputs.checkpoint', peak.pk)])}"
    )


def _whole(words: str | None, end: int) -> int:
    words = (words or "").strip()
    number = int(words) if words.isascii() and words.isdigit() and len(words) < 6 else 0
    return number if number < end else 0
