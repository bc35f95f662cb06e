"""What every reader of a preference set makes of it, and how that is laid out as rows of the lab's own forms."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
Order = list[list[int]]
FIRST, TIE, SECOND = [[0], [1]], [[0, 1]], [[1], [0]]
ROLES = {"user": "User", "assistant": "Assistant", "system": "System", "tool": "Tool"}
SHARED_ROLES = {"human": "user", "prompter": "user", "gpt": "assistant"}
"""ShareGPT's and OpenAssistant's names of who speaks."""
OF_A_VOTE = ("weight", "preference", "shown", "marks", "comment", "correction", "settled", "note", "judge")
"""Metadata that one labeler's vote has, and not the group."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One labeler's order of a group, best first. `simulated` says that a program voted, not a person."""

    labeler: str
    order: Order
    simulated: bool = False
    flags: Mapping[int, Sequence[str]] = field(default_factory=dict)
    all_bad: bool = False
    seconds: float = 0.0
    metadata: Row = field(default_factory=dict)

    def fits(self, n: int) -> bool:
        """Whether the order names none but n completions, and each at most once."""
        named = [index for tied in self.order for index in tied]
        return len(set(named)) == len(named) and all(index is not None and 0 <= index < n for index in named)


@dataclass(frozen=True, slots=True)
class Ranked:
    """One prompt, its completions, and votes on them: all of them, or those of one row of the set."""

    group_id: str
    prompt: str
    completions: Sequence[str]
    votes: Sequence[Vote]
    metadata: Row = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a set: its name, and its rows with their numbers, read anew by each call."""

    name: str
    rows: Callable[[], Iterator[tuple[int, Any]]]


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that could not be read: where it stands, and why with the mend."""

    number: int
    reason: str


Read = Iterator[tuple[int, Ranked] | Bad]


def each(source: Source, read: Callable[[Row, int], Iterable[Ranked]], named: bool = False) -> Read:
    """What `read` makes of each row; a row for which it raises ValueError is told, and the others go on.

    Args:
        named: a bad row is told with its file, where there are several.
    """
    for number, row in source.rows():
        try:
            if isinstance(row, ValueError):
                raise row
            if not isinstance(row, dict):
                raise ValueError("this is not an object")
            for ranked in list(read(row, number)):
                yield number, ranked
        except (ValueError, RecursionError) as error:
            yield Bad(number, f"{source.name}: {error}" if named else str(error))


def rankings(ranked: Ranked) -> Iterator[Row]:
    """Rows of the form rankings, one for each vote."""
    for vote in ranked.votes:
        yield {
            "group_id": ranked.group_id,
            "prompt": ranked.prompt,
            "completions": list(ranked.completions),
            "labeler": vote.labeler,
            "simulated": vote.simulated,
            "order": vote.order,
            "all_bad": vote.all_bad,
            "flags": json.dumps({str(index): list(names) for index, names in vote.flags.items()}),
            "seconds": vote.seconds,
            "metadata": {**ranked.metadata, **vote.metadata},
        }


def rollouts(ranked: Ranked) -> Row:
    """A row of the form rollouts: the same group with nobody's view, to be ranked anew."""
    return {
        "group_id": ranked.group_id,
        "prompt": ranked.prompt,
        "completions": list(ranked.completions),
        "metadata": dict(ranked.metadata),
    }


def text(row: Row, name: str) -> str:
    """Raises: ValueError when the row has no such text."""
    value = row.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name!r} must be a text, and it is {shown(value)}")
    return value


def shown(value: Any) -> str:
    """A value as a message names it, however long it is."""
    return "missing" if value is None else repr(value)[:60]


def chosen(row: Row, name: str, orders: Mapping[Any, Order | None]) -> Order | None:
    """The order that a verdict stands for; None where there is no verdict. Raises: ValueError for any other."""
    value = row.get(name)
    # True is 1 for Python, and no verdict.
    if isinstance(value, bool) or not isinstance(value, str | int | float | None) or value not in orders:
        allowed = ", ".join(repr(key) for key in orders if key is not None)
        raise ValueError(f"{name!r} is {shown(value)}: a verdict is one of {allowed}")
    return orders[value]


def messages(turns: Any, name: str) -> list[dict[str, str]]:
    """A conversation as {role, content}, from that or from ShareGPT's {from, value}. Raises: ValueError."""
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"{name!r} must be a list of {{role, content}}, and it is {shown(turns)}")
    found = []
    for turn in turns:
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise ValueError(f"a message of {name!r} must have the texts role and content")
        found.append({"role": SHARED_ROLES.get(role, role), "content": content})
    return found


def conversation(turns: Sequence[Mapping[str, str]]) -> str:
    """A conversation as the text of a prompt: one user's message as it is, more of them with who speaks.

    What the messages were in full is kept beside it, in the metadata's `messages`.
    """
    if len(turns) == 1 and turns[0]["role"] == "user":
        return turns[0]["content"]
    return "\n\n".join(f"{ROLES.get(turn['role'], turn['role'])}: {turn['content']}" for turn in turns)


def fingerprint(*parts: str) -> str:
    """An id of a group made of its texts, the same wherever the group stands."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "replace")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()[:16]
