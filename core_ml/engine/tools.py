"""Tools in a chat with our own models: how their definitions are written, and how calls are read from the tokens.

Definitions stand in the system message, one JSON object a line. A call is what the assistant writes between
`<|tool_call|>` and `<|/tool_call|>`, {"name", "arguments"} as JSON; what the tool answers is a message of the role
tool between marks of its own. No text can spell a mark, so what a person writes is never read as a call.
"""

import json
import secrets
from collections.abc import Sequence
from typing import Any

from core_ml.engine.backend import Call, Job, Piece
from core_ml.engine.errors import bad_request
from core_ml.tokenizer import special
from core_ml.tokenizer.tokenizer import Message, Part, Tokenizer


def marks(tokenizer: Tokenizer) -> tuple[int, int] | None:
    """The ids of the tokens around a call, or None for a tokenizer that has none."""
    added = tokenizer.inner.get_added_tokens_decoder().items()
    ours = special.place({token.content: id for id, token in added if token.special})
    if special.TOOL_CALL not in ours or special.END_TOOL_CALL not in ours:
        return None
    return ours[special.TOOL_CALL], ours[special.END_TOOL_CALL]


def said(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> list[Message]:
    """A conversation of the protocol as our tokenizer writes it, the tools' definitions in its system message."""
    written = [_message(message) for message in messages]
    if not tools:
        return written
    lines = [json.dumps(tool["function"], ensure_ascii=False) for tool in tools]
    described = "\n".join([special.TOOLS_HEADING, *lines])
    if written and written[0]["role"] == "system":
        first: Message = {"role": "system", "content": f"{written[0]['content']}\n\n{described}"}
        return [first, *written[1:]]
    return [{"role": "system", "content": described}, *written]


def _message(message: dict[str, Any]) -> Message:
    role, content = message["role"], message["content"]
    if role == "tool":
        return {"role": role, "content": "", "parts": [Part(type="tool_result", text=content)]}
    if not message.get("tool_calls"):
        return {"role": role, "content": content}
    parts: list[Part] = [Part(type="text", text=content)] if content else []
    for call in message["tool_calls"]:
        parts.append(Part(type="tool_call", text=_written(call["function"])))
    return {"role": role, "content": "", "parts": parts}


def _written(function: dict[str, Any]) -> str:
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except ValueError:
        arguments = function["arguments"]
    return json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)


def begun(tokenizer: Tokenizer, job: Job) -> tuple[list[int], str | None]:
    """What the assistant is made to begin with, as ids, and the text of the call that stands in them.

    Raises: ApiError for a tokenizer that has no marks for calls.
    """
    if not job.tools or job.tool_choice in (None, "none", "auto"):
        return [], None
    found = marks(tokenizer)
    if found is None:
        raise bad_request("this model's tokenizer has no tokens for calls of tools", "tools")
    text = "" if job.tool_choice == "required" else f'{{"name": {json.dumps(job.tool_choice)}, "arguments": '
    return [found[0], *tokenizer.encode(text)], text


def schema_of_call(job: Job) -> dict[str, Any] | None:
    """What a call that must be made looks like as JSON Schema; None where none must be."""
    if not job.tools or job.tool_choice in (None, "none", "auto"):
        return None
    wanted = [tool["function"] for tool in job.tools]
    if job.tool_choice != "required":
        wanted = [function for function in wanted if function["name"] == job.tool_choice]
    shapes = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": function.get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in wanted
    ]
    return shapes[0] if len(shapes) == 1 else {"anyOf": shapes}


class CallReader:
    """Takes the pieces of a generation and gives them on with the calls read out of their text."""

    def __init__(self, tokenizer: Tokenizer, begun: str | None) -> None:
        self._marks = marks(tokenizer) or (-1, -1)
        self._begun = begun
        self._open: dict[int, str | None] = {}
        self._given: dict[int, int] = {}
        self._n_calls: dict[int, int] = {}

    def take(self, piece: Piece) -> Piece:
        """The piece without what belongs to a call, and with the calls that have ended in it."""
        choice = piece.choice
        held = self._open.get(choice, self._begun)
        start = self._given.get(choice, 0)
        self._given[choice] = start + len(piece.text)
        shown: list[str] = []
        calls: list[Call] = []
        at = 0
        for token in piece.tokens:
            if token.id not in self._marks:
                continue
            cut = min(max(token.offset - start, at), len(piece.text))
            between, at = piece.text[at:cut], cut
            if held is None:
                shown.append(between)
            else:
                self._close(choice, held + between, shown, calls)
            held = "" if token.id == self._marks[0] else None
        rest = piece.text[at:]
        if held is None:
            shown.append(rest)
        else:
            held += rest
            if piece.finish_reason is not None:  # cut off, or the model forgot to close it
                self._close(choice, held, shown, calls)
                held = None
        self._open[choice] = held
        reason = piece.finish_reason
        if reason == "stop" and self._n_calls.get(choice):
            reason = "tool_calls"
        return Piece(choice, "".join(shown), piece.tokens, reason, tuple(calls))

    def _close(self, choice: int, text: str, shown: list[str], calls: list[Call]) -> None:
        """A call where the text is one, else plain text: nothing that a model wrote is lost."""
        try:
            read = json.loads(text)
            name, arguments = read["name"], read.get("arguments", {})
        except (ValueError, KeyError, TypeError, AttributeError):
            shown.append(text)
            return
        if not isinstance(name, str):
            shown.append(text)
            return
        index = self._n_calls.get(choice, 0)
        self._n_calls[choice] = index + 1
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        calls.append(Call(index, f"call_{secrets.token_hex(12)}", name, written))
