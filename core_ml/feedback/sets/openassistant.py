"""OpenAssistant's message trees: replies to one message are ranked among themselves, 0 for the best.

Each prompter's message with two ranked assistant's replies or more is a group; its prompt is the conversation down to
it. Who ranked is not part of the form: volunteers' rankings come merged in one order, and several labelers' rankings
are merged so on the way out. Equal ranks are ties.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from core_ml.feedback.orders import merged
from core_ml.feedback.sets.ranked import Order, Ranked, Row, Vote, conversation, fingerprint, shown, text

LABELER = "OpenAssistant's volunteers"
ROLES = {"prompter": "user", "assistant": "assistant"}
FLAGS = {
    "spam": "nonsense",
    "fails_task": "not answering",
    "not_appropriate": "harmful",
    "hate_speech": "harmful",
    "violence": "harmful",
}
"""Their labels by what a labeler here calls it; labels of other names are kept as they are."""
FLAGGED = 0.5
"""So many of those who gave a label at least must have said yes."""
MAX_DEPTH = 200
Path = list[Row]


def read(row: Row, number: int) -> Iterator[Ranked]:
    """`message_tree_id, prompt{message_id, text, role, rank?, labels?, replies[…]}`, nested.

    Raises: ValueError for a message without text or role, and for a tree deeper than MAX_DEPTH.
    """
    root = row.get("prompt")
    if not isinstance(root, dict):
        raise ValueError(f"'prompt' must be a message with its replies, and it is {shown(root)}")
    tree = str(row.get("message_tree_id") or root.get("message_id") or number)
    waiting: list[Path] = [[root]]
    while waiting:
        path = waiting.pop()
        replies = [
            one for one in path[-1].get("replies") or () if isinstance(one, dict) and not one.get("deleted")
        ]
        if len(path) > MAX_DEPTH:
            raise ValueError(f"tree {tree} is deeper than {MAX_DEPTH} messages: cut it")
        if _role(path[-1]) == "user":
            ranked = [one for one in replies if _role(one) == "assistant" and _rank(one) is not None]
            if len(ranked) > 1:
                yield _group(tree, path, ranked)
        # The first reply is read next, so that a tree's groups come in the order in which one reads it.
        waiting += [[*path, reply] for reply in reversed(replies)]


def _role(message: Row) -> str:
    role = message.get("role")
    if role not in ROLES:
        raise ValueError(f"'role' is {shown(role)}: it must be prompter or assistant")
    return ROLES[role]


def _rank(message: Row) -> int | None:
    rank = message.get("rank")
    return rank if isinstance(rank, int) and not isinstance(rank, bool) else None


def _group(tree: str, path: Path, replies: list[Row]) -> Ranked:
    turns = [{"role": _role(one), "content": text(one, "text")} for one in path]
    ranks = sorted({one["rank"] for one in replies})
    order = [[i for i, one in enumerate(replies) if one["rank"] == rank] for rank in ranks]
    flags = {i: found for i, one in enumerate(replies) if (found := _flags(one))}
    metadata: Row = {
        "tree": tree,
        "path": [str(one.get("message_id", "")) for one in path],
        "message_ids": [str(one.get("message_id", "")) for one in replies],
    }
    if len(turns) > 1:
        metadata["messages"] = turns
    if any(one.get("synthetic") for one in replies):
        metadata["synthetic"] = [bool(one.get("synthetic")) for one in replies]
    return Ranked(
        group_id=metadata["path"][-1] or fingerprint(tree, *(turn["content"] for turn in turns)),
        prompt=conversation(turns),
        completions=[text(one, "text") for one in replies],
        votes=[Vote(LABELER, order, flags=flags, all_bad="all bad" in _flags(path[-1]))],
        metadata=metadata,
    )


def _flags(message: Row) -> list[str]:
    labels: Any = message.get("labels")
    if not isinstance(labels, dict):
        return []
    said = {
        FLAGS.get(name) or name
        for name, label in labels.items()
        if name in KNOWN and _value(label) >= FLAGGED
    }
    return sorted(said)


KNOWN = {*FLAGS, "untrue", "nonsense", "harmful", "not answering", "cut off", "all bad"}


def _value(label: Any) -> float:
    value = label.get("value") if isinstance(label, dict) else None
    return float(value) if isinstance(value, int | float) else 0.0


def write(groups: Iterable[Ranked]) -> Iterator[Row]:
    """Trees of groups with all their votes. Groups of one tree that follow each other come back together in one.

    What was read from a tree keeps its messages' ids. Any other group is a tree by itself, also beside one of the same
    prompt: replies below one message would seem ranked against each other, and nobody has compared them.
    """
    tree: Row | None = None
    for group in groups:
        path = _path(group)
        id = path[0]["message_id"]
        if tree is None or tree["message_tree_id"] != id:
            if tree is not None:
                yield tree
            tree = {"message_tree_id": id, "tree_state": "ready_for_export", "prompt": path[0]}
        _hang(tree["prompt"], path[1:], _replies(group, path[-1]))
    if tree is not None:
        yield tree


def _path(group: Ranked) -> Path:
    """The messages down to the group's prompt, each without replies."""
    turns = group.metadata.get("messages") or [{"role": "user", "content": group.prompt}]
    ids = group.metadata.get("path") or []
    found: Path = []
    before = group.group_id
    for i, turn in enumerate(turns):
        before = fingerprint(before, str(turn.get("role")), str(turn.get("content")))
        id = ids[i] if len(ids) == len(turns) and ids[i] else before
        role = "assistant" if turn.get("role") == "assistant" else "prompter"
        found.append({"message_id": id, "text": str(turn.get("content")), "role": role, "replies": []})
    bad = [vote.all_bad for vote in group.votes]
    if any(bad):
        found[-1]["labels"] = {"all bad": {"value": sum(bad) / len(bad), "count": len(bad)}}
    return found


def _replies(group: Ranked, parent: Row) -> list[Row]:
    ids = group.metadata.get("message_ids") or []
    rank = {index: place for place, tied in enumerate(consensus(group)) for index in tied}
    replies = []
    for i, completion in enumerate(group.completions):
        id = (
            ids[i]
            if len(ids) == len(group.completions) and ids[i]
            else fingerprint(parent["message_id"], str(i), completion)
        )
        reply: Row = {
            "message_id": id,
            "parent_id": parent["message_id"],
            "text": completion,
            "role": "assistant",
            "rank": rank.get(i),
            "replies": [],
        }
        labels = _labels(group.votes, i)
        if labels:
            reply["labels"] = labels
        replies.append(reply)
    return replies


def consensus(group: Ranked) -> Order:
    """All votes on a group as one order, by wins less losses."""
    return merged(vote.order for vote in group.votes)


def _labels(votes: Sequence[Vote], index: int) -> Row:
    names = sorted({name for vote in votes for name in vote.flags.get(index, ())})
    return {
        name: {
            "value": sum(name in vote.flags.get(index, ()) for vote in votes) / len(votes),
            "count": len(votes),
        }
        for name in names
    }


def _hang(root: Row, path: Path, replies: list[Row]) -> None:
    """Put a group's replies below the path that leads to it, using the messages that are there already."""
    at = root
    for message in path:
        there = next((one for one in at["replies"] if one["message_id"] == message["message_id"]), None)
        if there is None:
            there = message | {"parent_id": at["message_id"]}
            at["replies"].append(there)
        elif "labels" in message:
            there["labels"] = message["labels"]
        at = there
    for reply in replies:
        there = next((one for one in at["replies"] if one["message_id"] == reply["message_id"]), None)
        if there is None:
            at["replies"].append(reply)
        else:
            there |= {key: reply[key] for key in ("rank", "labels") if key in reply}
