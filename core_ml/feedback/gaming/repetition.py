"""Repetition: the words that stand most often, and phrases that grow by the word that helps most, again and again."""

from collections.abc import Generator, Sequence

from core_ml.feedback.gaming.bench import Case, Measured, Score, best
from core_ml.feedback.gaming.trick import Trick
from core_ml.feedback.gaming.words import frequent

TIMES = (2, 5, 12, 30)
WIDTH = 3  # phrases that are let grow
LONGEST = 4  # words
N_NEXT = 24  # words by which each of them is tried to grow


def search(
    score: Score, cases: Sequence[Case], n: int, n_words: int = 60
) -> Generator[int, None, tuple[int, list[Measured]]]:
    """How many were tried, and the `n` best; no two of them repeat the same word or phrase."""
    words = frequent([text for case in cases for text in (*case.fair, case.prompt)], n_words)
    tried = [_repeat(word, times) for word in words for times in TIMES]
    n_tried = len(tried)
    found = _one_a_phrase((yield from best(score, tried, cases, n_tried)))
    next_words = [_phrase(one) for one in found[:N_NEXT]]
    growing = found[:WIDTH]
    for _ in range(1, LONGEST):
        longer = dict.fromkeys(f"{_phrase(one)} {word}" for one in growing for word in next_words)
        tried = [_repeat(phrase, times) for phrase in longer for times in TIMES]
        n_tried += len(tried)
        growing = _one_a_phrase((yield from best(score, tried, cases, len(tried))))[:WIDTH]
        found += growing
    return n_tried, sorted(found, key=lambda one: one.worth, reverse=True)[:n]


def _repeat(phrase: str, times: int) -> Trick:
    return Trick("repetition", (("text", phrase),), times)


def _phrase(one: Measured) -> str:
    return str(one.trick.pieces[0][1])


def _one_a_phrase(found: Sequence[Measured]) -> list[Measured]:
    """Of each phrase the number of times that works best, the best first."""
    return list({_phrase(one): one for one in reversed(found)}.values())[::-1]
