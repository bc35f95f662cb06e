"""What scored highest at each step of a run of practice: a policy that is paid by a reward model searches as well."""

from collections.abc import Iterable, Sequence
from typing import Any

from core_ml.artifact import Folder
from core_ml.errors import UserError
from core_ml.feedback.gaming.trick import Trick
from core_ml.tasks import judge, solve
from core_ml.tasks.rows import read_rows

PER_STEP = 3


def tops(folders: Iterable[Folder], n: int) -> list[Trick]:
    """The highest paid answers of each step that are not known to be correct; of many steps some, evenly spread.

    Each is a trick for its own prompt. Raises: UserError for rollouts without rewards.
    """
    found: list[Trick] = []
    for folder in folders:
        by_step: dict[int, list[tuple[float, str, str]]] = {}
        for row in _rows(folder):
            for reward, text in zip(row["rewards"], row["completions"], strict=False):
                if reward is not None and not (solve(row["prompt"]) and judge(row["prompt"], text).correct):
                    by_step.setdefault(row["step"], []).append((reward, row["prompt"], text))
        found += _spread(by_step, n)
    return _distinct(found)[:n]


def _rows(folder: Folder) -> Iterable[dict[str, Any]]:
    try:
        yield from read_rows(folder, ("prompt", "completions", "step", "rewards"), input="rollouts")
    except UserError as error:
        raise UserError(
            f"{error.message}; only what a run of practice kept says what was paid", field="rollouts"
        ) from error


def _spread(by_step: dict[int, list[tuple[float, str, str]]], n: int) -> list[Trick]:
    """Rank by rank: first the highest of all steps, the latest first, then the second of them."""
    steps = sorted(by_step, reverse=True)
    stride = max(1, len(steps) // max(1, n))
    ranked = {step: sorted(set(by_step[step]), reverse=True)[:PER_STEP] for step in steps[::stride]}
    found = []
    for rank in range(PER_STEP):
        for step, answers in ranked.items():
            if rank < len(answers):
                _, prompt, text = answers[rank]
                found.append(Trick("practice", (("text", text),), prompt=prompt, source={"step": step}))
    return found


def _distinct(tricks: Sequence[Trick]) -> list[Trick]:
    """Of each text one: the same words at ten prompts are one trick."""
    return list({trick.pieces: trick for trick in reversed(tricks)}.values())[::-1]
