"""The crawl's part of a dataset's page: funnel, the chosen stage's rules, a threshold to move, dropped pages."""

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from django.http import Http404, HttpRequest
from django.urls import reverse

from core_ml.crawl.rules import BY_FIELD, FAILURES, LINE_RULES, Rule
from core_ml.errors import UserError
from lab.models import Artifact
from lab.queries import crawl
from lab.queries.passages import passage

PER_PAGE = 12
N_SHOWN = 6
FAULTS = {
    "alpha_ratio": "the words without a letter",
    "symbol_ratio": "number signs and ellipses",
    "bullet_ratio": "lines with a bullet",
    "ellipsis_ratio": "lines that break off",
    "curly_brackets": "curly brackets",
    "lorem_ipsum": "placeholder text",
    "line_punct_ratio": "lines that end no sentence",
    "short_line_ratio": "short lines",
    "mean_word_length": "words of more than ten characters",
}
"""What the marks in a passage mean, by measure; the others are repetitions."""


def moved(query: Mapping[str, str]) -> dict[str, float]:
    """The thresholds of a query string, `t.min_alpha_ratio=0.75`. Raises UserError that names the field."""
    found = {}
    for key, text in query.items():
        if key.startswith("t."):
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise UserError(f"{key[2:62]} is {text[:40]!r}, and must be a number", field=key[2:62])
            found[key[2:]] = value
    return found


def context(request: HttpRequest, artifact: Artifact) -> dict[str, Any]:
    told = crawl.funnel(artifact)
    stage = request.GET.get("stage") or max(told, key=lambda row: row["dropped"])["stage"]
    row = next((row for row in told if row["stage"] == stage), None)
    if row is None:
        raise Http404
    try:
        thresholds = moved(request.GET)
        counted = crawl.recount(artifact, thresholds)
    except UserError as error:
        return {"problem": error.message, "funnel": [], "by": "pages"}
    by = "bytes" if request.GET.get("by") == "bytes" and counted["bytes"] else "pages"
    rules = crawl.rules(artifact, stage)
    reasons = [(name, FAILURES[name], n) for name, n in row["rules"].items() if name in FAILURES]
    chosen = request.GET.get("rule") or (rules[0].rule.field if rules else "")
    if chosen not in {one.rule.field for one in rules} | {name for name, _, _ in reasons}:
        chosen = rules[0].rule.field if rules else ""
    kept_params = {f"t.{field}": f"{value:.6g}" for field, value in thresholds.items()}
    return {
        "by": by,
        "funnel": [_row(one, now, counted, by) for one, now in zip(told, counted["stages"], strict=True)],
        "kept_share": counted["documents"] / max(1, counted["pages"]),
        "n_pages": counted["pages"],
        "n_documents": counted["documents"],
        "row": row,
        "stage_number": told.index(row) + 1,
        "n_rules": len(rules),
        **_split([(one, counted["rules"].get(one.rule.field, 0)) for one in rules], chosen),
        "reasons": reasons,
        "lines": [(LINE_RULES.get(name, name), n) for name, n in row.get("lines", {}).items() if n],
        "chosen": chosen,
        "query": urlencode({"by": by, **kept_params} if by != "pages" else kept_params),
        "moved": thresholds,
        **_threshold(artifact, chosen, thresholds, counted),
        **_dropped(request, artifact, chosen),
    }


def _split(rules: list[tuple[crawl.RuleCount, int]], chosen: str) -> dict[str, Any]:
    """The rules that dropped pages (or are looked at), and those that did not, which are folded where many."""
    loud = [(one, n) for i, (one, n) in enumerate(rules) if n or i < N_SHOWN or one.rule.field == chosen]
    return {"rules": loud, "quiet_rules": [pair for pair in rules if pair not in loud]}


def _row(told: dict[str, Any], now: dict[str, Any], counted: dict[str, Any], by: str) -> dict[str, Any]:
    """One row of the funnel, in pages or in bytes of the raw pages."""
    if by == "bytes":
        whole, came, left = counted["bytes"], now["bytes_in"], now["bytes"]
    else:
        whole, came, left = counted["pages"], now["in"], now["kept"]
    gone = came - left
    return told | {"came": came, "left": left, "gone": gone, "whole": whole, "share_in": came / max(1, whole), "share_left": left / max(1, whole), "failed": now["failed"]}  # fmt: skip


def _threshold(
    artifact: Artifact, chosen: str, thresholds: dict[str, float], counted: dict[str, Any]
) -> dict[str, Any]:
    """The histogram of the chosen rule's measure, and all that the script needs to move its threshold."""
    rule = BY_FIELD.get(chosen)
    if rule is None:
        return {"rule": None}
    was = rule.threshold(crawl.config(artifact))
    spread = crawl.histogram(artifact, rule)
    if rule.fixed is not None or spread is None or was is None:
        return {"rule": rule, "histogram": None, "threshold": was}
    now = thresholds.get(chosen, was)
    lo, step, counts = spread["lo"], spread["step"], spread["counts"]
    end = lo + step * len(counts)
    top = max(counts) or 1
    bars = []
    for i, n in enumerate(counts):
        edge = lo + step * i
        out = edge + step <= now + step / 1e6 if rule.side == "min" else edge >= now - step / 1e6
        height = round(140 * n / top, 1)
        bars.append({"x": round(600 * i / len(counts), 2), "y": 150 - height, "height": height, "out": out})
    return {
        "rule": rule,
        "threshold": was,
        "now": now,
        "is_moved": chosen in thresholds,
        "histogram": {
            "bars": bars,
            "width": round(600 / len(counts) * (0.9 if len(counts) > 4 else 0.96), 2),
            "ticks": _ticks(lo, end, step),
            "end": end,
            "tail": spread["most"] > end,
            "first_tail": spread["least"] < lo,
            "place": min(1.0, max(0.0, (now - lo) / (end - lo))),
            "total": spread["total"],
        },
        "script": {
            "field": chosen,
            "side": rule.side,
            "lo": lo,
            "step": step,
            "n_bins": len(counts),
            "was": was,
            "now": now,
            "moved": thresholds,
            "recount": reverse("dataset_recount", args=[artifact.pk]),
            "documents": crawl.funnel(artifact)[-1]["kept"],
            "counted": counted["documents"],
            "pages": counted["pages"],
            "bytes": counted["bytes"],
            "stages": counted["stages"],
            "rules": counted["rules"],
            "unseen": counted["unseen"],
        },
        "start": _start(artifact),
    }


def _ticks(lo: float, end: float, step: float) -> list[dict[str, Any]]:
    """Round values along the axis, each with its place from 0 to 1."""
    apart = next(
        size for power in range(-9, 18) for size in (10.0**power, 2 * 10.0**power, 5 * 10.0**power)
        if size >= step * (1 - 1e-9) and (end - lo) / size <= 8
    )  # fmt: skip
    digits = max(0, -math.floor(math.log10(apart) + 1e-9))
    first = math.ceil(lo / apart - 1e-6)
    values = [apart * i for i in range(first, math.floor(end / apart + 1e-6) + 1)]
    return [{"text": f"{value:,.{digits}f}", "place": (value - lo) / (end - lo)} for value in values]


def _start(artifact: Artifact) -> str:
    """The new run's form filled as this crawl was; the script adds the thresholds."""
    query: list[tuple[str, Any]] = []
    if run := artifact.run:
        query = [("preset", run.preset)] if run.preset else []
        query += [
            (f"config.{key}", value)
            for key, value in run.given.items()
            if isinstance(value, str | int | float)
        ]
        query += [(f"inputs.{given.name}", given.artifact_id) for given in run.inputs.all()]
    return f"{reverse('new_run_kind', args=['crawl'])}?{urlencode(query)}"


def _dropped(request: HttpRequest, artifact: Artifact, chosen: str) -> dict[str, Any]:
    """The pages that fell to the chosen rule, and one of them to read with the passage at fault."""
    if not chosen:
        return {"drops": None}
    q = request.GET.get("q", "").strip()[:200]
    text = request.GET.get("offset", "")
    offset = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    found = crawl.dropped(artifact, chosen, q=q, offset=offset, limit=PER_PAGE)
    wanted = request.GET.get("page", "")
    shown = next(
        (one for one in found["items"] if one["id"] == wanted), found["items"][0] if found["items"] else None
    )
    drops = {
        "items": [
            {**one, "short": (one["url"] or "").partition("://")[2] or one["url"]} for one in found["items"]
        ],
        "count": found["count"],
        "q": q,
        "earlier": max(0, offset - PER_PAGE) if offset else None,
        "later": offset + PER_PAGE if offset + PER_PAGE < found["count"] else None,
        "offset": offset,
    }
    return {"drops": drops, "shown": _shown(artifact, shown, BY_FIELD.get(chosen)) if shown else None}


def _shown(artifact: Artifact, page: dict[str, Any], rule: Rule | None) -> dict[str, Any]:
    if rule is None:
        return {**page, "pieces": [(page["text"] or "", False)], "reason": FAILURES.get(page["rule"], "")}
    pieces, n_marks = passage(rule.measure, page["text"] or "")
    return {
        **page,
        "pieces": pieces,
        "fault": FAULTS.get(rule.measure, "what stood on the page before") if n_marks else "",
        "n_marks": n_marks,
        "below": rule.side == "min",
        "next": crawl.next_rule(page, rule, crawl.config(artifact)),
    }
