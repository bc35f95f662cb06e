"""How the arena's ratings are written."""

from typing import Any

from django import template

register = template.Library()


@register.filter
def points(value: float | None) -> str:
    """Whole points: 1,042."""
    return "–" if value is None else f"{value:,.0f}".replace("-", "−")


@register.filter
def half(rating: Any, which: str = "") -> str:
    """Half the width of a rating's interval, or of its `styled` one."""
    low, high = (rating.styled_low, rating.styled_high) if which == "styled" else (rating.low, rating.high)
    return "–" if low is None or high is None else f"{(high - low) / 2:,.0f}"
