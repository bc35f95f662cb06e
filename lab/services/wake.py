"""Wake-ups: a message that says there is something to claim. Losing one costs seconds, doubling one nothing."""

import logging

from django.utils import timezone
from kombu.exceptions import OperationalError
from redis import RedisError

from lab.models import Run
from worker.app import WAKE_TIME, app

logger = logging.getLogger(__name__)


def n_unread() -> int:
    """How many wake-ups lie in the queue."""
    try:
        with app.connection_for_write() as connection:
            return connection.default_channel.client.llen(app.conf.task_default_queue)
    except (OperationalError, OSError, RedisError):
        return 0


def up(run: Run) -> bool:
    """Tell the workers that a run (or a shard of it) can be claimed. False when the queue does not answer."""
    try:
        # A wake-up that nobody had time for is stale: the sweep sends a fresh one.
        app.send_task("worker.tasks.execute_run", args=[run.pk], expires=WAKE_TIME, retry=False)
    except (OperationalError, OSError, RedisError) as error:
        logger.warning("run %s waits for the queue to answer: %s", run.pk, error)
        return False
    Run.objects.filter(pk=run.pk).update(sent=timezone.now())
    return True
