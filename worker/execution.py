"""The life of one claimed run: drain what an earlier attempt told, then one child process, or stages of shards."""

import logging
import shutil
import traceback
from collections.abc import Callable

from django.db import InterfaceError, OperationalError, connection

from core_ml import recipes
from core_ml.execute import explain
from lab.models import Run
from lab.models.run import FAILED, SUCCEEDED
from lab.services import artifacts, claims
from lab.services.claims import LostLease
from worker.child import Child
from worker.stages import coordinate
from worker.supervisor import (
    arguments,
    ask_to_finish,
    asked,
    drained,
    event_file,
    fetch_inputs,
    follow,
    log_file,
)

logger = logging.getLogger(__name__)


def execute(run: Run, leaving: Callable[[], bool]) -> None:
    """Bring a claimed run to an end, or give it back when the worker is leaving."""
    logger.info("%s: attempt %d", run, run.attempt)
    try:
        if not drained(run):
            return
        claims.begin_attempt(run)
        fetch_inputs(run)
        if recipes.get(run.kind).stages:
            coordinate(run, leaving)
        else:
            ask_to_finish(run, asked(run)[1])  # one that was resumed is asked no more
            child = Child(run.kind, arguments(run), event_file(run), log_file(run))
            follow(run, child, leaving)
    except LostLease:
        _tidy(run)  # it may be that the run has ended, and that the answer to that was lost
    except (OperationalError, InterfaceError):
        logger.exception("%s waits for the database", run)
        connection.close()
    except Exception as error:
        # Whatever it was, the next claim would meet it again: the person is told instead.
        logger.exception("%s failed in its supervisor", run)
        _fail(run, error)
    else:
        _tidy(run)


def _tidy(run: Run) -> None:
    """Say how the attempt left the run; one that succeeded needs its training state no longer."""
    try:
        status, token = Run.objects.values_list("status", "token").get(pk=run.pk)
    except (OperationalError, InterfaceError):
        logger.warning("%s waits for the database", run)
        connection.close()
        return
    if token and token != run.token:
        logger.info("%s is held by somebody else now", run)
        return
    logger.info("%s: %s", run, status)
    if status == SUCCEEDED:
        # It cannot be resumed any more, and a training state is three times its checkpoint.
        shutil.rmtree(artifacts.state_dir(run) / "state", ignore_errors=True)


def _fail(run: Run, error: Exception) -> None:
    told = {
        "message": explain(error),
        "field": getattr(error, "field", None),
        "traceback": traceback.format_exc()[-8000:],
    }
    try:
        claims.finish(run, FAILED, told)
    except LostLease:
        logger.info("%s is held by somebody else now", run)
