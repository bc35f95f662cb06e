"""What Celery executes: one task, which claims a run and supervises it, and the sweep that mends and resends."""

import logging
import mmap
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

from celery.signals import worker_process_init, worker_ready, worker_shutting_down
from django.db import close_old_connections

from core_ml import recipes
from lab.models import Run
from lab.models.run import RUNNING, STARTING
from lab.queries import served
from lab.services import arena, claims, labeling
from lab.services import tour as tours
from worker import labeler
from worker.app import WAKE_TIME, app
from worker.execution import execute
from worker.stages import help_with

logger = logging.getLogger(__name__)
SWEEP_EVERY = 2.0
# Shared with the pool's processes, which are forked from this one: set when the worker was asked to leave.
_leaving = mmap.mmap(-1, 1)


def leaving() -> bool:
    return _leaving[0] == 1


@app.task(name="worker.tasks.execute_run")
def execute_run(pk: int) -> None:
    """Take a run, if it is there to be taken, and bring it to its end. A doubled message finds nothing."""
    if leaving():
        return
    run = claims.claim_run(pk, f"{socket.gethostname()}:{os.getpid()}")
    if run is not None:
        execute(run, leaving)
        return
    run = Run.objects.filter(pk=pk, status="running", shards__isnull=False).first()
    if run is not None:
        help_with(run, leaving)


@app.task(name="worker.tasks.label_simulated")
def label_simulated(pk: int) -> None:
    """Let the simulated labeler rank what a tour waits for."""
    labeler.label(pk)


@worker_shutting_down.connect
def _leave(**_: Any) -> None:
    _leaving[0] = 1


@worker_process_init.connect
def _die_with_parent(**_: Any) -> None:
    """A pool process whose worker was killed must not go on supervising without it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


@worker_ready.connect
def _start_sweep(**_: Any) -> None:
    threading.Thread(target=_sweep_for_ever, daemon=True, name="sweep").start()


def _wake_labeler() -> None:
    tour = labeler.wanted()
    if tour is not None:
        label_simulated.apply_async(args=[tour.pk], expires=WAKE_TIME, retry=False)


def _tell_engine() -> None:
    """Let the engine know the lab's addresses and files while a run asks it for models: one that was started anew has
    none of them, and a run knows neither keys nor paths."""
    asking = [kind for kind, recipe in recipes.all_recipes().items() if recipe.asks_models]
    if Run.objects.filter(kind__in=asking, status__in=(STARTING, RUNNING)).exists():
        served.models()


def _sweep_for_ever() -> None:
    while not leaving():
        sweep()
        time.sleep(SWEEP_EVERY)


def sweep() -> None:
    """One round of what nobody is asked for. Each duty is tried whatever became of the others: the sweep is what mends
    everything else, and outlives a database or a queue that is away, or one run whose files are lost."""
    for duty in (
        close_old_connections,
        claims.sweep,
        tours.advance,
        labeling.take_scores,
        arena.take_verdicts,
        _wake_labeler,
        _tell_engine,
    ):
        try:
            duty()
        except Exception:
            logger.exception("the sweep will try again")
