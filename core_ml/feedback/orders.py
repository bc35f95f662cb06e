"""Held-out groups in two orders, the labelers' and the reward model's, kept beside the model's weights.

One number, the share of pairs, says how often a reward model is right; the groups themselves say about what it is
wrong. Texts are not copied: a group's id leads to its prompt and completions. The groups that a model orders most
unlike the labelers come first, and a bounded number of them is kept.
"""

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core_ml.feedback.pairs import Group, Ranking

FILE = "held_out_orders.parquet"
MAX_GROUPS = 500  # some hundred bytes each; nobody reads on that far
MAX_COMPLETIONS = 64  # of a group that is kept
BATCH = 100  # groups that are laid out at a time
SCHEMA = pa.schema(
    [
        ("group_id", pa.string()),
        ("scores", pa.list_(pa.float64())),
        ("labelers_order", pa.list_(pa.list_(pa.int64()))),
        ("pairs", pa.int64()),
        ("agree", pa.int64()),
        ("rankings", pa.int64()),
        ("simulated", pa.int64()),
    ]
)


def as_share(score: float) -> float:
    """A score between 0 and 1: by how many to one an answer would win against the mean answer, on the model's scale."""
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, score))))


def merged(orders: Iterable[Sequence[Sequence[int]]]) -> list[list[int]]:
    """All labelers' orders of a group as one, best first; completions that stand equal share a place.

    They stand by their wins less their losses over all pairs of all labelers: Borda's count, and the order of their mean
    places, where every labeler ranks every completion. A completion that nobody placed is left out.
    """
    wins: dict[int, int] = defaultdict(int)
    for order in orders:
        for first, second in combinations(order, 2):
            for better, worse in product(first, second):
                wins[better] += 1
                wins[worse] -= 1
        for index in chain.from_iterable(order):
            wins[index] += 0
    return [
        [index for index in sorted(wins) if wins[index] == value]
        for value in sorted(set(wins.values()), reverse=True)
    ]


def compared(group: Group, scores: Sequence[float]) -> dict[str, Any]:
    """One row of SCHEMA: `agree` of `pairs` in the labelers' common order have their scores in that order."""
    order = merged(ranking.order for ranking in group.rankings)
    pairs = Ranking("", False, tuple(tuple(tie) for tie in order)).pairs()
    return {
        "group_id": group.id,
        "scores": [float(score) for score in scores],
        "labelers_order": order,
        "pairs": len(pairs),
        "agree": sum(scores[better] > scores[worse] for better, worse in pairs),
        "rankings": len(group.rankings),
        "simulated": sum(ranking.simulated for ranking in group.rankings),
    }


def _rows(groups: Sequence[Group], rewards: Sequence[Sequence[float]]) -> Iterator[dict[str, Any]]:
    for group, scores in zip(groups, rewards, strict=True):
        row = compared(group, scores) if len(scores) <= MAX_COMPLETIONS else {"pairs": 0}
        if row["pairs"]:
            yield row


def write(path: Path, groups: Sequence[Group], rewards: Sequence[Sequence[float]]) -> None:
    """Keep the groups on which a model and the labelers agree least, the worst first.

    Args:
        rewards: for each group the score of each completion.
    """
    worst = heapq.nsmallest(
        MAX_GROUPS,
        _rows(groups, rewards),
        key=lambda row: (row["agree"] / row["pairs"], -row["pairs"], row["group_id"]),
    )
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for start in range(0, len(worst), BATCH):
            writer.write_table(pa.Table.from_pylist(worst[start : start + BATCH], SCHEMA))
