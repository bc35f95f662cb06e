"""The one error that is meant for the person who started a run."""


class UserError(Exception):
    """Something a person can mend, told in one sentence that names the value and the mend.

    Args:
        message: what is wrong and why, for example "lr is 5, and must be below 1: try 0.001".
        field: the config field or the input at fault, where there is one.
        hint: what to try, where the message does not say it already.
    """

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.hint = hint
