"""Which of the server's files a researcher may name: those below IMPORT_ROOTS, and no others."""

from pathlib import Path
from typing import Any

from django.conf import settings

from lab.errors import FieldError, Invalid


def allowed_path(path: str, field: str = "path") -> Path:
    """The real path of something below IMPORT_ROOTS, links resolved.

    Raises: Invalid. What lies elsewhere is not even told to exist.
    """
    roots = [Path(root).resolve() for root in settings.IMPORT_ROOTS]
    try:
        real = Path(path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        real = None
    if real is None or not any(real.is_relative_to(root) for root in roots):
        shown = ", ".join(str(root) for root in roots)
        text = f"there is no such file below {shown}: move it there, or add its folder to LAB_IMPORT_ROOTS"
        raise Invalid([FieldError(field, text)])
    return real


def path_errors(config: dict[str, Any], known: dict[str, Any] | None = None) -> list[FieldError]:
    """What is wrong with the `path` of a run's config; one that a cloned run had already is passed."""
    path = config.get("path")
    if not isinstance(path, str) or not path or path == (known or {}).get("path"):
        return []
    try:
        allowed_path(path, "config.path")
    except Invalid as error:
        return error.errors
    return []
