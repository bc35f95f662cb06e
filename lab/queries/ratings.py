"""Ratings out of the arena's votes: the leaderboard, who beats whom, and what more votes would tell.

A vote never changes once it is given, so what is counted from them is remembered until there is another one. The
arithmetic is `core_ml.evaluation`'s; here votes become arrays, and places in them contenders.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from django.db.models import Avg, Count, F, Max, QuerySet

from core_ml.evaluation import arena, bradley_terry
from core_ml.evaluation.bradley_terry import Comparisons
from core_ml.evaluation.judging import SCORES
from lab.models import Answer, Battle, Contender, Vote
from lab.models.arena import DONE, HUMAN, JUDGE, SIDES

Voters = Literal["people", "judges", "all"]
VOTERS = ("people", "judges", "all")
TIES: tuple[arena.Ties, ...] = ("half", "model")
State = tuple[int, int, datetime | None]
FEW = 20
"""Votes on a pair below which its share says little."""
MOST_NEEDED = 10_000
"""Votes beyond which nobody waits for a difference: it is nothing, as far as an arena can tell."""


@dataclass(frozen=True)
class Votes:
    """Counted votes as arrays, one entry a vote."""

    contenders: list[int]
    """Ids of those that were voted on; the arrays name them by their places here."""
    left: np.ndarray
    right: np.ndarray
    score: np.ndarray
    battles: np.ndarray
    styles: np.ndarray
    """(n, 2, 4): of the left and of the right, what `arena.style` counts."""

    def __len__(self) -> int:
        return len(self.score)

    def games(self, styled: bool = False, n_models: int | None = None) -> Comparisons:
        covariates = arena.style_covariates(self.styles[:, 0], self.styles[:, 1]) if styled else None
        return Comparisons(self.left, self.right, self.score, n_models or len(self.contenders), covariates)


def of(voters: Voters) -> QuerySet[Vote]:
    """The votes that count: of people, of judge models, or of both."""
    found = Vote.objects.filter(counts=True)
    return found if voters == "all" else found.filter(kind=HUMAN if voters == "people" else JUDGE)


def votes(voters: Voters) -> Votes:
    return _votes(voters, _state(voters))


def _state(voters: Voters) -> State:
    """What changes with every vote, with a battle that is removed, and with another database."""
    told = of(voters).aggregate(last=Max("pk"), n=Count("pk"), when=Max("created"))
    return told["last"] or 0, told["n"], told["when"]


@lru_cache(maxsize=6)
def _votes(voters: Voters, state: State) -> Votes:
    rows = list(
        of(voters)
        .filter(pk__lte=state[0])
        .order_by("pk")
        .values_list("battle_id", "battle__left_id", "battle__right_id", "outcome", "battle__style")
    )
    contenders = sorted({pk for row in rows for pk in row[1:3]})
    place = {pk: i for i, pk in enumerate(contenders)}
    nothing = [[0, 0, 0, 0]] * 2
    return Votes(
        contenders,
        np.array([place[row[1]] for row in rows], dtype=int),
        np.array([place[row[2]] for row in rows], dtype=int),
        np.array([SCORES[row[3]] for row in rows], dtype=float),
        np.array([row[0] for row in rows], dtype=int),
        np.array([row[4] or nothing for row in rows], dtype=float).reshape(-1, 2, 4),
    )


@dataclass(frozen=True)
class Row:
    """One contender's line of the leaderboard; its rating is None while nobody has voted on it."""

    contender: Contender
    rating: arena.Rating | None
    tokens: float | None
    """Mean tokens of its answers."""


@dataclass(frozen=True)
class Board:
    rows: list[Row]
    """Best first; those without votes last."""
    effects: list[arena.Effect]
    is_finite: bool
    anchor: Contender | None
    """None where none is chosen, or the chosen one has no votes: then the mean stands at 1,000."""
    n_votes: int
    n_battles: int
    ties: arena.Ties
    """How ties count in the ratings with style in them; style is taken out of half wins only."""
    tie_share: float | None
    """How often two equal models tie, where ties are an outcome of their own."""
    low: float
    high: float
    """Of all intervals, for a common axis."""


def leaderboard(voters: Voters = "people", ties: arena.Ties = "half") -> Board:
    """Ratings with 95 % intervals, plain and with style taken out."""
    state = _state(voters)
    known = {one.pk: one for one in Contender.objects.select_related("checkpoint__run")}
    told = _votes(voters, state)
    anchor = next((one for one in known.values() if one.is_anchor and one.pk in told.contenders), None)
    fitted = _fitted(voters, state, anchor.pk if anchor else None, ties)
    rated = dict(zip(told.contenders, fitted.ratings, strict=True)) if fitted else {}
    tokens = _mean_tokens()
    rows = [Row(one, rated.get(pk), tokens.get(pk)) for pk, one in known.items()]
    rows.sort(
        key=lambda row: (row.rating is None, -row.rating.points if row.rating else 0, row.contender.name)
    )
    ends = [end for one in rated.values() for end in _ends(one)] or [arena.ANCHOR]
    return Board(
        rows,
        fitted.effects if fitted else [],
        fitted.is_finite if fitted else False,
        anchor,
        len(told),
        len(np.unique(told.battles)),
        ties,
        fitted.tie_share if fitted else None,
        min(ends),
        max(ends),
    )


def _ends(rating: arena.Rating) -> list[float]:
    ends = (rating.low, rating.high, rating.styled_low, rating.styled_high)
    return [end for end in ends if end is not None]


@lru_cache(maxsize=12)
def _fitted(voters: Voters, state: State, anchor: int | None, ties: arena.Ties) -> arena.Leaderboard | None:
    told = _votes(voters, state)
    if not len(told):
        return None
    place = told.contenders.index(anchor) if anchor is not None else None
    return arena.leaderboard(told.games(styled=True), place, clusters=told.battles, ties=ties)


def _mean_tokens() -> dict[int, float]:
    """By contender, over all whole answers whose tokens somebody counted."""
    sums: dict[int, list[tuple[float, int]]] = {}
    for side in SIDES:
        found = Answer.objects.filter(status=DONE, side=side, n_tokens__isnull=False).order_by()
        for pk, mean, n in (
            found.values(pk_of=F(f"turn__battle__{side}"))
            .annotate(mean=Avg("n_tokens"), n=Count("pk"))
            .values_list("pk_of", "mean", "n")
        ):
            sums.setdefault(pk, []).append((mean, n))
    return {pk: sum(mean * n for mean, n in parts) / sum(n for _, n in parts) for pk, parts in sums.items()}


@dataclass(frozen=True)
class Cell:
    """How often the row beat the column, a tie as half."""

    share: float | None
    n: int
    score: float

    @property
    def shade(self) -> int | None:
        """0, the row loses, to 6, it wins; None where nobody has compared them."""
        if self.share is None:
            return None
        return sum(self.share > edge for edge in (0.35, 0.4, 0.47, 0.53, 0.6, 0.65))


def wins(board: Board, voters: Voters = "people") -> list[tuple[Contender, list[Cell | None]]]:
    """Row by row in the leaderboard's order; None on the diagonal."""
    told = votes(voters)
    table = bradley_terry.wins(told.games())
    place = {pk: i for i, pk in enumerate(told.contenders)}
    order = [row.contender for row in board.rows if row.rating and row.contender.pk in place]
    return [(one, [_cell(table, place[one.pk], place[other.pk]) for other in order]) for one in order]


def _cell(table: np.ndarray, i: int, j: int) -> Cell | None:
    if i == j:
        return None
    n = round(float(table[i, j] + table[j, i]))
    return Cell(float(table[i, j]) / n if n else None, n, float(table[i, j]))


@dataclass(frozen=True)
class Open:
    """Two neighbours of the leaderboard that its votes do not tell apart yet."""

    better: Contender
    other: Contender
    needed: int | None
    """Votes on this pair that would, if they are as far apart as they look now; None where that is out of reach."""


def undecided(board: Board, voters: Voters = "people") -> list[Open]:
    """Neighbours whose order is not sure, those that are soonest known first."""
    told = votes(voters)
    games = told.games() if len(told) else None
    place = {pk: i for i, pk in enumerate(told.contenders)}
    rated = [row.contender for row in board.rows if row.rating and row.contender.pk in place]
    found = []
    for better, other in pairwise(rated):
        assert games is not None
        needed = arena.votes_needed(games, place[better.pk], place[other.pk])
        if needed != 0:
            found.append(Open(better, other, needed if needed and needed <= MOST_NEEDED else None))
    return sorted(found, key=lambda one: (one.needed is None, one.needed or 0))


def fought() -> dict[int, int]:
    """By contender, the battles that it was drawn for."""
    told: dict[int, int] = {}
    for side in SIDES:
        for pk, n in Battle.objects.order_by().values_list(side).annotate(n=Count("pk")):
            told[pk] = told.get(pk, 0) + n
    return told


def counts() -> dict[str, int]:
    """Votes by who gave them, and those that were not blind."""
    told = dict(Vote.objects.filter(counts=True).order_by().values_list("kind").annotate(n=Count("pk")))
    return {
        "people": told.get(HUMAN, 0),
        "judges": told.get(JUDGE, 0),
        "not_blind": Vote.objects.filter(counts=False).count(),
    }


def as_json(board: Board) -> list[dict[str, Any]]:
    """The leaderboard's rows as the API tells them."""
    return [
        {
            "contender": row.contender.pk,
            "name": row.contender.name,
            "active": row.contender.is_active,
            "anchor": board.anchor is not None and row.contender.pk == board.anchor.pk,
            "tokens": row.tokens,
            "rating": {name: getattr(row.rating, name) for name in row.rating.__slots__}
            if row.rating
            else None,
        }
        for row in board.rows
    ]
