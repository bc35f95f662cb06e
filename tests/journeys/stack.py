"""A real lab for journeys: `manage.py up` in a folder and on a port of its own, spoken to over HTTP."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg

ROOT = Path(__file__).resolve().parents[2]


class Lab:
    """A running lab and a program's view of it."""

    def __init__(self, home: Path, port: int, environment: dict[str, str]) -> None:
        self.home, self.port, self.environment = home, port, environment
        self.url = f"http://127.0.0.1:{port}"
        self._up: subprocess.Popen | None = None
        self._log = home.parent / "up.log"
        self.api: httpx.Client

    def start(self) -> None:
        self._up = subprocess.Popen(
            [sys.executable, "manage.py", "up"],
            cwd=ROOT,
            env=self.environment,
            stdout=self._log.open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        until(lambda: "is ready at" in self._log.read_text(), 120, self.words)
        self.api = self.client("researcher")

    def stop(self) -> int:
        """Ctrl-C; the exit code of `up`."""
        assert self._up is not None
        self._up.send_signal(signal.SIGINT)
        try:
            return self._up.wait(60)
        finally:
            if self._up.poll() is None:
                os.killpg(self._up.pid, signal.SIGKILL)

    def words(self) -> str:
        return self._log.read_text()[-4000:]

    def manage(self, *arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        result = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def client(self, role: str) -> httpx.Client:
        token = self.manage("token", f"test-{role}", "--role", role)
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=30)

    def get(self, path: str) -> Any:
        """GET through whatever is being killed: a refused connection is tried again."""
        end = time.monotonic() + 60
        while True:
            try:
                answer = self.api.get(path)
                answer.raise_for_status()
                return answer.json()
            except httpx.HTTPError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def submit(self, kind: str, config: dict[str, Any] | None = None, **fields: Any) -> int:
        answer = self.api.post("/runs", json={"kind": kind, "config": config or {}, **fields})
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def wait(self, run: int, seconds: float = 180) -> dict[str, Any]:
        """The run once it has ended."""
        until(
            lambda: self.get(f"/runs/{run}")["status"] in ("succeeded", "failed", "cancelled"),
            seconds,
            self.words,
        )
        return self.get(f"/runs/{run}")

    def succeed(self, kind: str, config: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        ended = self.wait(self.submit(kind, config, **fields))
        assert ended["status"] == "succeeded", ended["error"]
        return ended

    def output(self, run: dict[str, Any], name: str) -> str:
        """The id of one of the artifacts that a run has made."""
        return run["outputs"][name]

    def pid(self, process: str) -> int:
        return json.loads((self.home / "processes.json").read_text())[process]

    def child(self, run: int) -> int | None:
        """The process that executes a run now."""
        listing = subprocess.run(
            ["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True
        ).stdout
        uid = self.get(f"/runs/{run}")["uid"]
        for line in listing.splitlines():
            pid, _, command = line.strip().partition(" ")
            if "-m core_ml" in command and f"/{uid}/" in command and str(self.home) in command:
                return int(pid)
        return None


@contextmanager
def lab(folder: Path, **settings: str) -> Iterator[Lab]:
    """A lab that is up; with the servers that DATABASE_URL and REDIS_URL name, each in a corner of its own."""
    home = folder / "home"
    environment = os.environ | {"LAB_HOME": str(home), "LAB_PORT": str(free_port()), **settings}
    environment.pop("LAB_URL", None)
    server = environment.pop("DATABASE_URL", None)
    name = f"move37_{secrets.token_hex(4)}"
    if server:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        environment["DATABASE_URL"] = server.rpartition("/")[0] + f"/{name}"
    running = Lab(home, int(environment["LAB_PORT"]), environment)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        if server:
            with psycopg.connect(server, autocommit=True) as connection:
                connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(
    true: Callable[[], Any], seconds: float, words: Callable[[], str] = lambda: "", every: float = 0.1
) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s in vain\n{words()}"
        time.sleep(every)
