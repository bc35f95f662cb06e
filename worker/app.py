"""The Celery application. The database row of a run is the queue; a message is only a wake-up.

So messages are acknowledged early, may be lost or doubled, carry no result, and expire.
"""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "lab.settings")

WAKE_TIME = 6
"""Seconds after which a wake-up that nobody took is sent anew."""

app = Celery("move37", set_as_current=True)
app.config_from_object(
    {
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_acks_late": False,
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": False,
        "broker_connection_timeout": 1,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "socket_connect_timeout": 2,
            "socket_timeout": 10,
            "socket_keepalive": True,
            "visibility_timeout": 3600,
        },
        "imports": ["worker.tasks"],
    }
)


@app.on_configure.connect
def _configure(sender: Celery, **_: object) -> None:
    from django.conf import settings  # read late: importing this module must not need Django's settings

    # Labs that share a Redis server take only their own wake-ups, and count only their own workers.
    sender.conf.broker_url = settings.REDIS_URL
    sender.conf.task_default_queue = f"runs-{settings.LAB_ID}"
    sender.conf.control_exchange = f"control-{settings.LAB_ID}"
