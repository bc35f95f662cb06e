"""Joules that the machine says it spent: its GPU, or its processor where the system lets one read the counter."""

import time
from pathlib import Path

import torch

COUNTERS = Path("/sys/class/powercap")
"""Linux's; each package has a counter of microjoules that begins again at its maximum."""


class Energy:
    """Joules since the last question; nothing where no counter can be read."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device if device.type == "cuda" else None
        self._packages = (
            [] if self._gpu else [p for p in sorted(COUNTERS.glob("intel-rapl:[0-9]")) if _readable(p)]
        )
        self._then = time.monotonic()
        self._last = [_read(package) for package in self._packages]

    def since_last(self, n_tokens: int) -> dict[str, float]:
        """`joules_per_token`, of all of the machine's work meanwhile and not of this process alone."""
        seconds, self._then = time.monotonic() - self._then, time.monotonic()
        if self._gpu is not None:
            try:
                return {"joules_per_token": torch.cuda.power_draw(self._gpu) / 1000 * seconds / n_tokens}
            except Exception:  # whatever a driver without this question raises
                self._gpu = None
                return {}
        if not self._packages:
            return {}
        now = [_read(package) for package in self._packages]
        spent = sum(
            (new - old) % (_maximum(package) + 1)
            for package, new, old in zip(self._packages, now, self._last, strict=True)
        )
        self._last = now
        return {"joules_per_token": spent / 1e6 / n_tokens}


def _readable(package: Path) -> bool:
    try:
        _read(package), _maximum(package)
    except (OSError, ValueError):
        return False
    return True


def _read(package: Path) -> int:
    return int((package / "energy_uj").read_text())


def _maximum(package: Path) -> int:
    return int((package / "max_energy_range_uj").read_text())
