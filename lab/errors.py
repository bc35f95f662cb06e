"""What services raise; pages and API turn each into the right answer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FieldError:
    field: str
    """Dotted path of the field, for example "config.lr" or "inputs.checkpoint"; empty for the whole."""
    message: str
    """The value, the reason and the mend, in one sentence."""


class Invalid(Exception):
    """What was asked for does not hold together: 422."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("; ".join(error.message for error in errors))
        self.errors = errors


class NotAllowed(Exception):
    """The account's role does not reach so far: 403."""


class Conflict(Exception):
    """The thing is not in a state in which this can be done: 409."""
