"""How far the members of an ensemble disagree about which of two answers is better: what people are to rank first.

It is the spread of the probability that the one beats the other, not that of the two scores' difference: the latter is
largest where answers are of unlike form, about which every member may be sure (measured by benchmarks/selection.py).
"""

from collections.abc import Sequence

import numpy as np


def pair_spreads(scores: np.ndarray, texts: Sequence[str]) -> list[tuple[int, int, float]]:
    """Each pair of different answers to one prompt, with the members' spread of the probability that the first is better.

    Args:
        scores: (members, answers) in the units of the model's own loss, in which a difference d means 1 / (1 + exp(-d)).
        texts: (answers,); of equal ones the first stands for all.
    Returns: places i < j and a standard deviation, from 0 for one mind to 0.5 for half of the members against the other.
    """
    first = sorted({text: place for place, text in reversed(list(enumerate(texts)))}.values())
    found = []
    for at, i in enumerate(first):
        for j in first[at + 1 :]:
            probability = 1 / (1 + np.exp(-np.clip(scores[:, i] - scores[:, j], -30, 30)))
            found.append((i, j, float(probability.std())))
    return found
