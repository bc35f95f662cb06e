"""Sharded runs: the holder of the run makes the rows of one stage's shards and works on them like everybody.

A worker that is woken for a sharded run which somebody holds helps with its shards. When the last shard of a
stage has ended, the holder makes those of the next; so a killed worker costs one shard, and a killed holder
is replaced by the next claim, which finds the rows where they are.
"""

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from django.conf import settings

from core_ml import recipes
from core_ml.events import Failed
from core_ml.recipe import Stage
from lab.models import Run, Shard
from lab.models.run import CANCELLED, FAILED, INTERRUPTED, QUEUED, RUNNING, SUCCEEDED
from lab.services import artifacts, claims, events, wake
from lab.services.claims import LostLease
from worker import supervisor
from worker.child import Child

logger = logging.getLogger(__name__)


class Ended(Exception):
    """The run has ended while its shards were planned."""


def coordinate(run: Run, leaving: Callable[[], bool]) -> None:
    """Bring a claimed sharded run through its stages, executing shards oneself and waiting for the rest."""
    claims.write(run, status=RUNNING)
    run.status = RUNNING
    stages = recipes.get(run.kind).stages
    for number, stage in enumerate(stages, 1):
        try:
            _make_rows(run, stage, leaving)
        except Ended:
            return
        while True:
            _tell(run, stage, number, len(stages))
            if supervisor.cancelling(run):
                _settle_cancelled(run, leaving)
                return
            if leaving():
                claims.release(run, "the worker left")
                return
            failed = run.shards.filter(stage=stage.name, status=FAILED).first()
            if failed is not None:
                claims.finish(run, FAILED, failed.error)
                return
            left = run.shards.filter(stage=stage.name).exclude(status=SUCCEEDED)
            if not left.exists():
                break
            if not work_on_one(run, stage.name, leaving, beat=run):
                time.sleep(supervisor.POLL)
    claims.finish(run, SUCCEEDED)


def help_with(run: Run, leaving: Callable[[], bool]) -> None:
    """Work on shards of a run that another worker holds, until there is none to take."""
    for stage in recipes.get(run.kind).stages:
        while not leaving() and work_on_one(run, stage.name, leaving):
            pass


def work_on_one(run: Run, stage: str, leaving: Callable[[], bool], beat: Run | None = None) -> bool:
    """Claim one shard and bring it to its end; False when there is none to take. `beat` is kept alive meanwhile."""
    shard = claims.claim_shard(run, stage)
    if shard is None:
        if beat is not None:
            claims.beat(beat)
        return False
    folder = artifacts.state_dir(run) / "shards"
    folder.mkdir(parents=True, exist_ok=True)

    def stop() -> bool:
        if beat is not None:
            claims.beat(beat)
        return leaving()

    try:
        if not supervisor.drained(shard):
            return True
        claims.begin_attempt(shard)
        arguments = [*supervisor.arguments(run), "--stage", stage, "--shard", shard.name]
        child = Child(run.kind, arguments, supervisor.event_file(shard), supervisor.log_file(run))
        supervisor.follow(shard, child, stop)
    except LostLease:
        if beat is not None:
            claims.beat(beat)  # raises when it is the run itself that was lost
    return True


def _make_rows(run: Run, stage: Stage, leaving: Callable[[], bool]) -> None:
    """One row for each shard of a stage, made once; others are woken to help."""
    if run.shards.filter(stage=stage.name).exists():
        return
    names = _plan(run, stage, leaving)
    Shard.objects.bulk_create(
        [Shard(run=run, stage=stage.name, name=name) for name in names], ignore_conflicts=True
    )
    for _ in range(min(len(names) - 1, settings.N_SLOTS)):
        wake.up(run)


def _plan(run: Run, stage: Stage, leaving: Callable[[], bool]) -> list[str]:
    """Ask a child which shards a stage has: the answer may need libraries that this process does not load."""
    planned = artifacts.state_dir(run) / f"plan-{stage.name}.jsonl"
    planned.unlink(missing_ok=True)
    arguments = [*supervisor.arguments(run), "--stage", stage.name]
    child = Child(run.kind, arguments, planned, supervisor.log_file(run))
    try:
        while child.code is None:
            claims.beat(run)
            if supervisor.cancelling(run):
                _settle_cancelled(run, leaving)
                raise Ended
            if leaving():
                claims.release(run, "the worker left")
                raise Ended
            time.sleep(supervisor.POLL)
    finally:
        if child.code is None:
            child.kill()
    if child.code == 0:
        return json.loads((artifacts.state_dir(run) / "state" / f"plan-{stage.name}.json").read_text())
    told = [event for event, _ in events.read(planned, 0, 0).events if isinstance(event, Failed)]
    words = child.last_words()
    error: dict[str, Any] = {"message": words[-1] if words else "planning the shards failed", "log": words}
    if told:
        error = {"message": told[0].message, "field": told[0].field, "hint": told[0].hint}
    claims.finish(run, FAILED, error)
    raise Ended


def _tell(run: Run, stage: Stage, number: int, n_stages: int) -> None:
    """Progress of the whole run: shards done of those of this stage."""
    rows = run.shards.filter(stage=stage.name)
    done, total = rows.filter(status=SUCCEEDED).count(), rows.count()
    message = f"{stage.title} ({number} of {n_stages})"
    before = run.progress or {}
    if (before.get("step"), before.get("message")) == (done, message):
        return
    same = before.get("message") == message
    since = before["since"] if same and "since" in before else time.time()
    rate = done / (time.time() - since) if same and done and time.time() > since else None
    run.progress = {
        "step": done,
        "total": total,
        "unit": "pieces",
        "message": message,
        "rate": rate,
        "seconds_left": (total - done) / rate if rate else None,
        "since": since,
    }
    claims.write(run, progress=run.progress)


def _settle_cancelled(run: Run, leaving: Callable[[], bool]) -> None:
    """The run ends when nobody works on its shards any more."""
    while True:
        run.shards.filter(status__in=(QUEUED, INTERRUPTED)).update(status=CANCELLED, token="")
        held = run.shards.filter(status__in=claims.HELD).exclude(claims.stale())
        if not held.exists() or leaving():
            break
        claims.beat(run)
        time.sleep(supervisor.POLL)
    run.shards.filter(status__in=claims.HELD).update(status=CANCELLED, token="")
    claims.finish(run, CANCELLED)
