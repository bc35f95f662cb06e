"""Writing metrics: points are appended to packed chunks, full chunks are folded into coarser levels.

Level 0 keeps every point. A bucket of level n + 1 stands for FOLD points (or buckets) of level n and keeps
their minimum and maximum, so that no spike is lost in a coarse view. Every fold takes one full chunk, so the
coarser levels can be cut back to any step by dropping the buckets of the chunks that were cut.
"""

from collections.abc import Iterable

import numpy as np

from lab.models import MetricChunk, Run
from lab.models.metric import CHUNK_POINTS, FOLD

STEP, VALUE = np.dtype("<i8"), np.dtype("<f8")
Points = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Steps, minima and maxima; at level 0 the minima are the values and the maxima the same array."""


def unpack(chunk: MetricChunk) -> Points:
    steps, lows = np.frombuffer(chunk.steps, STEP), np.frombuffer(chunk.lows, VALUE)
    return steps, lows, np.frombuffer(chunk.highs, VALUE) if chunk.highs else lows


def append(run: Run, points: Iterable[tuple[int, dict[str, float]]]) -> None:
    """Store metrics in the order of their steps. Call inside the transaction that moves the run's `seq`."""
    columns: dict[str, tuple[list[int], list[float]]] = {}
    for step, values in points:
        for name, value in values.items():
            steps, numbers = columns.setdefault(name, ([], []))
            steps.append(step)
            numbers.append(value)
    for name, (steps, numbers) in columns.items():
        column = np.asarray(numbers, VALUE)
        _append(run, name, 0, (np.asarray(steps, STEP), column, column))


def _append(run: Run, name: str, level: int, new: Points) -> None:
    chunk = run.chunks.filter(name=name, level=level).order_by("-first_step", "-id").first()
    steps, lows, highs = new
    while len(steps):
        if chunk is None or chunk.n_points >= CHUNK_POINTS:
            chunk = MetricChunk(run=run, name=name, level=level, n_points=0, steps=b"", lows=b"", highs=b"")
        room = CHUNK_POINTS - chunk.n_points
        old = unpack(chunk)
        _fill(
            chunk,
            tuple(np.concatenate([a, b[:room]]) for a, b in zip(old, (steps, lows, highs), strict=True)),
        )
        chunk.save()
        steps, lows, highs = steps[room:], lows[room:], highs[room:]
        if chunk.n_points == CHUNK_POINTS:
            _append(run, name, level + 1, _fold(unpack(chunk)))


def _fill(chunk: MetricChunk, points: tuple[np.ndarray, ...]) -> None:
    steps, lows, highs = points
    chunk.n_points = len(steps)
    chunk.first_step, chunk.last_step = int(steps[0]), int(steps[-1])
    finite_lows, finite_highs = lows[np.isfinite(lows)], highs[np.isfinite(highs)]
    chunk.minimum = float(finite_lows.min()) if len(finite_lows) else None
    chunk.maximum = float(finite_highs.max()) if len(finite_highs) else None
    chunk.last_value = float(highs[-1]) if np.isfinite(highs[-1]) else None
    chunk.steps, chunk.lows = steps.astype(STEP).tobytes(), lows.astype(VALUE).tobytes()
    chunk.highs = highs.astype(VALUE).tobytes() if chunk.level else b""


def _fold(points: Points) -> Points:
    """FOLD neighbours become one bucket: its last step, its minimum and its maximum (NaN only if all are)."""
    steps, lows, highs = (column.reshape(-1, FOLD) for column in points)
    return steps[:, -1], np.fmin.reduce(lows, axis=1), np.fmax.reduce(highs, axis=1)


def cut(run: Run, after_step: int) -> None:
    """Drop every point after a step: the run goes on from there and will measure them anew."""
    for chunk in run.chunks.filter(level=0, last_step__gt=after_step).order_by("first_step", "id"):
        was_full = chunk.n_points == CHUNK_POINTS
        if was_full:
            _cut_buckets(run, chunk.name, 1, chunk.first_step)
        if chunk.first_step > after_step:
            chunk.delete()
            continue
        steps, lows, highs = unpack(chunk)
        keep = steps <= after_step
        _fill(chunk, (steps[keep], lows[keep], highs[keep]))
        chunk.save()


def _cut_buckets(run: Run, name: str, level: int, from_step: int) -> None:
    """Drop the buckets of a level that stand for steps from `from_step` on, and what was folded from those."""
    for chunk in run.chunks.filter(name=name, level=level, last_step__gte=from_step):
        if chunk.n_points == CHUNK_POINTS:
            _cut_buckets(run, name, level + 1, chunk.first_step)
        steps, lows, highs = unpack(chunk)
        keep = steps < from_step
        if keep.any():
            _fill(chunk, (steps[keep], lows[keep], highs[keep]))
            chunk.save()
        else:
            chunk.delete()
