"""The plot of a project's agreement as its rankings came in, drawn as SVG so that it may be swapped every few seconds."""

import math
from typing import Any

WIDTH, HEIGHT = 360, 176
LEFT, RIGHT, TOP, FLOOR = 40, 352, 12, 148


def drawn(parts: list[dict[str, Any]], overall: float | None) -> dict[str, Any] | None:
    """Dots with their intervals over the number of groups compared, and what they come to; None where there are too few."""
    if not parts or overall is None:
        return None
    low = math.floor(10 * min(overall, *(part["low"] for part in parts))) / 10
    high = max(low + 0.1, math.ceil(10 * max(overall, *(part["high"] for part in parts))) / 10)
    last = parts[-1]["last"]

    def x(groups: float) -> str:
        return f"{LEFT + (RIGHT - LEFT) * groups / last:.1f}"

    def y(share: float) -> str:
        return f"{FLOOR - (FLOOR - TOP) * (share - low) / (high - low):.1f}"

    dots = [
        {
            "x": x((part["first"] - 1 + part["last"]) / 2),
            "y": y(part["value"]),
            "low": y(part["low"]),
            "high": y(part["high"]),
            "part": part,
        }
        for part in parts
    ]
    stride = max(1, round((high - low) / 0.3))
    levels = [low + 0.1 * i for i in range(0, round((high - low) / 0.1) + 1, stride)]
    return {
        "dots": dots,
        "line": "M" + " ".join(f"{dot['x']} {dot['y']}" for dot in dots),
        "overall": y(overall),
        "levels": [(y(level), f"{100 * level:.0f} %") for level in levels],
        "ticks": [(x(n), n) for n in (0, last // 2, last)],
        "finding": _finding(parts, overall),
        "width": WIDTH,
        "height": HEIGHT,
    }


def _finding(parts: list[dict[str, Any]], overall: float) -> str:
    apart = [part for part in parts if part["apart"]]
    n = parts[0]["last"] - parts[0]["first"] + 1
    if not apart:
        # That nothing is seen is no proof of steadiness: few groups would hide a large change.
        half = sum(part["high"] - part["low"] for part in parts) / (2 * len(parts))
        hidden = max(1, round(100 * half))
        return f"No {n:,} groups in a row stand apart from the whole; {hidden} points up or down would hardly show."
    worst = max(apart, key=lambda part: abs(part["value"] - overall))
    where = f"groups {worst['first']:,} to {worst['last']:,}"
    side = "below" if worst["value"] < overall else "above"
    if len(apart) == 1:
        # One of twenty intervals leaves out what it should hold.
        return f"G{where[1:]} stand {side} the whole ({100 * worst['value']:.0f} %); one such part may be chance."
    return f"{len(apart)} of {len(parts)} parts stand apart from the whole, {where} farthest ({100 * worst['value']:.0f} %)."
