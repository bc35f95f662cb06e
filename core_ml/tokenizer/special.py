"""Tokens that no text can spell: the marks of the chat protocol, of thinking and of tools.

A conversation is `<|im_start|>role<|im_sep|>content<|im_end|>`, message after message. Inside a message of the
assistant what it thinks and what it asks of tools stand between marks of their own; only `Tokenizer.prompt` and
`Tokenizer.conversation` write any of them.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NotRequired, TypedDict

BOS, START, SEP, END = "<|bos|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>"
THINK, END_THINK = "<|think|>", "<|/think|>"
TOOL_CALL, END_TOOL_CALL = "<|tool_call|>", "<|/tool_call|>"
TOOL_RESULT, END_TOOL_RESULT = "<|tool_result|>", "<|/tool_result|>"
PAIRS = {
    "thinking": (THINK, END_THINK),
    "tool_call": (TOOL_CALL, END_TOOL_CALL),
    "tool_result": (TOOL_RESULT, END_TOOL_RESULT),
}
NAMED = tuple(mark for pair in PAIRS.values() for mark in pair)
SPECIALS = (BOS, START, SEP, END, *NAMED, *(f"<|reserved_{number}|>" for number in range(len(NAMED), 12)))
TOOLS_HEADING = "Tools that you may call:"
"""Above the definitions, one JSON object a line, in the system message."""
ROLES = ("system", "user", "assistant", "tool")
# Before these six had names, they were the first of twelve reserved tokens, at the same places.
FORMER_NAMES = {mark: f"<|reserved_{number}|>" for number, mark in enumerate(NAMED)}
# What large models of others write where a document begins or ends.
FOREIGN_BOS = (
    "<|begin_of_text|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<s>",
    "<bos>",
    "[CLS]",
    "</s>",
    "<eos>",
)
FOREIGN_END = ("<|eot_id|>", "<end_of_turn>", "<|im_end|>", "<|endoftext|>", "</s>", "<eos>", "[SEP]")


class Part(TypedDict):
    """A piece of a message: plain text, a thought, a call of a tool, or what the tool answered."""

    type: Literal["text", "thinking", "tool_call", "tool_result"]
    text: str


class Message(TypedDict):
    """`parts`, where there are any, stand in place of `content`."""

    role: str
    content: str
    parts: NotRequired[list[Part]]


def place(known: Mapping[str, int]) -> dict[str, int]:
    """The ids of our special tokens, by today's names, among the special tokens of a tokenizer."""
    found = {name: known[name] for name in SPECIALS if name in known}
    return found | {
        mark: known[former] for mark, former in FORMER_NAMES.items() if mark not in known and former in known
    }


def first(known: Mapping[str, int], names: Iterable[str]) -> int | None:
    return next((known[name] for name in names if name in known), None)
