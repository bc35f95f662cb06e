"""How one worker at a time holds a run: claim, heartbeat, fenced writes, release.

A claim is one conditional update that sets a fresh token. Every later write carries the token in its filter,
so a worker that lost its lease changes nothing and learns it at once. Runs and shards are claimed alike.
"""

import logging
import secrets
from datetime import timedelta
from typing import Any, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F, Q
from django.utils import timezone

from lab.models import Attempt, Run, Shard
from lab.models.run import CANCELLED, INTERRUPTED, QUEUED, RUNNING, STARTING
from lab.services import runs, waiting, wake
from worker.app import WAKE_TIME

LEASE = timedelta(seconds=settings.LEASE_SECONDS)
HELD = (STARTING, RUNNING)
logger = logging.getLogger(__name__)
MAX_UNREAD = 20
"""Wake-ups in the queue above which no more are sent: all workers are busy."""
MAX_DEATHS = 3
"""A child that died this often without saving anything new is not started again."""

Held = TypeVar("Held", Run, Shard)


class LostLease(Exception):
    """Somebody else holds the run now; whatever we know of it is void."""


def stale() -> Q:
    """Held by a worker that has not been heard of for the length of a lease."""
    return Q(status__in=HELD, heartbeat__lt=timezone.now() - LEASE)


def claim_run(pk: int, worker: str) -> Run | None:
    """Take a run that is queued, or whose holder fell silent. None when there is nothing to take."""
    free = Q(status__in=(QUEUED, INTERRUPTED)) | stale()
    with transaction.atomic():
        run = _claim(Run, Q(pk=pk, pending={}, cancel_requested=None, deleted=None) & free)
        if run is not None:
            Attempt.objects.filter(run=run, ended=None).update(
                ended=timezone.now(), outcome="the worker fell silent"
            )
            Attempt.objects.create(run=run, number=run.attempt, worker=worker)
    return run


def claim_shard(run: Run, stage: str) -> Shard | None:
    """Take one shard of a stage that nobody holds."""
    free = Q(run=run, stage=stage, run__status__in=HELD) & (Q(status__in=(QUEUED, INTERRUPTED)) | stale())
    for pk in Shard.objects.filter(free).values_list("pk", flat=True)[:20]:
        shard = _claim(Shard, Q(pk=pk) & (Q(status__in=(QUEUED, INTERRUPTED)) | stale()))
        if shard is not None:
            return shard
    return None


def _claim(model: type[Held], free: Q) -> Held | None:
    token, now = secrets.token_hex(16), timezone.now()
    fields: dict[str, Any] = {}
    if model is Run:
        fields["version"] = F("version") + 1
    n = model.objects.filter(free).update(
        status=STARTING, token=token, heartbeat=now, attempt=F("attempt") + 1, **fields
    )
    if not n:
        return None
    claimed = model.objects.get(token=token)
    model.objects.filter(pk=claimed.pk, started=None).update(started=now)
    return claimed


def write(held: Run | Shard, **fields: Any) -> None:
    """Change a held run or shard and renew its lease. Raises LostLease when it is not ours any more."""
    if isinstance(held, Run):
        fields.setdefault("version", F("version") + 1)
    n = (
        type(held)
        .objects.filter(pk=held.pk, token=held.token, status__in=HELD)
        .update(heartbeat=timezone.now(), **fields)
    )
    if not n:
        raise LostLease(str(held))


def beat(held: Run | Shard) -> None:
    """Renew the lease; a heartbeat alone is no news to listeners."""
    n = (
        type(held)
        .objects.filter(pk=held.pk, token=held.token, status__in=HELD)
        .update(heartbeat=timezone.now())
    )
    if not n:
        raise LostLease(str(held))


def recall(held: Run | Shard) -> None:
    """Take over what the database has of a held run or shard. Raises LostLease when it is not ours any more.

    When a connection breaks right behind a COMMIT nobody says whether it was carried out: to write the same
    batch again would double it.
    """
    stored = type(held).objects.filter(pk=held.pk, token=held.token, status__in=HELD).first()
    if stored is None:
        raise LostLease(str(held))
    told = ("progress", "summary") if isinstance(held, Run) else ()
    for name in ("status", "seq", "offset", *told):
        setattr(held, name, getattr(stored, name))


def begin_attempt(held: Run | Shard) -> None:
    """From here on the event file of the present attempt is read, from its beginning."""
    write(held, reading=held.attempt, seq=0, offset=0)
    held.reading, held.seq, held.offset = held.attempt, 0, 0


def finish(held: Run | Shard, status: str, error: dict[str, Any] | None = None, outcome: str = "") -> None:
    """End a held run or shard, once."""
    now = timezone.now()
    with transaction.atomic():
        write(held, status=status, ended=now, error=error, token="")
        if isinstance(held, Run):
            _end_attempt(held, outcome or status)
            transaction.on_commit(waiting.settle)


def release(held: Run | Shard, outcome: str) -> None:
    """Give a run back to the queue, to go on from what it saved: its worker is leaving, or its child died."""
    with transaction.atomic():
        write(held, status=QUEUED, token="", sent=None)
        if isinstance(held, Run):
            _end_attempt(held, outcome)


def _end_attempt(run: Run, outcome: str) -> None:
    Attempt.objects.filter(run=run, number=run.attempt).update(ended=timezone.now(), outcome=outcome[:200])


def died_in_vain(run: Run) -> bool:
    """Whether the last attempts all died without having gone further than the one before."""
    last = list(Attempt.objects.filter(run=run).order_by("-number")[:MAX_DEATHS])
    started_at = {attempt.resumed_step for attempt in last}
    return (
        len(last) == MAX_DEATHS
        and len(started_at) == 1
        and all(a.outcome.startswith("died") for a in last[1:])
    )


def sweep() -> None:
    """Mend what a kill left behind. Safe to run anywhere, any number of times, at the same time.

    One part that fails does not keep the others from their work.
    """
    for part in (_settle_silent, waiting.settle, _wake_waiting, runs.purge_deleted):
        try:
            part()
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            logger.exception("the sweep goes on without %s", part.__name__)


def _settle_silent() -> None:
    """Whoever held these is gone: cancelled where a person asked for it, else free to be taken up."""
    now = timezone.now()
    told = {"version": F("version") + 1}
    unheld = stale() | Q(status__in=(QUEUED, INTERRUPTED))
    asked = Q(cancel_requested__isnull=False)
    silent = list(Run.objects.filter(stale()).values_list("pk", flat=True))
    Run.objects.filter(unheld & asked).update(status=CANCELLED, ended=now, token="", **told)
    Run.objects.filter(stale()).update(status=INTERRUPTED, token="", sent=None, **told)
    Attempt.objects.filter(run__in=silent, ended=None).exclude(run__status__in=HELD).update(
        ended=now, outcome="the worker fell silent"
    )
    over = Shard.objects.filter(stale(), run__status=CANCELLED).values_list("pk", flat=True)
    Shard.objects.filter(stale(), pk__in=list(over)).update(status=CANCELLED, ended=now, token="")
    Shard.objects.filter(stale()).update(status=INTERRUPTED, token="")


def _wake_waiting() -> None:
    """Send wake-ups anew for what nobody has taken, but never more than workers could soon take."""
    unsent = Q(sent=None) | Q(sent__lt=timezone.now() - timedelta(seconds=WAKE_TIME))
    free = Q(status__in=(QUEUED, INTERRUPTED), pending={})
    helped = Q(status=RUNNING, pk__in=Shard.objects.filter(status__in=(QUEUED, INTERRUPTED)).values("run"))
    queued = Run.objects.filter(unsent, free | helped, deleted=None).order_by("id")[: 2 * settings.N_SLOTS]
    for run in queued:
        if wake.n_unread() > MAX_UNREAD or not wake.up(run):
            break
