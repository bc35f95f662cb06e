"""The machine and the four processes: what there is, and what answers."""

import os
import shutil
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import redis
from django.conf import settings
from django.db import connection

from lab.models import Run
from lab.models.run import RUNNING, STARTING
from worker.app import app

ANSWER_TIME = 1.0
REMEMBERED = 3.0
"""Seconds for which an answer about workers is kept: asking them takes a round through the queue."""


def state() -> dict[str, Any]:
    """Cores, memory and disk in bytes, and for each process "ok" or why not."""
    disk = shutil.disk_usage(settings.LAB_HOME)
    return {
        "cores": os.cpu_count(),
        "memory_bytes": memory_bytes(),
        "disk_free_bytes": disk.free,
        "disk_total_bytes": disk.total,
        "database": database(),
        "queue": queue(),
        "workers": workers(),
        "n_busy": Run.objects.filter(status__in=(STARTING, RUNNING)).count(),
        "engine": engine(),
    }


def health() -> dict[str, Any]:
    parts: dict[str, Any] = {
        "database": database(),
        "redis": queue(),
        "workers": workers(),
        "engine": engine(),
    }
    well = parts["database"] == parts["redis"] == parts["engine"]["status"] == "ok" and parts["workers"]
    return {"status": "ok" if well else "degraded", **parts, "engine": parts["engine"]["status"]}


def memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return "ok"
    except Exception as error:
        return type(error).__name__


def queue() -> str:
    try:
        client = redis_client()
        client.ping()
        client.close()
        return "ok"
    except (redis.RedisError, OSError) as error:
        return type(error).__name__


def redis_client() -> redis.Redis:
    url = settings.REDIS_URL.replace("redis+socket://", "unix://")
    return redis.Redis.from_url(url, socket_connect_timeout=ANSWER_TIME, socket_timeout=ANSWER_TIME)


def workers() -> int:
    """How many workers answer."""
    return _workers(int(time.monotonic() / REMEMBERED))


@lru_cache(maxsize=1)
def _workers(_: int) -> int:
    if queue() != "ok":
        return 0
    try:
        return len(app.control.ping(timeout=ANSWER_TIME / 2) or [])
    except Exception:
        return 0


def engine() -> dict[str, Any]:
    """{"status": "ok", …what the engine tells} or {"status": "down"}."""
    try:
        with engine_client() as client:
            answer = client.get("/health")
        return {**answer.json(), "status": "ok"} if answer.status_code == 200 else {"status": "down"}
    except (httpx.HTTPError, OSError, ValueError):
        return {"status": "down"}


def engine_client() -> httpx.Client:
    """A client of the engine, over its Unix socket or its address, with the lab's key."""
    headers = {"Authorization": f"Bearer {settings.ENGINE_KEY}"}
    if settings.ENGINE_URL.startswith("unix://"):
        transport = httpx.HTTPTransport(uds=settings.ENGINE_URL.removeprefix("unix://"))
        return httpx.Client(
            transport=transport, base_url="http://engine", headers=headers, timeout=ANSWER_TIME
        )
    return httpx.Client(base_url=settings.ENGINE_URL, headers=headers, timeout=ANSWER_TIME)


def gpu() -> str | None:
    """The name of the first GPU, told by its driver's files so that web need not load torch."""
    for path in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        for line in path.read_text().splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return None
