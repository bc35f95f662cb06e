"""Whether a completion answers a problem: by the verifier that the problem names."""

import re
from dataclasses import dataclass

from core_ml.errors import UserError
from core_ml.tasks import judge, solve

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Right or wrong; and whether the stated preference likes it, None where it cannot judge the prompt."""

    correct: bool
    liked: bool | None = None


def check(verifier: str, prompt: str) -> None:
    """Raises UserError when a problem cannot be verified here."""
    if verifier not in ("task", "exact", "number"):
        raise UserError(
            f"no verifier is called {verifier!r}: problems name one of task, exact, number", field="problems"
        )
    if verifier == "task" and solve(prompt) is None:
        raise UserError(
            f"the verifier 'task' knows our own five tasks only, and no task of ours asks {prompt[:60]!r}: give "
            "these problems the verifier 'exact' or 'number'",
            field="problems",
        )


def verify(verifier: str, prompt: str, answer: str, completion: str, ended: bool) -> Verdict:
    """Verifiers: `task` judges our own tasks from the prompt; `number` wants the last number of the completion to
    be the answer's; `exact` wants the answer itself, spaces and case aside.
    """
    if verifier == "task":
        judgement = judge(prompt, completion, ended)
        return Verdict(judgement.correct, judgement.liked)
    if verifier == "number":
        numbers, wanted = _numbers(completion), _numbers(answer)
        return Verdict(bool(numbers and wanted) and numbers[-1] == wanted[-1])
    return Verdict(_plain(completion) == _plain(answer))


def _numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in NUMBER.findall(text)]


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
