"""Learning rates over a run, as shares of the peak."""

import math
from typing import Literal

Schedule = Literal["wsd", "cosine"]
FLOOR = 0.02  # the last updates still move a little


def lr_share(step: int, steps: int, schedule: Schedule, warmup: float, cooldown: float) -> float:
    """The share of the peak learning rate for update `step` (0 is the first) of `steps`.

    Args:
        schedule: "wsd" stays at the peak and falls linearly at the end; "cosine" falls from the warm-up on.
        warmup: share of the steps over which the rate rises linearly.
        cooldown: share of the steps over which "wsd" falls; "cosine" ignores it.
    Source: Hu et al. 2024, arXiv:2404.06395 (wsd); Loshchilov and Hutter 2016, arXiv:1608.03983 (cosine).
    """
    rising = (step + 1) / max(1.0, warmup * steps)
    if rising < 1:
        return rising
    if schedule == "wsd":
        return min(1.0, max(FLOOR, (steps - step) / max(1.0, cooldown * steps)))
    done = (step - warmup * steps) / max(1.0, steps - warmup * steps)
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))
