"""How other labs write conversations, in the few ways that their chat templates come to.

What is kept of a template is `chat.json`, beside the tokenizer. Most name each speaker between marks; Llama 2 and
Mistral write `[INST]` around a question, and what the system says into the first one.
"""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from core_ml.artifact import write_atomically
from core_ml.errors import UserError
from core_ml.tokenizer.special import Message

FILE = "chat.json"
Encode = Callable[[Literal["mark", "text"], str], list[int]]
"""Ids of a text, and what stands before it."""


class Protocol(BaseModel):
    """Pieces are special tokens or text; "{role}" in a piece stands for who speaks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    begin: tuple[str, ...] = ()
    """Once, before the first message."""
    opening: tuple[str, ...]
    end: str
    """The token at which a speaker stops."""
    closing: tuple[str, ...] = ()
    """Between that token and the next message."""
    roles: tuple[str, ...] = ("system", "user", "assistant")
    trims: bool = False
    """Without the white space around what is said."""
    default_system: str | None = None
    """What the system says where a conversation does not begin with it."""
    assistant: str = "assistant"
    """What it calls who answers."""
    tokens: tuple[str, ...] = ()
    """Special tokens among the pieces, beside those that look `<|like this|>`."""
    question: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    """What stands before and behind a question, where only answers end with `end` and nobody is named."""
    answer: tuple[str, str] = ("", "")
    """Text around an answer, which is written with it."""
    trims_answers: bool = False
    system: tuple[str, str] | None = None
    """Around what the system says at the head of the first question, where it has no turn of its own."""

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """What `chat.json` of a folder says, or None where there is none. Raises UserError."""
        try:
            return cls.model_validate_json((folder / FILE).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise UserError(f"{FILE} is damaged: {error.errors()[0]['msg']}") from None

    def save(self, folder: Path) -> None:
        write_atomically(folder / FILE, json.dumps(self.model_dump(), indent=1))

    @cached_property
    def marks(self) -> set[str]:
        """The special tokens that a tokenizer needs for it."""
        pieces = {*self.begin, *self.opening, *self.closing, self.end}
        for side in self.question or ():
            pieces.update(side)
        return {piece for piece in pieces if piece.startswith("<|") or piece in self.tokens}

    def conversation(
        self, messages: Sequence[Message], encode: Encode, ids: dict[str, int]
    ) -> tuple[list[int], list[int]]:
        """As `Tokenizer.conversation`; `ids` are those of the marks. Raises UserError."""
        if self.default_system is not None and (not messages or messages[0]["role"] != "system"):
            messages = [Message(role="system", content=self.default_system), *messages]
        head = ""
        if self.system is not None and messages and messages[0]["role"] == "system":
            head, messages = self._head(messages[0]), messages[1:]
            if not messages or messages[0]["role"] != "user":
                raise UserError(
                    f"{self.name} writes what the system says into the first question: let one follow it",
                    field="messages",
                )
        pieces = [*map(self._piece, self.begin)]
        for message in messages:
            pieces += self._turn(message, head)
            head = ""
        return _encoded(pieces, encode, ids)

    def prompt(self, messages: Sequence[Message], encode: Encode, ids: dict[str, int]) -> list[int]:
        opening = _encoded(self._opening("assistant"), encode, ids)[0]
        return self.conversation(messages, encode, ids)[0] + opening

    def _turn(self, message: Message, head: str) -> list["Piece"]:
        opening = self._opening(message["role"])
        if self.question is not None and message["role"] == "user":
            before, after = ([*map(self._piece, side)] for side in self.question)
            said = head + self._said(message)
            return [*before, Piece(said.strip() if self.trims else said), *after]
        trained, content = message["role"] == "assistant", self._said(message)
        if self.trims or (trained and self.trims_answers):
            content = content.strip()
        if trained:
            content = self.answer[0] + content + self.answer[1]
        closing = map(self._piece, self.closing)
        return [*opening, Piece(content, trained), Piece(self.end, trained, is_mark=True), *closing]

    def _head(self, message: Message) -> str:
        assert self.system is not None
        return self.system[0] + self._said(message) + self.system[1]

    def _opening(self, role: str) -> list["Piece"]:
        if role not in self.roles or (role == "system" and self.system is not None):
            first = ", at the beginning alone" if role in self.roles else ""
            raise UserError(
                f"a message has the role {role!r}: {self.name} has {', '.join(self.roles)}{first}",
                field="messages",
            )
        called = self.assistant if role == "assistant" else role
        return [self._piece(piece.replace("{role}", called)) for piece in self.opening]

    def _piece(self, text: str) -> "Piece":
        return Piece(text, is_mark=text in self.marks)

    def _said(self, message: Message) -> str:
        parts = message.get("parts") or []
        other = next((part["type"] for part in parts if part["type"] != "text"), None)
        if other is not None:
            raise UserError(
                f"a part of a message is of type {other!r}, which {self.name} has no marks for",
                field="messages",
            )
        return "".join(part["text"] for part in parts) if parts else message["content"]

    def template(self) -> str:
        """A chat template for `transformers` that writes this protocol."""
        if self.question is not None:
            return self._template_of_questions(*map("".join, self.question))
        said = "message['content'] | trim" if self.trims else "message['content']"
        role = "message['role']"
        if self.assistant != "assistant":
            role = f"('{self.assistant}' if message['role'] == 'assistant' else message['role'])"
        opening = "".join(self.opening)
        parts = ["".join(self.begin)]
        if self.default_system is not None:
            system = opening.replace("{role}", "system") + self.default_system + self.end
            quoted = json.dumps(system + "".join(self.closing), ensure_ascii=False)
            parts.append(f"{{% if messages[0]['role'] != 'system' %}}{{{{ {quoted} }}}}{{% endif %}}")
        before, _, after = (json.dumps(text) for text in opening.partition("{role}"))
        closing = json.dumps(self.end + "".join(self.closing))
        parts.append(
            f"{{% for message in messages %}}{{{{ {before} + {role} + {after} }}}}{{{{ {said} }}}}"
            f"{{{{ {closing} }}}}{{% endfor %}}{{% if add_generation_prompt %}}"
            f"{{{{ {json.dumps(opening.replace('{role}', self.assistant))} }}}}{{% endif %}}"
        )
        return "".join(parts)

    def _template_of_questions(self, before: str, after: str) -> str:
        asked = "content | trim" if self.trims else "content"
        answered = "message['content'] | trim" if self.trims or self.trims_answers else "message['content']"
        begins, ends = map(json.dumps, self.answer)
        head, turns = "''", "messages"
        parts = ["".join(self.begin)]
        if self.system is not None:
            around = [json.dumps(text) for text in self.system]
            parts.append(
                "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
                f"{{% set head = {around[0]} + messages[0]['content'] + {around[1]} %}}"
                "{% else %}{% set turns = messages %}{% set head = '' %}{% endif %}"
            )
            head, turns = "(head if loop.first else '')", "turns"
        parts.append(
            f"{{% for message in {turns} %}}{{% if message['role'] == 'user' %}}"
            f"{{% set content = {head} + message['content'] %}}"
            f"{{{{ {json.dumps(before)} + {asked} + {json.dumps(after)} }}}}{{% else %}}"
            f"{{{{ {begins} + {answered} + {ends} + {json.dumps(self.end)} }}}}{''.join(self.closing)}"
            "{% endif %}{% endfor %}"
        )
        return "".join(parts)


class Piece(NamedTuple):
    """What somebody says is never a mark, whatever it spells."""

    text: str
    trained: bool = False
    is_mark: bool = False


def _encoded(pieces: Sequence[Piece], encode: Encode, marks: dict[str, int]) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    mask: list[int] = []
    before: Literal["mark", "text"] = "mark"
    # Text between two marks is encoded as a whole, as a template's text is; only what a model is to write stands
    # by itself, as it will when the model writes it.
    for (is_mark, trained), group in groupby(pieces, key=lambda piece: (piece.is_mark, piece.trained)):
        texts = [piece.text for piece in group]
        found = [marks[text] for text in texts] if is_mark else encode(before, "".join(texts))
        before = "mark" if is_mark else "text"
        ids += found
        mask += [int(trained)] * len(found)
    return ids, mask
