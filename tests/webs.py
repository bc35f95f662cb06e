"""A web server of its own in front of an engine, over a folder that is a lab's home."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.engines import KEY

REPOSITORY = Path(__file__).resolve().parents[1]
Manage = Callable[..., str]


@contextlib.contextmanager
def serving(home: Path, engine: str) -> Iterator[tuple[str, Manage]]:
    """The address at which a lab in `home` answers that asks the engine at this one, and the lab's commands."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    environment |= {"LAB_HOME": str(home), "LAB_PORT": str(port), "ENGINE_URL": engine, "ENGINE_KEY": KEY}

    def manage(*arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(
            command, env=environment, cwd=REPOSITORY, check=True, capture_output=True, text=True
        ).stdout.strip()

    manage("migrate", "-v0")
    command = [sys.executable, "-m", "uvicorn", "lab.asgi:application", "--port", str(port)]
    command += ["--log-level", "warning", "--timeout-graceful-shutdown", "3"]
    web = subprocess.Popen(command, env=environment, cwd=REPOSITORY)
    try:
        _wait_for(port)
        yield f"http://127.0.0.1:{port}", manage
    finally:
        web.terminate()
        web.wait(timeout=20)


def _wait_for(port: int) -> None:
    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < end, "the web server did not start"
        time.sleep(0.05)
