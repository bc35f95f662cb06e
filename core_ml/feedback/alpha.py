"""Krippendorff's alpha: agreement of any number of labelers beyond chance, with missing values.

All that alpha needs of the data is their coincidence matrix: o[c, k] counts the pairs of values c and k that two
labelers gave one unit, each unit weighing as much as it has values. These matrices add up over units, so alpha of a
million units, or of a bootstrap draw of them, takes the memory of one small matrix.

Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability"; 2018, "Content Analysis", chapter 12.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Level = Literal["nominal", "ordinal"]


def alpha(ratings: np.ndarray, level: Level, values: Sequence[float] | None = None) -> float | None:
    """Alpha of whole data: 1 for full agreement, 0 for chance, below 0 for less than chance.

    Args:
        ratings: (labelers, units) float; NaN where a labeler said nothing.
        level: nominal values are alike or not; ordinal ones lie farther apart the more lies between them.
        values: all values there can be, rising; those that were given, unless said.
    Returns: None where nothing can be compared or only one value was ever given: chance is undefined then.
    """
    known = np.unique(ratings[~np.isnan(ratings)]) if values is None else np.asarray(values, dtype=float)
    if not len(known):
        return None
    found = float(of_coincidences(coincidences(counts(ratings, known)), level))
    return None if np.isnan(found) else found


def counts(ratings: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(units, V): how many labelers gave each unit each of the V values.

    Raises: ValueError for a rating that is not among the values.
    """
    found = (ratings[:, :, None] == values).sum(axis=0)
    if found.sum() != (~np.isnan(ratings)).sum():
        raise ValueError(f"a rating is not one of the values {values.tolist()}")
    return found


def coincidences(counts: np.ndarray) -> np.ndarray:
    """(V, V) coincidences of units whose values were counted; a unit with fewer than two values adds nothing.

    Args:
        counts: (units, V) int.
    """
    given = counts.sum(axis=1)
    counts = counts[given >= 2].astype(float)
    weighted = counts / (given[given >= 2, None] - 1)
    # A value is paired with all of its unit but itself.
    return weighted.T @ counts - np.diag(weighted.sum(axis=0))


def of_coincidences(observed: np.ndarray, level: Level, part: np.ndarray | None = None) -> np.ndarray:
    """Alpha of many coincidence matrices at once; NaN where chance is undefined.

    Args:
        observed: (..., V, V).
        part: (..., V, V) some of the coincidences, such as those of one labeler: its observed disagreement is then
            held against the disagreement by chance of all.
    """
    totals = observed.sum(axis=-1)
    n = totals.sum(axis=-1)
    distances = _distances(totals, level)
    chosen = observed if part is None else part
    with np.errstate(divide="ignore", invalid="ignore"):
        disagreement = (chosen * distances).sum(axis=(-2, -1)) / chosen.sum(axis=(-2, -1))
        by_chance = np.einsum("...c,...k,...ck->...", totals, totals, distances) / (n * (n - 1))
        return np.where(by_chance > 0, 1 - disagreement / by_chance, np.nan)


def _distances(totals: np.ndarray, level: Level) -> np.ndarray:
    """(..., V, V) squared differences of the values; totals (..., V) say how often each was given."""
    if level == "nominal":
        return 1 - np.eye(totals.shape[-1])
    # Krippendorff sums what lies between two values and half of their own: the difference of their mid-ranks.
    middle = totals.cumsum(axis=-1) - totals / 2
    return (middle[..., :, None] - middle[..., None, :]) ** 2
