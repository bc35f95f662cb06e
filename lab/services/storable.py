"""What a database can keep of what models, files and people wrote."""

import math
from typing import Any


def storable(value: Any) -> Any:
    """The value with nothing in it that a database refuses: NUL in text, numbers that JSON has no word for."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(storable(key)): storable(item) for key, item in value.items()}
    return [storable(item) for item in value] if isinstance(value, list | tuple) else value
