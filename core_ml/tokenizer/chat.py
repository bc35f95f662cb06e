"""The lab's own chat protocol, `<|im_start|>role<|im_sep|>content<|im_end|>`, as token ids."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from core_ml.errors import UserError
from core_ml.tokenizer.special import PAIRS, ROLES, Message, Part


class Chat(NamedTuple):
    """The ids of its marks in one tokenizer, and how that encodes what stands behind one."""

    start: int
    sep: int
    end: int
    parts: dict[str, tuple[int, int]]
    """By a part's type: the marks that open and close it."""
    encode: Callable[[str], list[int]]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """As `Tokenizer.prompt`. Raises UserError."""
        return self.conversation(messages)[0] + self._opening("assistant")

    def conversation(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """As `Tokenizer.conversation`. Raises UserError."""
        ids: list[int] = []
        mask: list[int] = []
        for message in messages:
            opening = self._opening(message["role"])
            trained = int(message["role"] == "assistant")
            ids += opening
            mask += [0] * len(opening)
            for part in message.get("parts") or [Part(type="text", text=message["content"])]:
                own = self._part(part)
                ids += own
                mask += [trained * int(part["type"] != "tool_result")] * len(own)
            ids.append(self.end)
            mask.append(trained)
        return ids, mask

    def _part(self, part: Part) -> list[int]:
        text, kind = self.encode(part["text"]), part["type"]
        if kind == "text":
            return text
        if kind not in self.parts:
            raise UserError(
                f"a part of a message is of type {kind!r}: it must be text, {', '.join(PAIRS)}",
                field="messages",
            )
        opens, closes = self.parts[kind]
        return [opens, *text, closes]

    def _opening(self, role: str) -> list[int]:
        if role not in ROLES:
            raise UserError(
                f"a message has the role {role!r}: it must be one of {', '.join(ROLES)}", field="messages"
            )
        return [self.start, *self.encode(role), self.sep]
