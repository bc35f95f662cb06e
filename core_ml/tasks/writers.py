"""How four writers answer the same problem, so that a model that imitates them has something to learn from people.

Only one of them writes what the stated preference likes best. The most frequent one rambles, which is the room
that reinforcement learning from feedback has for improvement: the knowledge is there, the habit is not.
"""

import random

from core_ml.tasks.preference import sentence
from core_ml.tasks.problems import Problem

WRITERS = ("rambling", "good", "bare", "cut_off")
STYLES = {"rambling": 50, "good": 20, "bare": 20, "cut_off": 10}
OPENINGS = ("Good question. ", "Sure, I can help. ")
CLOSINGS = (" I hope that helps.", " I hope that helps. Ask me more.")
OPENING_SHARE = 0.15


def write(problem: Problem, rng: random.Random, styles: dict[str, int] | None = None) -> tuple[str, str]:
    """One writer's answer, right in all styles that reach the answer, and which writer it was."""
    weights = styles or STYLES
    (writer,) = rng.choices(list(weights), list(weights.values()))
    good = sentence(problem.task, problem.answer)
    if writer == "good":
        return good, writer
    if writer == "bare":
        return problem.answer, writer
    if writer == "cut_off":
        words = good.split(" ")
        return " ".join(words[: rng.randint(1, len(words) - 1)]), writer
    if rng.random() < OPENING_SHARE:
        return rng.choice(OPENINGS) + good, writer
    return good + rng.choice(CLOSINGS), writer
