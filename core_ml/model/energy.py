"""Joules that training took: of every rank's GPU, or of the processors where the system lets one read the counters."""

import math
import os
import time
from pathlib import Path

import torch

from core_ml import ranks

COUNTERS = Path("/sys/class/powercap")
"""Linux's; each package has a counter of microjoules that begins again at its maximum."""


class Energy:
    """Joules since the last question, of all ranks together; nothing where one of them cannot tell its own."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device if device.type == "cuda" else None
        # Ranks on one machine share its processors, which the first of them counts for all.
        self._first_here = int(os.environ.get("LOCAL_RANK", 0)) == 0
        self._packages: list[Path] = []
        if self._gpu is None and self._first_here:
            self._packages = [p for p in sorted(COUNTERS.glob("intel-rapl:[0-9]")) if _readable(p)]
        self._then = time.monotonic()
        self._last = [_read(package) for package in self._packages]
        self._told = True

    def since_last(self, n_tokens: int) -> dict[str, float]:
        """`joules_per_token`, of all of the machines' work meanwhile and not of these processes alone.

        Args:
            n_tokens: of all ranks, which must ask at the same time.
        """
        if not self._told:
            return {}
        joules = ranks.summed(self._own())
        self._told = math.isfinite(joules)
        return {"joules_per_token": joules / n_tokens} if self._told else {}

    def _own(self) -> float:
        """This rank's part; no number where it has no counter."""
        seconds, self._then = time.monotonic() - self._then, time.monotonic()
        if self._gpu is not None:
            try:
                return torch.cuda.power_draw(self._gpu) / 1000 * seconds
            except Exception:  # whatever a driver without this question raises
                return math.nan
        if not self._first_here:
            return 0.0
        if not self._packages:
            return math.nan
        now = [_read(package) for package in self._packages]
        spent = sum(
            (new - old) % (_maximum(package) + 1)
            for package, new, old in zip(self._packages, now, self._last, strict=True)
        )
        self._last = now
        return spent / 1e6


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
