"""The stated preference of the simulated labeler: correct, complete and short answers, judged from text alone.

`solve` reads a prompt as a person would and works out its answer; nothing here sees how the prompt was made.
The preference is a rule, not a network, so that a policy which fools the reward model is found out by it.
"""

import re
from dataclasses import dataclass

from core_ml.tasks.problems import NAME, WHO

SLACK = 2  # characters by which an answer may be longer than the good sentence and still be short

_SUM = re.compile(r"(?:What is (\d+) \+ (\d+)\?|Add (\d+) and (\d+)\.|(\d+) \+ (\d+) = \?)")
_COUNT = re.compile(r"(?:Please count|Count) from (\d+) to (\d+)\.")
_SPELL = re.compile(r"(?:Spell ([a-z]+)\.|How do you spell ([a-z]+)\?)")
_FACT = re.compile(r"My ([a-z]+) is called ([a-z]+)\.")
_ASKED = re.compile(r"What is my ([a-z]+) called\?")
_SENTENCE = re.compile(r"[A-Z].* .*\.")
_LETTERS = re.compile(r"\b[a-z](?: [a-z])+\b")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a prompt asks: its task, the bare answer, and words that would be wrong in an answer to it."""

    task: str
    answer: str
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """How good a completion is by the stated preference, criterion by criterion."""

    correct: bool
    complete: bool
    short: bool

    @property
    def score(self) -> int:
        """Being right outweighs the other two together, being complete outweighs being short: 0 to 7."""
        return 4 * self.correct + 2 * self.complete + self.short

    @property
    def liked(self) -> bool:
        return self.correct and self.complete and self.short


def read(prompt: str) -> Reading | None:
    """What a prompt of one of our tasks asks, from its text alone; None for any other prompt."""
    prompt = prompt.strip()
    if match := _SUM.fullmatch(prompt):
        a, b = (int(number) for number in match.groups() if number is not None)
        return Reading("add", str(a + b))
    if match := _COUNT.fullmatch(prompt):
        first, last = int(match[1]), int(match[2])
        # A prompt from outside may ask for a billion numbers; nobody would rank such an answer.
        if not first <= last <= first + 1000:
            return None
        return Reading("count", " ".join(str(number) for number in range(first, last + 1)))
    if match := _SPELL.fullmatch(prompt):
        return Reading("spell", " ".join(match[1] or match[2]))
    if prompt.endswith(WHO):
        return Reading("who", NAME)
    facts, asked = dict(_FACT.findall(prompt)), _ASKED.search(prompt)
    if asked and asked[1] in facts:
        answer = facts[asked[1]]
        return Reading("copy", answer, tuple(word for word in facts.values() if word != answer))
    return None


def solve(prompt: str) -> str | None:
    """The bare answer of a prompt, worked out from its text; None when it is none of our tasks."""
    reading = read(prompt)
    return reading.answer if reading else None


def sentence(task: str, answer: str) -> str:
    """The answer as one short whole sentence: what the preference likes best."""
    return {
        "add": f"The sum is {answer}.",
        "count": f"Counting: {answer}.",
        "spell": f"Spelled: {answer}.",
        "who": f"I am {answer}, a small model.",
        "copy": f"It is called {answer}.",
    }[task]


def judge(prompt: str, completion: str, ended: bool = True) -> Judgement:
    """The three criteria for a completion.

    Args:
        prompt: what the person asked.
        completion: the answer's text, without special tokens.
        ended: whether the model ended the answer itself; False when it was cut at the limit.
    Raises: ValueError for a prompt of no task of ours, whose right answer nothing here can tell.
    """
    reading = read(prompt)
    if reading is None:
        raise ValueError(f"no task of ours asks {prompt[:80]!r}")
    good = sentence(reading.task, reading.answer)
    return Judgement(
        correct=_says(reading, prompt, completion),
        complete=ended and _SENTENCE.fullmatch(completion) is not None,
        short=len(completion) <= len(good) + SLACK,
    )


def _says(reading: Reading, prompt: str, completion: str) -> bool:
    if reading.task == "add":
        # "12 + 5 = 17" repeats the question; any other number beside the sum is a second answer.
        a, b = re.findall(r"\d+", prompt)
        return re.findall(r"\d+", completion.replace(f"{a} + {b} = ", "")) == [reading.answer]
    if reading.task == "count":
        return re.findall(r"\d+", completion) == reading.answer.split()
    if reading.task == "spell":
        return _LETTERS.findall(completion) == [reading.answer]
    words = re.findall(r"\w+", completion)
    if reading.task == "copy":
        return reading.answer in words and not any(word in words for word in reading.wrong)
    return re.search(rf"\b{re.escape(reading.answer)}\b", completion) is not None
