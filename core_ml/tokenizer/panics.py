"""Panics of the libraries that read patterns: no Exception in Python, and here no reason to end a process."""

from collections.abc import Iterator
from contextlib import contextmanager

from core_ml.errors import UserError


@contextmanager
def giving_up_told(field: str | None) -> Iterator[None]:
    """Turns the panic of a library that tried too many ways to match into one sentence for people."""
    try:
        yield
    except BaseException as error:
        reraise_unless_panic(error)
        text = f"the pattern gives up on a text ({str(error)[:120]}): write a simpler one"
        raise UserError(text, field=field) from error


def reraise_unless_panic(error: BaseException) -> None:
    if type(error).__name__ != "PanicException":
        raise error
