"""The life of one claimed run: drain what an earlier attempt told, then one child process, or stages of shards."""

import logging
from collections.abc import Callable

from core_ml import recipes
from lab.models import Run
from lab.services import claims
from lab.services.claims import LostLease
from worker.child import Child
from worker.stages import coordinate
from worker.supervisor import arguments, drained, event_file, follow, log_file

logger = logging.getLogger(__name__)


def execute(run: Run, leaving: Callable[[], bool]) -> None:
    """Bring a claimed run to an end, or give it back when the worker is leaving."""
    logger.info("%s: attempt %d", run, run.attempt)
    try:
        if not drained(run):
            return
        claims.begin_attempt(run)
        if recipes.get(run.kind).stages:
            coordinate(run, leaving)
        else:
            child = Child(run.kind, arguments(run), event_file(run), log_file(run))
            follow(run, child, leaving)
    except LostLease:
        logger.info("%s is held by somebody else now", run)
    else:
        logger.info("%s: %s", run, Run.objects.values_list("status", flat=True).get(pk=run.pk))
