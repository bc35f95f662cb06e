"""The one line and the one curve by which a list tells runs apart, read for many runs at once."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core_ml.recipe import Measure
from lab.models import MetricChunk, Run
from lab.models.run import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED
from lab.queries.runs import main_measure
from lab.services.metrics import unpack
from lab.templatetags.lab import duration, number, percent, share, short

N_POINTS = 40
COUNTS = ("n_documents", "n_conversations", "n_rows", "n_parameters")
"""What a run without a measure is told by, the most telling first."""
MAX_CHUNKS = 3
"""A curve of more chunks is drawn from a coarser level."""


@dataclass
class Headline:
    """The main measure of a run: its last and best value, and a thinned curve."""

    measure: Measure | None = None
    last: float | None = None
    best: float | None = None
    values: list[float | None] = field(default_factory=list)

    @property
    def unit(self) -> str:
        """What the figures count: the measure's unit, or its title where that says more."""
        if self.measure is None:
            return ""
        unit, title = self.measure.unit, self.measure.title.lower()
        return title if unit in ("", "share") or unit in title else unit


def headlines(runs: Iterable[Run], curves: bool = False) -> dict[int, Headline]:
    """By run id. Two queries for all of them, one more where the curves are wanted."""
    found = {run.pk: Headline(main_measure(run)) for run in runs}
    wanted = {pk: line.measure for pk, line in found.items() if line.measure}
    names = {measure.name for measure in wanted.values()}
    rows: dict[tuple[int, int], list[dict[str, Any]]] = {}
    chunks = MetricChunk.objects.filter(run__in=wanted, name__in=names).order_by("first_step", "id")
    for row in chunks.values("id", "run_id", "name", "level", "minimum", "maximum", "last_value"):
        if row["name"] == wanted[row["run_id"]].name:
            rows.setdefault((row["run_id"], row["level"]), []).append(row)
    for (pk, level), parts in rows.items():
        if level == 0:
            found[pk].last = parts[-1]["last_value"]
            found[pk].best = _best(wanted[pk], parts)
    for run in runs:
        _from_summary(run, found[run.pk])
    if curves:
        _add_curves(found, rows)
    return found


def _best(measure: Measure, parts: list[dict[str, Any]]) -> float | None:
    lower = measure.better == "lower"
    values = [part["minimum" if lower else "maximum"] for part in parts]
    return (min if lower else max)((value for value in values if value is not None), default=None)


def _from_summary(run: Run, line: Headline) -> None:
    """Recipes that measure once at the end say it in their summary."""
    value = run.summary.get(line.measure.name) if line.measure else None
    if isinstance(value, int | float) and not isinstance(value, bool) and line.last is None:
        line.last = line.best = value


def _add_curves(found: dict[int, Headline], rows: dict[tuple[int, int], list[dict[str, Any]]]) -> None:
    chosen: dict[int, list[int]] = {}
    for pk in found:
        levels = sorted(level for run, level in rows if run == pk)
        fit = next(
            (level for level in levels if len(rows[pk, level]) <= MAX_CHUNKS), levels[-1] if levels else None
        )
        if fit is not None:
            chosen[pk] = [part["id"] for part in rows[pk, fit]]
    chunks = MetricChunk.objects.in_bulk([id for ids in chosen.values() for id in ids])
    for pk, ids in chosen.items():
        columns = [unpack(chunks[id]) for id in ids if id in chunks]
        if columns:
            values = np.concatenate([(lows + highs) / 2 for _, lows, highs in columns])
            places = np.unique(
                np.linspace(0, len(values) - 1, min(N_POINTS, len(values))).round().astype(int)
            )
            found[pk].values = [float(v) if math.isfinite(v) else None for v in values[places]]


def say(run: Run, line: Headline | None = None) -> str:
    """A run in five words: what it waits for, how far it is, why it failed, or how good it became."""
    if run.is_waiting:
        numbers = sorted({ref["run"] for refs in run.pending.values() for ref in refs if "run" in ref})
        return f"waits for {', '.join(map(str, numbers[:3]))}"
    if run.status == QUEUED:
        return "queued"
    if run.status == FAILED:
        message = (run.error or {}).get("message", "failed")
        return message if len(message) < 34 else f"{message[:32].rstrip()}…"
    if run.status == CANCELLED:
        step = run.progress.get("step")
        return f"stopped at step {number(step)}" if step is not None else "stopped"
    if run.status == SUCCEEDED:
        return _result(run, line)
    done, left = share(run.progress), run.progress.get("seconds_left")
    words = [percent(done, 0)] if done is not None else [run.progress.get("message") or "running"]
    if left is not None and run.status == RUNNING:
        words.append(f"{duration(left)} left")
    return ", ".join(words)


def _result(run: Run, line: Headline | None) -> str:
    if line and line.measure and line.last is not None:
        is_share = line.measure.unit == "share"
        figure = percent(line.last, 0) if is_share else number(line.last)
        return f"{figure} {line.unit}"
    for key in (*COUNTS, *(key for key in run.summary if key.startswith("n_"))):
        if isinstance(run.summary.get(key), int):
            return f"{short(run.summary[key])} {key[2:].replace('_', ' ')}"
    return "done"
