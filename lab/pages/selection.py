"""Runs named in an address or a form."""

from collections.abc import Iterable

from lab.models import Run


def chosen(texts: Iterable[str], limit: int = 50) -> list[Run]:
    """The runs of these numbers, in their order; what is no number or no run is left out."""
    numbers = [int(text) for text in texts if text.isascii() and text.isdigit() and len(text) < 10]
    found = Run.objects.in_bulk(list(dict.fromkeys(numbers))[:limit])
    return [found[number] for number in dict.fromkeys(numbers) if number in found]
