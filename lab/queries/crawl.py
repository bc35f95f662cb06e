"""What a crawl did with each page: funnel, rules, histograms, and the same counted again under other thresholds.

All is read from the crawl's `decisions` files, which keep every measure of every page. A page is judged anew by
the same rules in the same order; a measure that its page never reached counts as passed, so a loosened rule gives
an upper bound, and the number of such pages is told. Near-copies are not sought anew.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from core_ml.artifact import Folder
from core_ml.crawl.config import CrawlConfig
from core_ml.crawl.rules import BY_FIELD, FAILURES, MEASURES, RULES, STAGES, Rule
from core_ml.errors import UserError
from lab.models import Artifact
from lab.queries import artifacts
from lab.queries.rows import fetch

BINS = 60
PASSAGE_COLUMNS = ("id", "url", "stage", "rule", "value", "threshold", "text")
_DECISIONS = "read_parquet($files, union_by_name=true)"
_SIZE = 'coalesce("html_bytes", "text_chars", 0)'


@dataclass(frozen=True)
class RuleCount:
    """A rule that was on, its threshold, and the pages that it dropped first."""

    rule: Rule
    threshold: float
    n_dropped: int


def is_crawl(artifact: Artifact) -> bool:
    files = artifact.manifest.get("files", [])
    return artifact.form == "documents" and any(file["path"].startswith("decisions-") for file in files)


def config(artifact: Artifact) -> dict[str, Any]:
    """Every setting of the crawl; a manifest may hold only those that differ from the defaults."""
    told = artifact.manifest.get("origin", {}).get("config", {})
    try:
        return CrawlConfig(**told).model_dump()
    except ValidationError:
        return dict(told)


def funnel(artifact: Artifact) -> list[dict[str, Any]]:
    """The eight rows as the crawl counted them: stage, title, looks_for, in, kept, dropped, failed, rules, lines."""
    return list(artifact.summary.get("funnel", []))


def rules(artifact: Artifact, stage: str) -> list[RuleCount]:
    """The rules of a stage that were on, those that dropped most first."""
    settings = config(artifact)
    counted = next((row["rules"] for row in funnel(artifact) if row["stage"] == stage), {})
    found = [
        RuleCount(rule, float(threshold), counted.get(rule.field, 0))
        for rule in RULES
        if rule.stage == stage
        and rule.field in settings
        and (threshold := rule.threshold(settings)) is not None
    ]
    return sorted(found, key=lambda one: -one.n_dropped)


def movable(field: str) -> Rule:
    """The rule of a name, which has a threshold to move. Raises UserError."""
    if field not in BY_FIELD or BY_FIELD[field].fixed is not None:
        raise UserError(f"{field[:60]!r} is no rule with a threshold", field=field)
    return BY_FIELD[field]


def histogram(artifact: Artifact, rule: Rule, bins: int = BINS) -> dict[str, Any] | None:
    """How the measure of a rule is spread over all pages that reached it; None when no page did.

    Args:
        bins: about how many; their width is the next round number.
    Returns: {"lo", "step", "counts", "total", "least", "most"}: bin i spans lo + i * step; the first and the last bin also hold what
        lies beyond them. Edges are round numbers; the threshold lies on one where it lies inside.
    """
    measure, source = _identifier(rule.measure), _source(artifact)
    spread = fetch(
        source["folder"],
        f"SELECT count({measure}) AS n, min({measure}) AS least, max({measure}) AS most, "
        f"quantile_cont({measure}::DOUBLE, [0.005, 0.995]) AS inner FROM {_DECISIONS} WHERE isfinite({measure}::DOUBLE)",
        source["parameters"],
    )[0]  # fmt: skip
    if not spread["n"]:
        return None
    low, high = spread["inner"]
    threshold = rule.threshold(config(artifact))
    if threshold is not None and low - (high - low) <= threshold <= high + (high - low):
        low, high = min(low, threshold), max(high, threshold)
    low, high = _around(low, high, threshold)
    step = _round_step((high - low) / bins, whole=rule.unit not in ("share", "per word", "probability", "estimated Jaccard") and float(spread["most"]).is_integer() and float(spread["least"]).is_integer())  # fmt: skip
    lo = math.floor(low / step + 1e-9) * step
    n_bins = max(2, math.ceil((high - lo) / step - 1e-9) + (1 if step >= 1 else 0))
    counted = fetch(
        source["folder"],
        f"SELECT least(greatest(floor(({measure} - $lo) / $step + 1e-6), 0), $last)::INTEGER AS bin, count(*) AS n "
        f"FROM {_DECISIONS} WHERE isfinite({measure}::DOUBLE) GROUP BY bin",
        {**source["parameters"], "lo": lo, "step": step, "last": n_bins - 1},
    )
    counts = [0] * n_bins
    for row in counted:
        counts[row["bin"]] = row["n"]
    return {
        "lo": lo,
        "step": step,
        "counts": counts,
        "total": spread["n"],
        "least": spread["least"],
        "most": spread["most"],
    }


def _around(low: float, high: float, threshold: float | None) -> tuple[float, float]:
    """Closer to the threshold where it stands at an edge of a long tail; the last bin then holds the tail."""
    if threshold is None or not low < threshold < high:
        return low, high
    place = (threshold - low) / (high - low)
    if place < 0.1:
        return low, low + 5 * (threshold - low)
    return (high - 5 * (high - threshold), high) if place > 0.9 else (low, high)


def _round_step(raw: float, *, whole: bool) -> float:
    """The next of 1, 2 or 5 times a power of ten."""
    if raw <= 0:
        return 1.0 if whole else 0.01
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return max(1.0, step) if whole else step


def recount(artifact: Artifact, moved: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The funnel under other thresholds.

    Args:
        moved: by rule (the name of its field) the threshold to count with; the others stay as the crawl had them.
    Returns: {"stages": [{"stage", "in", "kept", "dropped", "failed", "bytes"}], "rules": {field: pages},
        "documents": kept at the end, "unseen": of them those that later stages have not judged}; "bytes" is the
        size of the raw pages that a stage kept.
    """
    settings, moved = config(artifact), dict(moved or {})
    for field in moved:
        movable(field)
    source = _source(artifact)
    parameters = dict(source["parameters"])
    cases: list[str] = []
    places: list[tuple[str, str]] = []
    for stage in STAGES:
        places.append((stage.name, "failed"))
        cases.append(
            f'WHEN "stage" = \'{stage.name}\' AND list_contains($failures, "rule") THEN {len(places) - 1}'
        )
        for rule in RULES:
            threshold = moved.get(rule.field, rule.threshold(settings) if rule.field in settings else None)
            if rule.stage != stage.name or threshold is None:
                continue
            sign = "<" if rule.side == "min" else ">"
            places.append((stage.name, rule.field))
            cases.append(
                f"WHEN {_identifier(rule.measure)} {sign} $t{len(places) - 1} THEN {len(places) - 1}"
            )
            parameters[f"t{len(places) - 1}"] = float(threshold)
    parameters["failures"] = [*FAILURES]
    rows = fetch(
        source["folder"],
        f"SELECT place, count(*) AS n, sum(size)::BIGINT AS size, count(*) FILTER (WHERE NOT was_kept) AS n_new "
        f'FROM (SELECT CASE {" ".join(cases)} ELSE -1 END AS place, {_SIZE} AS size, "kept" AS was_kept '
        f"FROM {_DECISIONS}) GROUP BY place",
        parameters,
    )
    by_place = {row["place"]: row for row in rows}
    return _summed(by_place, places)


def _summed(by_place: dict[int, dict[str, Any]], places: list[tuple[str, str]]) -> dict[str, Any]:
    left = sum(row["n"] for row in by_place.values())
    size = sum(row["size"] or 0 for row in by_place.values())
    told: dict[str, Any] = {"stages": [], "rules": {}, "pages": left, "bytes": size}
    for stage in STAGES:
        row = {"stage": stage.name, "in": left, "dropped": 0, "failed": 0, "bytes_in": size}
        for place, (name, rule) in enumerate(places):
            if name != stage.name or place not in by_place:
                continue
            found = by_place[place]
            row["failed" if rule == "failed" else "dropped"] += found["n"]
            size -= found["size"] or 0
            if rule != "failed":
                told["rules"][rule] = found["n"]
        left -= row["dropped"] + row["failed"]
        told["stages"].append({**row, "kept": left, "bytes": size})
    kept = by_place.get(-1, {"n": 0, "n_new": 0})
    return {**told, "documents": kept["n"], "unseen": kept["n_new"]}


def dropped(
    artifact: Artifact, rule: str, *, q: str = "", offset: int = 0, limit: int = 12
) -> dict[str, Any]:
    """The pages that a rule dropped (or that failed for a reason), nearest to the threshold first.

    Returns: {"items": rows of PASSAGE_COLUMNS, "count"}.
    """
    if rule not in BY_FIELD and rule not in FAILURES:
        raise UserError(f"{rule[:60]!r} is no rule of a crawl", field="rule")
    source = _source(artifact)
    where = 'WHERE "rule" = $rule AND NOT "kept"'
    parameters = {**source["parameters"], "rule": rule}
    if q := q.strip()[:200].replace("\0", ""):
        where += ' AND (contains(lower("url"), lower($q)) OR contains(lower("text"), lower($q)))'
        parameters["q"] = q
    columns = ", ".join(_identifier(name) for name in (*PASSAGE_COLUMNS, *MEASURES))
    items = fetch(
        source["folder"],
        f'SELECT {columns} FROM {_DECISIONS} {where} ORDER BY abs("value" - "threshold") NULLS LAST, "id" '
        "LIMIT $limit OFFSET $offset",
        {**parameters, "limit": min(max(1, limit), 100), "offset": max(0, offset)},
    )
    count = fetch(source["folder"], f"SELECT count(*) AS n FROM {_DECISIONS} {where}", parameters)[0]["n"]
    return {"items": items, "count": count}


def next_rule(
    page: Mapping[str, Any], rule: Rule, settings: Mapping[str, Any]
) -> tuple[Rule, float, bool] | None:
    """The rule that a dropped page would have met next in its stage, its value, and whether it keeps the page."""
    later = RULES[RULES.index(rule) + 1 :]
    for other in later:
        threshold, value = (
            other.threshold(settings) if other.field in settings else None,
            page.get(other.measure),
        )
        if other.stage == rule.stage and threshold is not None and value is not None:
            return other, value, other.keeps(value, threshold)
    return None


def _source(artifact: Artifact) -> dict[str, Any]:
    folder = Folder(artifacts.path(artifact))
    files = [str(path.resolve()) for path in folder.files(".parquet") if path.name.startswith("decisions-")]
    if not files:
        raise UserError(f"{artifact.name} keeps no decisions on pages: only a crawl does")
    return {"folder": folder.path, "parameters": {"files": files}}


def _identifier(name: str) -> str:
    """A column's name in quotes; from our own list, never from a person."""
    assert name in MEASURES or name in PASSAGE_COLUMNS, name
    return f'"{name}"'
