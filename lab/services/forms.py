"""The forms of datasets that people bring in: how a row is recognized, checked, and laid out in Parquet."""

import json
from collections.abc import Callable
from typing import Any

from core_ml.crawl.table import DOCUMENTS
from core_ml.tasks.rows import SCHEMAS as ROWS

Row = dict[str, Any]
SCHEMAS = {"documents": DOCUMENTS, **ROWS}
"""As the lab's own runs write them, so that whoever reads a dataset need not know where it came from."""
SHARED_ROLES = {"human": "user", "gpt": "assistant"}
"""ShareGPT's names: its rows hold `conversations` of {from, value}."""
# Of the form with the most demands first: a ranking has all that a rollout has.
TELLING: dict[str, tuple[str, ...]] = {
    "rankings": ("prompt", "completions", "order"),
    "rollouts": ("prompt", "completions"),
    "conversations": ("messages",),
    "problems": ("prompt", "answer"),
    "prompts": ("prompt",),
    "documents": ("text",),
}


def recognize(names: Any) -> str | None:
    """The form of rows with these columns, or None."""
    if "conversations" in names:
        return "conversations"
    return next((form for form, telling in TELLING.items() if all(name in names for name in telling)), None)


def expected() -> str:
    return "; ".join(f"{form} have {', '.join(names)}" for form, names in TELLING.items())


def lay_out(form: str, row: Row, number: int, source: str) -> Row:
    """A row as its form's schema wants it; what the form does not know goes into its metadata.

    Raises: ValueError with the reason in a few words.
    """
    if not isinstance(row, dict):
        raise ValueError("this is not an object")
    if form == "conversations" and "conversations" in row and "messages" not in row:
        row = _from_sharegpt(row)
    known = {name: row[name] for name in SCHEMAS[form].names if row.get(name) is not None}
    laid = _LAYOUTS[form](known, number, source)
    laid["metadata"] = _metadata(row, form)
    return laid


def _document(row: Row, number: int, source: str) -> Row:
    score = row.get("language_score")
    return {
        "id": _text(row, "id") or f"{source}:{number}",
        "url": _text(row, "url"),
        "text": _text(row, "text", needed=True),
        "language": _text(row, "language"),
        "language_score": float(score) if isinstance(score, int | float) else None,
        "date": _text(row, "date") or None,
        "source": _text(row, "source") or source,
    }


def _conversation(row: Row, number: int, source: str) -> Row:
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("'messages' must be a list of {role, content}")
    return {"messages": [_message(message) for message in messages]}


def _from_sharegpt(row: Row) -> Row:
    turns = row["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("'conversations' must be a list of {from, value}")
    messages = [
        {"role": SHARED_ROLES.get(str(turn.get("from")), turn.get("from")), "content": turn.get("value")}
        for turn in turns
    ]
    return {key: value for key, value in row.items() if key != "conversations"} | {"messages": messages}


def _message(message: Any) -> Row:
    if not isinstance(message, dict):
        raise ValueError("a message must be {role, content}")
    return {name: _text(message, name, needed=True) for name in ("role", "content")}


def _problem(row: Row, number: int, source: str) -> Row:
    return {
        "prompt": _text(row, "prompt", needed=True),
        "answer": _text(row, "answer", needed=True),
        "verifier": _text(row, "verifier") or "exact",
    }


def _prompt(row: Row, number: int, source: str) -> Row:
    return {"prompt": _text(row, "prompt", needed=True)}


def _rollout(row: Row, number: int, source: str) -> Row:
    completions = row.get("completions")
    if not isinstance(completions, list) or not completions:
        raise ValueError("'completions' must be a list of texts")
    texts = [_text({"completion": text}, "completion", needed=True) for text in completions]
    return {
        "group_id": _text(row, "group_id") or str(number),
        "prompt": _text(row, "prompt", needed=True),
        "completions": texts,
        "logprobs": _list_of(row, "logprobs", len(texts)),
        "ended": _list_of(row, "ended", len(texts)),
    }


def _ranking(row: Row, number: int, source: str) -> Row:
    rollout = _rollout(row, number, source)
    n, order = len(rollout["completions"]), row.get("order")
    if not isinstance(order, list) or not all(isinstance(tied, list) for tied in order):
        raise ValueError("'order' must be a list of lists, best first")
    places = [index for tied in order for index in tied]
    if not all(isinstance(index, int) for index in places) or sorted(places) != list(range(n)):
        raise ValueError(f"'order' must name each of the {n} completions once")
    flags = row.get("flags")
    return {
        **{name: rollout[name] for name in ("group_id", "prompt", "completions")},
        "labeler": _text(row, "labeler") or "imported",
        "simulated": bool(row.get("simulated", False)),
        "order": order,
        "all_bad": bool(row.get("all_bad", False)),
        "flags": flags if isinstance(flags, str) else json.dumps(flags or {}),
        "seconds": float(row.get("seconds") or 0),
    }


_LAYOUTS: dict[str, Callable[[Row, int, str], Row]] = {
    "documents": _document,
    "conversations": _conversation,
    "problems": _problem,
    "prompts": _prompt,
    "rollouts": _rollout,
    "rankings": _ranking,
}


def _text(row: Row, name: str, needed: bool = False) -> str:
    value = row.get(name)
    if value is None and not needed:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        value = None if needed else str(value)
    if value is None:
        raise ValueError(f"{name!r} must be a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name!r} holds half of a surrogate pair") from None
    return value


def _list_of(row: Row, name: str, n: int) -> list[Any] | None:
    value = row.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != n:
        raise ValueError(f"{name!r} must be a list as long as 'completions'")
    return value


def _metadata(row: Row, form: str) -> str:
    own = row.get("metadata")
    if isinstance(own, str):
        try:
            own = json.loads(own)
        except ValueError:
            own = {"metadata": own}
    kept = dict(own) if isinstance(own, dict) else {}
    kept |= {
        str(key): value for key, value in row.items() if key not in SCHEMAS[form].names and value is not None
    }
    return json.dumps(kept, default=str)
