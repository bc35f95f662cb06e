"""How far those agree who ranked a dataset, and how reliable each of them is, for its summary.

People and programs are kept apart: the agreement is that of the people, and each program that judged the same groups
is held against them. A set that only programs judged says so, and measures them among themselves.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from core_ml.feedback.agreement import Agreement, Judgement
from core_ml.feedback.pairs import n_pairs
from core_ml.feedback.reliability import of_groups
from core_ml.feedback.sets import stored
from core_ml.feedback.sets.ranked import Vote

Groups = Iterable[tuple[str, int, list[Vote]]]
MAX_LISTED = 200  # labelers, and pairs of them, that a summary names
MAX_JUDGES = 8  # programs that are held against the people, those with most votes
MAX_RANKINGS = 2_000_000  # beyond them nobody's reliability is fitted: its votes stand in memory


def measured(paths: Sequence[Path]) -> dict[str, Any]:
    """What a dataset's summary says of its rankings: counts, agreement, reliability, and judges against people."""
    return of(lambda: stored.votes(paths))


def of(groups: Callable[[], Groups]) -> dict[str, Any]:
    """As `measured`, of groups that can be gone through several times."""
    by: Counter[tuple[str, bool]] = Counter()
    n_groups = n_ordered = 0
    for _, _, votes in groups():
        n_groups += 1
        by.update((vote.labeler, vote.simulated) for vote in votes)
        n_ordered += sum(n_pairs(vote.order) for vote in votes)
    people = {name for name, simulated in by if not simulated}
    found: dict[str, Any] = {
        "rankings": by.total(),
        "simulated": sum(n for (_, simulated), n in by.items() if simulated),
        "groups": n_groups,
        "labelers": len(people),
        "pairs": n_ordered,
    }
    among = "people" if people else "programs"
    found["agreement"] = {"among": among} | _agreement(groups(), lambda vote: vote.simulated != bool(people))
    found["reliability"] = _reliability(groups, by, bool(people))
    judges = [name for (name, simulated), _ in by.most_common() if simulated] if people else []
    found["judges"] = [_judge(groups(), name) for name in judges[:MAX_JUDGES]]
    return {key: value for key, value in found.items() if value != []}


def _agreement(groups: Groups, counts: Callable[[Vote], bool]) -> dict[str, Any]:
    total = Agreement()
    for _, n, votes in groups:
        chosen = [vote for vote in votes if counts(vote)]
        if chosen:
            total.add(n, _judgements(chosen))
    found = total.result()
    return found | {name: found[name][:MAX_LISTED] for name in ("labelers", "between")}


def _judgements(votes: Sequence[Vote]) -> list[Judgement]:
    return [Judgement(vote.labeler, vote.order, vote.all_bad, vote.flags) for vote in votes]


def _reliability(
    groups: Callable[[], Groups], by: Counter[tuple[str, bool]], people: bool
) -> list[dict[str, Any]]:
    """Of those who are compared with somebody; nobody's where each group was judged once."""
    if by.total() > MAX_RANKINGS:
        return []

    def compared() -> Iterator[tuple[str, int, list[Vote]]]:
        for group_id, n, votes in groups():
            chosen = [vote for vote in votes if vote.simulated != people]
            if len({vote.labeler for vote in chosen}) > 1:
                yield group_id, n, chosen

    try:
        return list(islice(of_groups(compared()).as_dict(), MAX_LISTED))
    except ValueError:
        return []


def _judge(groups: Groups, name: str) -> dict[str, Any]:
    """A program's agreement with the people, each pair of a person and the program counting once."""
    total = Agreement()
    for _, n, votes in groups:
        judged = [vote for vote in votes if vote.simulated and vote.labeler == name]
        people = [vote for vote in votes if not vote.simulated]
        if judged and people:
            total.add(n, _judgements([judged[0], *people]))
    own = next((one for one in total.result()["labelers"] if one["labeler"] == name), None)
    return own or {"labeler": name, "rankings": 0, "pairs": 0}
