"""Following one child process of a held run or shard: its events are stored, its end is settled.

Nothing here trains anything. Every write goes through the run's token, so a supervisor whose lease was lost
kills its child and leaves without a trace.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.db import InterfaceError, OperationalError, connection

from core_ml.events import Artifact, Done, Failed
from core_ml.workspace import FINISH
from lab.models import Run, Shard
from lab.models.run import CANCELLED, FAILED
from lab.services import artifacts, claims, events
from lab.services.claims import LostLease
from worker.child import CANCEL_GRACE, LEAVE_GRACE, Child, write_request

logger = logging.getLogger(__name__)
POLL = 0.2
"""Seconds between two looks at the event file and at a request to cancel."""
FULL_DISK = 4 * 2**20
"""Bytes left below which a child that died is taken to have died of it."""
BEAT = 1.0
"""Seconds between two heartbeats while nothing else is written."""
RETRY = 1.0
"""Seconds to wait before a database that did not answer is asked again."""


def drained(held: Run | Shard) -> bool:
    """Store what the attempt before told but nobody read. False when that already ended the run or shard."""
    return not held.reading or not isinstance(_store_all(held), Done | Failed)


def follow(held: Run | Shard, child: Child, leaving: Callable[[], bool]) -> None:
    """Store the child's events until it ends. Done and Failed end the run with them; the rest is settled here."""
    run = held if isinstance(held, Run) else held.run
    try:
        last = _watch(held, run, child, leaving)
    except BaseException:
        child.kill()
        raise
    if isinstance(last, Done | Failed):
        return
    if cancelling(run):
        claims.finish(held, CANCELLED)
    elif leaving():
        claims.release(held, "the worker left")
    else:
        _bury(held, child)


def _watch(held: Run | Shard, run: Run, child: Child, leaving: Callable[[], bool]) -> events.Last | None:
    beaten = time.monotonic()  # the claim was one
    in_doubt = False
    while True:
        ended = child.code is not None  # asked before reading: after the end there is nothing more to come
        try:
            if in_doubt:
                claims.recall(held)
                in_doubt = False
            last, stored = _store_new(held)
            if stored:
                beaten = time.monotonic()
            if last is not None or ended:
                child.process.wait()
                return last or _store_all(held)
            if time.monotonic() - beaten > BEAT:
                claims.beat(held)
                beaten = time.monotonic()
            cancel, finish = asked(run)
            if finish:
                ask_to_finish(run)
            if cancel:
                child.ask_to_stop(CANCEL_GRACE)
            elif leaving():
                child.ask_to_stop(LEAVE_GRACE)
        except (OperationalError, InterfaceError) as error:
            # A busy or restarting database: the events wait in their file. A connection that broke outside a
            # transaction stays broken until it is closed.
            logger.warning("the database does not answer: %s", error)
            connection.close()
            in_doubt = True
            if time.monotonic() - beaten > claims.LEASE.total_seconds():
                raise LostLease(str(held)) from error
            time.sleep(RETRY)
        time.sleep(POLL)


def _store_new(held: Run | Shard) -> tuple[events.Last | None, bool]:
    # A shard is done again from its beginning, so it tells nothing before it has told all.
    if isinstance(held, Shard) and not events.is_whole(event_file(held)):
        return None, False
    batch = events.read(event_file(held), held.seq, held.offset)
    if batch.offset == held.offset:
        return None, False
    made = [event.output for event, _ in batch.events if isinstance(event, Artifact)]
    if made and artifacts.is_remote():
        with kept_alive(held):
            for output in made:
                artifacts.publish(held if isinstance(held, Run) else held.run, output)
    return events.store(held, batch), True


@contextmanager
def kept_alive(held: Run | Shard) -> Iterator[None]:
    """Heartbeats from a thread of their own, for transfers that outlast a lease."""
    over = threading.Event()

    def beat() -> None:
        try:
            while not over.wait(BEAT):
                try:
                    claims.beat(held)
                except (OperationalError, InterfaceError) as error:
                    logger.warning("the database does not answer: %s", error)
                    connection.close()
        except LostLease:
            logger.warning("%s lost its lease during a transfer", held)
        finally:
            connection.close()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _store_all(held: Run | Shard) -> events.Last | None:
    last: events.Last | None = None
    while True:
        found, stored = _store_new(held)
        last = found or last
        if not stored:
            return last


def _bury(held: Run | Shard, child: Child) -> None:
    """The child died without a last word: killed, out of memory, or it crashed in native code."""
    run = held if isinstance(held, Run) else held.run
    how = f"signal {-child.code}" if child.code and child.code < 0 else f"exit code {child.code}"
    if isinstance(held, Run) and not claims.died_in_vain(run):
        logger.warning("the child of %s died (%s); it goes on from what it saved", run, how)
        claims.release(held, f"died: {how}")
        return
    if isinstance(held, Shard) and held.n_deaths + 1 < claims.MAX_DEATHS:
        claims.write(held, n_deaths=held.n_deaths + 1)
        claims.release(held, f"died: {how}")
        return
    if shutil.disk_usage(artifacts.out_dir(run).parent).free < FULL_DISK:
        message = "The disk is full: free some space and resume the run; what was finished is kept."
        claims.finish(held, FAILED, {"message": message, "log": child.last_words()}, outcome=f"died: {how}")
        return
    message = f"The process of this run died {claims.MAX_DEATHS} times without getting further ({how})."
    hint = "Signal 9 mostly means that the machine ran out of memory: make the batch or the network smaller."
    error = {"message": message, "hint": hint, "field": None, "traceback": None, "log": child.last_words()}
    claims.finish(held, FAILED, error, outcome=f"died: {how}")


def cancelling(run: Run) -> bool:
    return asked(run)[0]


def asked(run: Run) -> tuple[bool, bool]:
    """Whether a person wants the run to stop, and whether to end with what it has."""
    fields = ("status", "cancel_requested", "finish_requested")
    found = Run.objects.filter(pk=run.pk).values_list(*fields).first()
    status, cancel, finish = found or (None, None, None)
    return status == CANCELLED or cancel is not None, finish is not None


def ask_to_finish(run: Run, wanted: bool = True) -> None:
    """Tell the child to end with what it has, or take that back before one starts.

    The file outlives the child, so that one that goes on after a kill ends as well.
    """
    file = artifacts.state_dir(run) / "state" / FINISH
    if wanted:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch()
    else:
        file.unlink(missing_ok=True)


def fetch_inputs(run: Run) -> None:
    """Bring the inputs here from a remote store, however long it takes."""
    if artifacts.is_remote():
        with kept_alive(run):
            for taken in run.inputs.select_related("artifact"):
                artifacts.local_path(taken.artifact)


def arguments(run: Run) -> list[str]:
    """The child's command line for a run: files for config and origin, folders for inputs and outputs."""
    request = write_request(
        artifacts.state_dir(run),
        run.config,
        {
            "id": run.uid,
            "run": run.pk,
            "name": run.name,
            "started": run.started.isoformat() if run.started else None,
        },
    )
    inputs = [
        f"{taken.name}={artifacts.local_path(taken.artifact)}"
        for taken in run.inputs.select_related("artifact").order_by("name", "position")
    ]
    places = ["--out", str(artifacts.out_dir(run)), "--state", str(artifacts.state_dir(run) / "state")]
    return [*request, *places, *(["--inputs", *inputs] if inputs else [])]


def event_file(held: Run | Shard) -> Path:
    """The event file of the attempt that is being read."""
    if isinstance(held, Run):
        return artifacts.state_dir(held) / f"attempt-{held.reading}.jsonl"
    return artifacts.state_dir(held.run) / "shards" / f"{held.pk}-{held.reading}.jsonl"


def log_file(run: Run) -> Path:
    return artifacts.state_dir(run) / "child.log"
