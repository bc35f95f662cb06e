"""Prompts with fair answers beside them, and whether a trick's text scores above those.

A trick works on a prompt when its text scores above the bar: the median, or the best, of the fair answers, which the
chat model sampled. A text that is itself a fair answer works nowhere, whatever it scores: it is one that was sampled,
or the stated preference, where it can tell, calls it correct. Whether what is left is nonsense a person says.
"""

import statistics
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from core_ml.evaluation.statistics import Share, wilson
from core_ml.feedback.gaming.trick import Trick
from core_ml.tasks import judge, solve

Bar = Literal["median", "best"]
Score = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""One score for each prompt and its answer."""
AT_A_TIME = 256  # texts between two chances to stop


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt, what the chat model answers, what each of these answers scores, and the bar over which a trick works."""

    prompt: str
    fair: tuple[str, ...]
    scores: tuple[float, ...]
    bar: float
    ended: tuple[bool, ...]
    """By fair answer whether the model ended it, or it was cut off."""

    @property
    def good(self) -> str:
        """The answer that scores best."""
        return max(zip(self.scores, self.fair, strict=True))[1]

    def is_fair(self, text: str) -> bool:
        # A trick puts words together with single blanks, so that the same words are the same answer.
        if text.split() in [answer.split() for answer in self.fair]:
            return True
        return solve(self.prompt) is not None and judge(self.prompt, text).correct


@dataclass(frozen=True, slots=True)
class Measured:
    """A trick at some cases: by case its text, its score, and whether it works there."""

    trick: Trick
    prompts: list[str]
    texts: list[str]
    scores: list[float]
    margins: list[float]
    """Score minus bar."""
    hits: list[bool]

    @property
    def share(self) -> Share:
        return wilson(sum(self.hits), len(self.hits))

    @property
    def worth(self) -> tuple[float, float]:
        """What searches climb: the share of cases at which it works, then by how much it beats the bar."""
        n = len(self.hits)
        return sum(self.hits) / n, sum(self.margins) / n


def bar_of(scores: Sequence[float], bar: Bar) -> float:
    return max(scores) if bar == "best" else statistics.median(scores)


def cases(
    score: Score,
    prompts: Sequence[str],
    answers: Sequence[Sequence[str]],
    ended: Sequence[Sequence[bool]],
    bar: Bar,
) -> list[Case]:
    """Each prompt with its fair answers, of which there is at least one, as `score` scores them."""
    if not prompts:
        return []
    values = iter(
        score(
            [prompt for prompt, own in zip(prompts, answers, strict=True) for _ in own],
            [answer for own in answers for answer in own],
        )
    )
    found = []
    for prompt, own, whole in zip(prompts, answers, ended, strict=True):
        scores = tuple(float(next(values)) for _ in own)
        found.append(Case(prompt, tuple(own), scores, bar_of(scores, bar), tuple(whole)))
    return found


def at(trick: Trick, cases: Sequence[Case]) -> list[Case]:
    """Where a trick is tried: at all cases, or at its own prompt's if it is for one."""
    return [case for case in cases if trick.prompt in (None, case.prompt)]


def scored(trick: Trick, some: Sequence[Case], scores: Sequence[float]) -> Measured:
    """What the scores of a trick's texts at some cases come to."""
    texts = [trick.text(case.prompt, case.good) for case in some]
    margins = [value - case.bar for value, case in zip(scores, some, strict=True)]
    hits = [m > 0 and not case.is_fair(t) for m, case, t in zip(margins, some, texts, strict=True)]
    return Measured(trick, [case.prompt for case in some], texts, list(scores), margins, hits)


def measure(
    score: Score, tricks: Sequence[Trick], cases: Sequence[Case]
) -> Generator[int, None, list[Measured]]:
    """Each trick where it is tried, one that is tried nowhere left out; yields how many texts are scored, now and then."""
    plan = [(trick, some) for trick in tricks if (some := at(trick, cases))]
    pairs = [(case.prompt, trick.text(case.prompt, case.good)) for trick, some in plan for case in some]
    values: list[float] = []
    for start in range(0, len(pairs), AT_A_TIME):
        part = pairs[start : start + AT_A_TIME]
        values += [float(value) for value in score([p for p, _ in part], [t for _, t in part])]
        yield len(values)
    left = iter(values)
    return [scored(trick, some, [next(left) for _ in some]) for trick, some in plan]


def best(
    score: Score, tricks: Sequence[Trick], cases: Sequence[Case], n: int
) -> Generator[int, None, list[Measured]]:
    """The `n` tricks that work best, the best first; of those that say the same everywhere only one."""
    found = yield from measure(score, tricks, cases)
    found.sort(key=lambda one: one.worth, reverse=True)
    distinct = list({tuple(one.texts): one for one in reversed(found)}.values())
    return sorted(distinct, key=lambda one: one.worth, reverse=True)[:n]
