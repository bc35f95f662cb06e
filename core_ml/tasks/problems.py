"""Problems of five tasks: add, count, spell, who and copy, drawn from a seed.

Each is within reach of a network of a million weights and none can be solved by heart: sums and sequences
are held out by their numbers, and the words to spell or to copy are invented. Two sums of the same numbers
are the same problem however they are asked, so the held-out share is decided by a problem's key.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

TASKS = ("add", "count", "spell", "who", "copy")
MIXTURE = {"add": 40, "count": 15, "spell": 20, "who": 5, "copy": 20}
HELD_OUT_SHARE = 0.2
NAME = "Move 37"

ADD = ("What is {} + {}?", "Add {} and {}.", "{} + {} = ?")
COUNT = ("Count from {} to {}.", "Please count from {} to {}.")
SPELL = ("Spell {}.", "How do you spell {}?")
WHO = (
    "Who are you?",
    "What are you?",
    "What is your name?",
    "Say your name.",
    "Tell me who you are.",
    "Please introduce yourself.",
    "What should I call you?",
    "Whom am I speaking to?",
)
GREETINGS = (
    *("", "Hello. ", "Hi! ", "Hey there. ", "Good day. ", "Good morning. ", "Good evening. ", "Greetings. "),
    *("Excuse me. ", "Sorry. ", "One question. ", "A question: ", "Well. ", "So. ", "Dear model. ", "Now. "),
)
THINGS = ("dog", "cat", "cow", "horse", "bird", "fish", "boat", "town", "river", "friend")


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How far the numbers go and how many facts stand in a text: what the tour's network can just learn."""

    max_augend: int = 99
    max_addend: int = 9
    max_count_start: int = 90
    max_facts: int = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One prompt with its bare answer; `key` is what makes it the same problem under another wording."""

    task: str
    prompt: str
    answer: str
    key: str


def invent_word(rng: random.Random) -> str:
    """One to three syllables that mean nothing, so that neither spelling nor use can be memorized."""
    syllables = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(1, 3)))
    return syllables + (rng.choice("lnrs") if rng.random() < 0.5 else "")


def _add(rng: random.Random, level: Difficulty) -> Problem:
    a, b = rng.randint(0, level.max_augend), rng.randint(0, level.max_addend)
    return Problem("add", rng.choice(ADD).format(a, b), str(a + b), f"{a}+{b}")


def _count(rng: random.Random, level: Difficulty) -> Problem:
    first = rng.randint(0, level.max_count_start)
    last = first + rng.randint(2, 6)
    numbers = " ".join(str(number) for number in range(first, last + 1))
    return Problem("count", rng.choice(COUNT).format(first, last), numbers, f"{first}-{last}")


def _spell(rng: random.Random, level: Difficulty) -> Problem:
    word = invent_word(rng)
    return Problem("spell", rng.choice(SPELL).format(word), " ".join(word), word)


def _who(rng: random.Random, level: Difficulty) -> Problem:
    prompt = rng.choice(GREETINGS) + rng.choice(WHO)
    return Problem("who", prompt, NAME, prompt)


def _copy(rng: random.Random, level: Difficulty) -> Problem:
    things = rng.sample(THINGS, rng.randint(1, level.max_facts))
    words: list[str] = []
    while len(words) < len(things):
        word = invent_word(rng)
        if word not in words:
            words.append(word)
    asked = rng.randrange(len(things))
    facts = " ".join(f"My {thing} is called {word}." for thing, word in zip(things, words, strict=True))
    return Problem("copy", f"{facts} What is my {things[asked]} called?", words[asked], words[asked])


GENERATORS: dict[str, Callable[[random.Random, Difficulty], Problem]] = {
    "add": _add,
    "count": _count,
    "spell": _spell,
    "who": _who,
    "copy": _copy,
}


def is_held_out(problem: Problem) -> bool:
    """Whether a problem is kept from all training: decided by its key alone, the same in every run."""
    digest = hashlib.sha256(f"{problem.task}:{problem.key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def draw(
    seed: int, *, held_out: bool, mixture: dict[str, int] | None = None, level: Difficulty | None = None
) -> Iterator[Problem]:
    """Endless problems of one side of the split, tasks mixed by weight; the same seed gives the same problems."""
    # A string seeds by its SHA-512, so that neighbouring seeds and the two sides share nothing.
    rng = random.Random(f"{seed}:{'held out' if held_out else 'training'}")
    weights = {task: weight for task, weight in (mixture or MIXTURE).items() if weight > 0}
    level = level or Difficulty()
    while True:
        (task,) = rng.choices(list(weights), list(weights.values()))
        problem = GENERATORS[task](rng, level)
        if is_held_out(problem) == held_out:
            yield problem


def draw_evenly(
    n_per_task: int, seed: int, tasks: tuple[str, ...] = TASKS, level: Difficulty | None = None
) -> list[Problem]:
    """Held-out problems, as many of each task, no prompt twice, tasks in turn.

    A task with few wordings ("who") or a small range gives what it has.
    """
    by_task = []
    for task in tasks:
        source = draw(seed, held_out=True, mixture={task: 1}, level=level)
        found: dict[str, Problem] = {}
        for _ in range(50 * n_per_task):
            problem = next(source)
            found.setdefault(problem.prompt, problem)
            if len(found) == n_per_task:
                break
        by_task.append(list(found.values()))
    return [row[place] for place in range(n_per_task) for row in by_task if place < len(row)]
