"""Reading metrics: a bounded number of points of any range, from the finest level that fits."""

import math
from typing import Any

import numpy as np

from lab.models import MetricChunk, Run
from lab.models.metric import FOLD
from lab.services.metrics import unpack


def names(run: Run) -> list[str]:
    return sorted(run.chunks.filter(level=0).values_list("name", flat=True).distinct())


def latest(run: Run) -> dict[str, float | None]:
    """The last value of each metric."""
    rows = run.chunks.filter(level=0).order_by("name", "first_step").values_list("name", "last_value")
    return dict(rows)


def best(run: Run, name: str, better: str) -> float | None:
    """The smallest (or largest) value that a metric has had."""
    column = "minimum" if better == "lower" else "maximum"
    values = [
        value
        for value in run.chunks.filter(level=0, name=name).values_list(column, flat=True)
        if value is not None
    ]
    return (min if better == "lower" else max)(values, default=None)


def curve(
    run: Run, name: str, after_step: int | None = None, before_step: int | None = None, max_points: int = 1000
) -> dict[str, list[Any]]:
    """Columns `steps` and `values`; of a down-sampled curve also `lows` and `highs` of each bucket.

    A value that is not finite is None, since JSON has no word for it.
    """
    chunks = run.chunks.filter(name=name)
    if after_step is not None:
        chunks = chunks.filter(last_step__gt=after_step)
    if before_step is not None:
        chunks = chunks.filter(first_step__lte=before_step)
    n_points = sum(chunks.filter(level=0).values_list("n_points", flat=True))
    level = 0
    while n_points / FOLD ** (level + 1) >= max_points and chunks.filter(level=level + 1).exists():
        level += 1
    steps, lows, highs = _gather(chunks, level)
    inside = np.ones(len(steps), bool)
    if after_step is not None:
        inside &= steps > after_step
    if before_step is not None:
        inside &= steps <= before_step
    steps, lows, highs = steps[inside], lows[inside], highs[inside]
    if len(steps) > max_points:
        steps, lows, highs = _thin(steps, lows, highs, max_points)
        level = max(level, 1)
    if level == 0:
        return {"steps": steps.tolist(), "values": _finite(lows)}
    middle = np.where(np.isfinite(lows) & np.isfinite(highs), (lows + highs) / 2, lows)
    return {
        "steps": steps.tolist(),
        "values": _finite(middle),
        "lows": _finite(lows),
        "highs": _finite(highs),
    }


def _gather(chunks: Any, level: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All points of a level, and of finer levels those that are not folded into it yet."""
    parts, after = [], None
    for current in range(level, -1, -1):
        found = chunks.filter(level=current)
        if after is not None:
            found = found.filter(last_step__gt=after)
        columns = [_after(unpack(chunk), after) for chunk in found.order_by("first_step", "id")]
        if columns:
            part = tuple(np.concatenate(column) for column in zip(*columns, strict=True))
            if len(part[0]):
                parts.append(part)
                after = int(part[0][-1])
    if not parts:
        empty = np.empty(0)
        return empty.astype(np.int64), empty, empty
    steps, lows, highs = (np.concatenate(column) for column in zip(*parts, strict=True))
    return steps, lows, highs


def _after(points: tuple[np.ndarray, ...], step: int | None) -> tuple[np.ndarray, ...]:
    if step is None:
        return points
    keep = points[0] > step
    return tuple(column[keep] for column in points)


def _thin(
    steps: np.ndarray, lows: np.ndarray, highs: np.ndarray, max_points: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Buckets of equal count that keep minimum and maximum; the last one may be smaller."""
    width = math.ceil(len(steps) / max_points)
    starts = np.arange(0, len(steps), width)
    ends = np.append(starts[1:], len(steps)) - 1
    return steps[ends], np.fmin.reduceat(lows, starts), np.fmax.reduceat(highs, starts)


def _finite(values: np.ndarray) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def points_after(run: Run, cursor: dict[str, int]) -> dict[str, dict[str, list[Any]]]:
    """New points of each metric after the step that a listener has seen of it."""
    new = {}
    last_steps: dict[str, int] = {}
    rows = MetricChunk.objects.filter(run=run, level=0).order_by("first_step", "id")
    for name, last_step in rows.values_list("name", "last_step"):
        last_steps[name] = last_step
    for name, last_step in last_steps.items():
        if last_step > cursor.get(name, -1):
            new[name] = curve(run, name, after_step=cursor.get(name), max_points=1000)
    return new
