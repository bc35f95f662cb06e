"""An order of a group's answers: a list of ties, best first, that names each answer once."""

import json
from typing import Any

from lab.errors import FieldError


def wrong(n: int, order: Any) -> list[FieldError]:
    """What keeps `order` from being one of n answers: nothing, or one error."""
    places = [index for tied in order for index in tied]
    if any(not tied for tied in order) or sorted(places) != list(range(n)):
        text = f"name each of the {n} answers (0 to {n - 1}) once, best first, for example {example(n)}"
        return [FieldError("order", text)]
    return []


def example(n: int) -> str:
    return json.dumps([[index] for index in reversed(range(n))])
