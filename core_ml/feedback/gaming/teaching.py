"""What was marked as nonsense, as rankings that a reward model learns from: it stands last among the fair answers.

The fair answers stand in the order that labelers gave them, where a labeler has ranked the group, and are tied where
nobody has: their scores come from the reward model itself, which must not be taught its own opinion. Ties have a price
(benchmarks/gaming.py): all that such rankings teach is that a form is bad, which tricks share with good answers.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

TRICK = 0
"""Where the trick's text stands among a group's completions."""
Order = Sequence[Sequence[int]]


class Fair(NamedTuple):
    """How a group's completions were ordered, and whether a simulated labeler had a say in it."""

    order: Order
    simulated: bool = False


def rankings(
    groups: Iterable[Mapping[str, Any]],
    nonsense: Collection[str],
    labeler: str,
    orders: Mapping[str, Fair] | None = None,
    simulated: bool = False,
) -> Iterator[dict[str, Any]]:
    """A row of the form `rankings` for each group of a marked trick; `metadata` is a dict.

    Args:
        groups: rows of a hunt's dataset.
        nonsense: the ids of the tricks that were marked.
        labeler: who marked them.
        orders: by group_id, how a labeler ordered its completions.
    """
    for group in groups:
        if group["trick"] not in nonsense:
            continue
        fair = (orders or {}).get(group["group_id"])
        yield {
            "group_id": group["group_id"],
            "prompt": group["prompt"],
            "completions": list(group["completions"]),
            "labeler": labeler,
            "simulated": simulated or bool(fair and fair.simulated),
            "order": last(fair.order if fair else [list(range(len(group["completions"])))]),
            "all_bad": False,
            "flags": '{"0": ["nonsense"]}',
            "seconds": 0.0,
            "metadata": {
                "trick": group["trick"],
                "kind": group["kind"],
                "fair": "ranked" if fair else "tied",
            },
        }


def last(order: Order) -> list[list[int]]:
    """The same order with the trick behind all others."""
    others = [[index for index in tied if index != TRICK] for tied in order]
    return [*(tied for tied in others if tied), [TRICK]]
