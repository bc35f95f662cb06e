"""What was measured of this machine once and is remembered, so that every later run decides alike.

A choice that is made anew each time follows the machine's load, and two runs with one seed would differ.
"""

import json
import os
import platform
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from core_ml.artifact import write_atomically

T = TypeVar("T")


def remembered(what: str, measure: Callable[[], T]) -> T:
    """The value of `what` on this machine: read from the file, or measured and written there.

    Args:
        what: everything that the value depends on besides the processor and the version of torch.
        measure: makes a value that JSON can hold.
    """
    known = recalled(what)
    return remember(what, measure()) if known is None else known


def recalled(what: str) -> T | None:  # type: ignore[type-var]
    return _read().get(_key(what))


def remember(what: str, value: T) -> T:
    try:
        write_atomically(_file(), json.dumps(_read() | {_key(what): value}, indent=1))
    except OSError:
        pass  # a home that cannot be written to: it is measured again next time
    return value


def _key(what: str) -> str:
    from torch import __version__

    return f"{_processor()} · torch {__version__} · {what}"


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = dict(reversed([line.split("\t: ", 1) for line in lines if "\t: " in line]))
        return f"{facts.get('model name', '')} family {facts.get('cpu family')} model {facts.get('model')}"
    except (OSError, ValueError):
        return platform.processor() or platform.machine()


def _file() -> Path:
    """CORE_ML_CACHE names the folder; the lab sets it to one of its own."""
    given = os.environ.get("CORE_ML_CACHE")
    try:
        folder = Path(given) if given else Path.home() / ".cache" / "core_ml"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        folder = Path(tempfile.gettempdir())
    return folder / "measured.json"


def _read() -> dict:  # type: ignore[type-arg]
    try:
        return json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
