"""How far a judge model can be trusted: its agreement with people, and its biases for a place and for length.

A judge sees each battle twice, with the sides swapped. A verdict that turns with the sides was about the place and
not about the answer, and counts as a tie. Source: Zheng et al. 2023, arXiv:2306.05685, sections 3.3, 3.4 and 4.2.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from core_ml.evaluation.statistics import Share, clustered, wilson

LEFT, RIGHT, TIE, BAD = "left", "right", "tie", "bad"
OUTCOMES = (LEFT, RIGHT, TIE, BAD)
SWAPPED = {LEFT: RIGHT, RIGHT: LEFT, TIE: TIE, BAD: BAD}
SCORES = {LEFT: 1.0, RIGHT: 0.0, TIE: 0.5, BAD: 0.5}


def settled(as_shown: str, swapped: str) -> str:
    """One verdict of two, by the sides as shown; the second was given with the sides swapped."""
    again = SWAPPED[swapped]
    return as_shown if as_shown == again else TIE


@dataclass(frozen=True, slots=True)
class Agreement:
    """Over pairs of a judge's and a person's vote on one battle."""

    with_ties: Share | None
    """A tie agrees with a tie, whether both were called good or bad."""
    decided: Share | None
    """Only where both named a winner."""


def agreement(pairs: Iterable[Sequence[tuple[str, str]]]) -> Agreement:
    """Args: for each battle its (judge's, person's) outcomes; the interval draws battles, not votes."""
    told = [[(SCORES[a], SCORES[b]) for a, b in battle] for battle in pairs]
    decided = [[float(a == b) for a, b in battle if 0.5 not in (a, b)] for battle in told]
    return Agreement(clustered([[float(a == b) for a, b in one] for one in told]), clustered(decided))


@dataclass(frozen=True, slots=True)
class PlaceBias:
    """Shares of all battles that were judged in both orders."""

    consistent: Share
    first: Share
    """Whichever answer stood first was preferred."""
    second: Share


def place_bias(verdicts: Sequence[tuple[str, str]]) -> PlaceBias | None:
    """Args: for each battle the verdict as shown and the one with the sides swapped, each by place."""
    n = len(verdicts)
    if not n:
        return None
    weights = [(SCORES[a], SCORES[b]) for a, b in verdicts]
    consistent = sum(a == 1 - b for a, b in weights)
    # A verdict that leans to a place only once (a tie in the other order) leans there all the same.
    first = sum(a + b > 1 for a, b in weights)
    return PlaceBias(wilson(consistent, n), wilson(first, n), wilson(n - consistent - first, n))


def longer_preferred(votes: Iterable[tuple[str, int, int]]) -> Share | None:
    """Of the votes that name a winner, the share that names the longer answer; like lengths are left out.

    Args: (outcome, characters on the left, characters on the right) of each vote.
    """
    decided = [
        (outcome == LEFT) == (left > right)
        for outcome, left, right in votes
        if outcome in (LEFT, RIGHT) and left != right
    ]
    return wilson(sum(decided), len(decided)) if decided else None
