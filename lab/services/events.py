"""Storing what a child process told: lines of its event file become rows, each exactly once.

The position in the file moves in the same transaction as the rows, and under the run's token.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import F

from core_ml.events import (
    Artifact,
    Done,
    Event,
    Failed,
    Figure,
    Log,
    Metric,
    Progress,
    Resumed,
    Sample,
    Stopped,
    Summary,
    from_line,
)
from lab.models import Attempt, LogLine, Run, Shard
from lab.models import Figure as FigureRow
from lab.models import Sample as SampleRow
from lab.models.run import FAILED, RUNNING, STARTING, SUCCEEDED
from lab.services import artifacts, claims, metrics
from lab.services.storable import storable

KEPT_LOG_LINES = 2000
MAX_BATCH_BYTES = 4 * 1024**2
MAX_LAST_LINE = 256 * 1024
Last = Done | Failed | Stopped


@dataclass
class Batch:
    """Whole lines read from an event file, and where the next read begins."""

    events: list[tuple[Event, float]]
    seq: int
    offset: int


def read(path: Path, seq: int, offset: int) -> Batch:
    """New events after a position; a line that is not whole yet is left for the next read."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(MAX_BATCH_BYTES)
    except FileNotFoundError:
        data = b""
    whole = data[: data.rfind(b"\n") + 1]
    events = []
    for line in whole.splitlines():
        try:
            event, number, time = from_line(line.decode())
        except ValueError:
            continue  # a machine that lost power can leave a torn line in the middle
        if number > seq:
            events.append((_storable(event), time))
            seq = number
    return Batch(events, seq, offset + len(whole))


def _storable(event: Event) -> Event:
    if isinstance(event, Metric):
        return event
    return replace(event, **{field.name: storable(getattr(event, field.name)) for field in fields(event)})


def is_whole(path: Path) -> bool:
    """Whether a child has written its last event into a file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MAX_LAST_LINE))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return False
    if not lines or not lines[-1].endswith(b"\n"):
        return False
    try:
        return isinstance(from_line(lines[-1].decode())[0], Done | Failed | Stopped)
    except ValueError:
        return False


def store(held: Run | Shard, batch: Batch) -> Last | None:
    """Write a batch, move the position, and give back the event that ends the attempt, if it came.

    A run that is done or has failed ends in the same transaction, so no kill can fall between the two.
    Raises LostLease when the run is not ours any more; nothing is written then.
    """
    run = held if isinstance(held, Run) else held.run
    changed: dict[str, Any] = {"seq": batch.seq, "offset": batch.offset}
    if held.status == STARTING and batch.events:
        changed["status"] = RUNNING
    last: Last | None = None
    with transaction.atomic():
        if isinstance(held, Run):
            changed |= _run_fields(run, batch.events)
        claims.write(held, **changed)
        if isinstance(held, Shard):
            _merge_summary(run, batch.events)
        for event, _ in batch.events:
            if isinstance(event, Resumed) and isinstance(held, Run):
                _forget_after(run, event.step)
        _store_rows(run, _not_taken_back(batch.events))
        for event, _ in batch.events:
            if isinstance(event, Artifact):
                artifacts.register(run, event.output)
            elif isinstance(event, Done | Failed | Stopped):
                last = event
        if isinstance(last, Done):
            claims.finish(held, SUCCEEDED)
        elif isinstance(last, Failed):
            claims.finish(held, FAILED, _failure(run, last))
    # Only now: what was rolled back must be written at the next try.
    for name, value in changed.items():
        setattr(held, name, value)
    return last


def _run_fields(run: Run, events: Iterable[tuple[Event, float]]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    progress, summary = dict(run.progress), dict(run.summary)
    for event, time in events:
        if isinstance(event, Progress):
            progress = _progress(progress, run.attempt, event, time)
        elif isinstance(event, Summary):
            summary |= event.values
    if progress != run.progress:
        changed["progress"] = progress
    if summary != run.summary:
        changed["summary"] = summary
    return changed


def _merge_summary(run: Run, events: Iterable[tuple[Event, float]]) -> None:
    """What a shard tells of the whole run; its holder writes other fields at the same time."""
    values = {
        key: value for event, _ in events if isinstance(event, Summary) for key, value in event.values.items()
    }
    if values:
        summary = Run.objects.select_for_update().values_list("summary", flat=True).get(pk=run.pk)
        Run.objects.filter(pk=run.pk).update(summary=summary | values, version=F("version") + 1)


def _progress(before: dict[str, Any], attempt: int, event: Progress, time: float) -> dict[str, Any]:
    """The event with the rate since this phase began, and the seconds that are left at that rate."""
    same = before.get("message") == event.message and before.get("total") == event.total
    same = same and before.get("attempt") == attempt and event.step >= before.get("step", 0)
    since, from_step = (before["since"], before["from_step"]) if same else (time, event.step)
    done, seconds = event.step - from_step, time - since
    rate = done / seconds if done > 0 and seconds > 0.5 else None
    left = (event.total - event.step) / rate if rate and event.total is not None else None
    return {
        "step": event.step,
        "total": event.total,
        "unit": event.unit,
        "message": event.message,
        "rate": rate,
        "seconds_left": left,
        "since": since,
        "from_step": from_step,
        "attempt": attempt,
    }


def _forget_after(run: Run, step: int) -> None:
    """What was told about later steps will be told anew."""
    metrics.cut(run, step)
    run.samples.filter(step__gt=step).delete()
    run.figures.filter(step__gt=step).delete()
    Attempt.objects.filter(run=run, number=run.attempt).update(resumed_step=step)


def _not_taken_back(events: list[tuple[Event, float]]) -> list[tuple[Event, float]]:
    """A batch without what a later event in it takes back: a run may go back while it trains."""
    kept: list[tuple[Event, float]] = []
    for event, time in events:
        if isinstance(event, Resumed):
            kept = [
                (one, at)
                for one, at in kept
                if not isinstance(one, Metric | Sample | Figure) or one.step <= event.step
            ]
        kept.append((event, time))
    return kept


def _store_rows(run: Run, events: list[tuple[Event, float]]) -> None:
    metrics.append(run, ((event.step, event.values) for event, _ in events if isinstance(event, Metric)))
    SampleRow.objects.bulk_create(
        SampleRow(run=run, step=event.step, prompt=event.prompt, text=event.text, data=event.data)
        for event, _ in events
        if isinstance(event, Sample)
    )
    lines = [
        LogLine(run=run, time=_time(time), level=event.level[:8], message=event.message)
        for event, time in events
        if isinstance(event, Log)
    ]
    if lines:
        LogLine.objects.bulk_create(lines)
        oldest = (
            run.log.order_by("-id").values_list("id", flat=True)[KEPT_LOG_LINES : KEPT_LOG_LINES + 1].first()
        )
        if oldest:
            run.log.filter(id__lte=oldest).delete()
    for event, _ in events:
        if isinstance(event, Figure):
            FigureRow.objects.update_or_create(
                run=run,
                name=event.name,
                defaults={
                    "step": event.step,
                    "title": event.title[:200],
                    "content": event.content,
                    "finding": event.finding,
                },
            )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _failure(run: Run, event: Failed) -> dict[str, Any]:
    """How a failure is kept: what and why, the field at fault, what to try, and what was said last."""
    return {
        "message": event.message,
        "field": event.field,
        "hint": event.hint,
        "traceback": event.traceback,
        "log": [line.message for line in reversed(run.log.order_by("-id")[:12])],
    }
