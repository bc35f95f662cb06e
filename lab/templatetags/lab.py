"""How figures, times and states are written, everywhere alike."""

import json
import math
from datetime import datetime, timedelta
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from core_ml import recipes
from core_ml.errors import UserError
from core_ml.recipe import Recipe
from lab.models.run import CANCELLED, FAILED, INTERRUPTED, QUEUED, RUNNING, STARTING

register = template.Library()

STONES = {
    QUEUED: "waiting",
    STARTING: "running",
    RUNNING: "running",
    INTERRUPTED: "running",
    FAILED: "failed",
    CANCELLED: "cancelled",
}
"""The stone of each status; that of a run that succeeded is plain black."""


@register.filter
def number(value: Any, digits: int = 4) -> str:
    """At most `digits` digits that matter: 5,230 · 1.118 · 6.1e-4; whole numbers are written in full."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    size = abs(value)
    if size and size < 1e-3:
        mantissa, exponent = f"{value:.{min(digits, 3) - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}".replace("-", "−", int(value < 0))
    whole = len(str(int(size)))
    decimals = max(0, digits - (whole if size >= 1 else 1))
    text = f"{value:,.{decimals}f}"
    if "." in text and (float(value).is_integer() or decimals > 2):
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", "−")


@register.filter
def short(value: Any) -> str:
    """A large count in few signs: 59.3 M, 18.4 k."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return number(value)
    for size, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            scaled = value / (1e3 if sign == "k" else size)
            return f"{number(float(scaled), 3)} {sign}"
    return number(value)


@register.filter
def bytes(value: Any) -> str:
    """A size as disks are sold: 2.2 GB."""
    if value is None or value == "":
        return "–"
    size = float(value)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit in ("B", "kB") or size >= 100 else f"{number(float(size), 2)} {unit}"


@register.filter
def duration(seconds: Any) -> str:
    """38 s, 7 min, 1 h 27 min, 3 days."""
    if seconds is None or seconds == "":
        return "–"
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    seconds = max(0.0, float(seconds))
    if 0 < seconds < 2.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    days = round(minutes / 60 / 24)
    return f"{days} day{'s' if days > 1 else ''}"


@register.filter
def took(run: Any) -> str:
    """How long a run has been at work; nothing before it started."""
    if not run.started:
        return ""
    return duration(((run.ended or timezone.now()) - run.started).total_seconds())


@register.filter
def moment(when: datetime | None) -> str:
    """today 09:12 · yesterday 17:40 · 6 days ago · 3 May 2026."""
    if when is None:
        return ""
    local, now = timezone.localtime(when), timezone.localtime()
    days = (now.date() - local.date()).days
    if days == 0:
        return f"today {local:%H:%M}"
    if days == 1:
        return f"yesterday {local:%H:%M}"
    return f"{days} days ago" if 0 < days < 30 else f"{local.day} {local:%b %Y}"


@register.filter
def ends(seconds_left: Any) -> str:
    """The clock time at which something with so many seconds left ends."""
    if not isinstance(seconds_left, int | float):
        return ""
    end = timezone.localtime() + timedelta(seconds=seconds_left)
    return f"{end:%H:%M}" if seconds_left < 20 * 3600 else f"{end.day} {end:%b %H:%M}"


@register.filter
def percent(share: Any, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"


@register.filter
def share(progress: dict[str, Any] | None) -> float | None:
    """How much of a run is done, 0 to 1; None where nobody knows the whole."""
    step, total = (progress or {}).get("step"), (progress or {}).get("total")
    return min(1.0, step / total) if total and step is not None else None


@register.filter
def place(share: Any) -> str:
    """The class of a bar that is filled so far: v57."""
    return f"v{round(100 * min(1.0, max(0.0, float(share or 0))))}"


@register.filter
def signed(value: Any, digits: int = 3) -> str:
    text = number(value, digits)
    return f"+{text}" if isinstance(value, int | float) and value > 0 else text


@register.filter
def setting(value: Any) -> str:
    """A value of a config as a person would write it."""
    if value is None:
        return "off"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(setting(item) for item in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {setting(item)}" for key, item in value.items()) or "none"
    return number(value, 6) if isinstance(value, int | float) else str(value) or "none"


@register.filter
def as_json(value: Any) -> str:
    """For reading and copying; to hand data to a script use Django's json_script."""
    return json.dumps(value, indent=1, ensure_ascii=False)


@register.filter
def get(mapping: Any, key: Any) -> Any:
    return mapping.get(key) if hasattr(mapping, "get") else None


@register.filter
def letter(index: int) -> str:
    """A, B, … Z, AA: projects carry letters where runs carry numbers."""
    text = ""
    while index > 0:
        index, rest = divmod(index - 1, 26)
        text = chr(65 + rest) + text
    return text


@register.filter
def stone(status: str) -> str:
    """The class of a run's stone."""
    return STONES.get(status, "")


@register.filter
def state(run: Any) -> str:
    """The status in words; never by the stone's colour alone."""
    if run.status == RUNNING and run.cancel_requested:
        return "stopping"
    if run.status == RUNNING and run.finish_requested:
        return "finishing"
    if run.status == INTERRUPTED:
        return "interrupted, goes on"
    return "waits" if run.is_waiting else str(run.status)


@register.filter
def recipe(kind: str) -> Recipe | None:
    """The declaration of a kind; None when this lab no longer has it."""
    try:
        return recipes.get(kind)
    except UserError:
        return None


@register.simple_tag
def sparkline(values: list[float | None], width: int = 72, height: int = 18) -> SafeString | str:
    """A curve of a few points as inline SVG, its end marked; nothing where there is no curve."""
    points = [
        (i, value) for i, value in enumerate(values or []) if value is not None and math.isfinite(value)
    ]
    if len(points) < 2:
        return ""
    low, high = min(v for _, v in points), max(v for _, v in points)
    last = max(1, len(values) - 1)

    def at(i: int, value: float) -> tuple[float, float]:
        y = (high - value) / (high - low) if high > low else 0.5
        return round(2 + i / last * (width - 4), 1), round(2 + y * (height - 4), 1)

    path = " ".join(f"{x} {y}" for x, y in (at(*point) for point in points))
    x, y = at(*points[-1])
    return format_html(
        '<svg class="spark" width="{}" height="{}" viewBox="0 0 {} {}" aria-hidden="true"><path class="ki" fill="none" stroke-width="1.25" d="M{}"/>'
        '<circle class="ki" r="1.5" cx="{}" cy="{}"/></svg>',
        width, height, width, height, path, x, y,
    )  # fmt: skip


@register.simple_tag
def interval(
    at: float | None,
    low: float | None = None,
    high: float | None = None,
    *,
    start: float = 0.0,
    end: float = 1.0,
    reference: float | None = None,
    people: bool = False,
    width: int = 160,
) -> SafeString | str:
    """A score as dot and 95 % interval on an axis from `start` to `end`; hollow the reference, white people."""
    # A template gives "" for an attribute of None, such as the score of a parent that a base model has not.
    at, low, high, reference = (None if value == "" else value for value in (at, low, high, reference))
    if at is None:
        return ""

    def x(value: float) -> float:
        return round(4 + (width - 8) * min(1.0, max(0.0, (value - start) / ((end - start) or 1))), 1)

    bar = (
        format_html('<path d="M{} 8H{}" class="ki" stroke-width="1.5"/>', x(low), x(high))
        if low is not None and high is not None
        else ""
    )
    before = (
        format_html('<circle cx="{}" cy="8" r="4" class="dot-reference"/>', x(reference))
        if reference is not None
        else ""
    )
    dot = format_html(
        '<circle cx="{}" cy="8" r="4.5" class="{}"/>', x(at), "dot-people" if people else "dot-model"
    )
    return format_html(
        '<svg class="interval" width="{}" height="16" aria-hidden="true"><path d="M4 8H{}" class="dot-track"/>{}{}{}</svg>',
        width, width - 4, bar, before, dot,
    )  # fmt: skip
