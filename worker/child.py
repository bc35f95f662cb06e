"""The child process of a run: started in a session of its own, asked to stop, and never left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from django.conf import settings

from core_ml import recipes
from core_ml.artifact import write_atomically

CANCEL_GRACE = 1.5
"""Seconds that a cancelled child has to save and leave: a person waits, and the state before is kept."""
LEAVE_GRACE = 10.0
"""Seconds that it has when the worker leaves: nobody waits, and nothing need be done again."""


class Child:
    """`python -m core_ml …` with its event file.

    Args:
        arguments: of the command, after the recipe's kind.
        log: file that takes what the process itself prints; a traceback of a crash ends up there.
        events: file that the child appends its events to.
        nice: the child yields to web and database, whose answers people wait for.
    """

    def __init__(
        self, kind: str, arguments: list[str], events: Path | None, log: Path, nice: int = 10
    ) -> None:
        command = [sys.executable, "-m", "core_ml", kind, *arguments, "--parent", str(os.getpid())]
        if events is not None:
            command += ["--events", str(events)]
        environment = os.environ | {
            "OMP_WAIT_POLICY": "PASSIVE",
            "GOMP_SPINCOUNT": "0",
            "PYTHONUNBUFFERED": "1",
            # What was measured of the machine, and kernels compiled for it, outlive both run and restart.
            "CORE_ML_CACHE": str(settings.LAB_HOME / "cache"),
            "TORCHINDUCTOR_CACHE_DIR": str(settings.LAB_HOME / "cache" / "kernels"),
        }
        environment.pop("ENGINE_KEY", None)
        if recipes.get(kind).asks_models:
            # Not in its config or on its command line, which others can read.
            environment |= {"ENGINE_URL": settings.ENGINE_URL, "ENGINE_KEY": settings.ENGINE_KEY}
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                ["nice", "-n", str(nice), *command] if nice else command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=Path(__file__).resolve().parent.parent,
                start_new_session=True,
            )
        self._log = log
        self._asked: float | None = None

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.process.poll()

    def ask_to_stop(self, grace: float) -> None:
        """SIGTERM once, SIGKILL when the grace (in seconds) has passed."""
        if self.code is not None:
            return
        if self._asked is None:
            self._asked = time.monotonic()
            self._signal(signal.SIGTERM)
        elif time.monotonic() - self._asked > grace:
            self.kill()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def last_words(self, n_lines: int = 20) -> list[str]:
        """The end of what the process itself printed."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - 16_000))
                return file.read().decode(errors="replace").splitlines()[-n_lines:]
        except OSError:
            return []


def write_request(folder: Path, config: dict[str, Any], run: dict[str, Any]) -> list[str]:
    """The arguments that tell a child its config and which run it is, through files in the run's folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(folder / "config.json", json.dumps(config))
    write_atomically(folder / "run.json", json.dumps(run))
    return ["--config", str(folder / "config.json"), "--run", str(folder / "run.json")]
