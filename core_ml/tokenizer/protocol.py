"""How other labs write conversations: two protocols that their chat templates come to, and which of them one is.

A template is a program, and a stranger's is not run here. It is read as far as it can be: it must write the marks
of one of these protocols and none of the things that they do not have. What is kept of it is `chat.json`, beside
the tokenizer.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from core_ml.artifact import write_atomically
from core_ml.errors import UserError
from core_ml.tokenizer.special import Message

FILE = "chat.json"
MAX_TEMPLATE_CHARS = 100_000
Encode = Callable[[str], list[int]]


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
        pieces = (*self.begin, *self.opening, *self.closing, self.end)
        return {piece for piece in pieces if piece.startswith("<|")}

    def conversation(
        self, messages: Sequence[Message], encode: Encode, ids: dict[str, int]
    ) -> tuple[list[int], list[int]]:
        """As `Tokenizer.conversation`; `ids` are those of the marks. Raises UserError."""
        if self.default_system is not None and (not messages or messages[0]["role"] != "system"):
            messages = [Message(role="system", content=self.default_system), *messages]
        pieces = [*map(self._piece, self.begin)]
        for message in messages:
            trained = message["role"] == "assistant"
            pieces += [*self._opening(message["role"]), Piece(self._content(message), trained)]
            pieces += [Piece(self.end, trained, is_mark=True), *map(self._piece, self.closing)]
        return _encoded(pieces, encode, ids)

    def prompt(self, messages: Sequence[Message], encode: Encode, ids: dict[str, int]) -> list[int]:
        opening = _encoded(self._opening("assistant"), encode, ids)[0]
        return self.conversation(messages, encode, ids)[0] + opening

    def _opening(self, role: str) -> list["Piece"]:
        if role not in self.roles:
            raise UserError(
                f"a message has the role {role!r}: {self.name} has {', '.join(self.roles)}", field="messages"
            )
        return [self._piece(piece.replace("{role}", role)) for piece in self.opening]

    def _piece(self, text: str) -> "Piece":
        return Piece(text, is_mark=text in self.marks)

    def _content(self, message: Message) -> str:
        parts = message.get("parts") or []
        other = next((part["type"] for part in parts if part["type"] != "text"), None)
        if other is not None:
            raise UserError(
                f"a part of a message is of type {other!r}, which {self.name} has no marks for",
                field="messages",
            )
        content = "".join(part["text"] for part in parts) if parts else message["content"]
        return content.strip() if self.trims else content

    def template(self) -> str:
        """A chat template for `transformers` that writes this protocol."""
        said = "message['content'] | trim" if self.trims else "message['content']"
        opening = "".join(self.opening)
        parts = ["".join(self.begin)]
        if self.default_system is not None:
            system = opening.replace("{role}", "system") + self.default_system + self.end
            quoted = json.dumps(system + "".join(self.closing), ensure_ascii=False)
            parts.append(f"{{% if messages[0]['role'] != 'system' %}}{{{{ {quoted} }}}}{{% endif %}}")
        before, _, after = (json.dumps(text) for text in opening.partition("{role}"))
        closing = json.dumps(self.end + "".join(self.closing))
        parts.append(
            f"{{% for message in messages %}}{{{{ {before} + message['role'] + {after} }}}}{{{{ {said} }}}}"
            f"{{{{ {closing} }}}}{{% endfor %}}{{% if add_generation_prompt %}}"
            f"{{{{ {json.dumps(opening.replace('{role}', 'assistant'))} }}}}{{% endif %}}"
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
    # Text between two marks is encoded as a whole, as a template's text is; only what a model is to write stands
    # by itself, as it will when the model writes it.
    for (is_mark, trained), group in groupby(pieces, key=lambda piece: (piece.is_mark, piece.trained)):
        texts = [piece.text for piece in group]
        found = [marks[text] for text in texts] if is_mark else encode("".join(texts))
        ids += found
        mask += [int(trained)] * len(found)
    return ids, mask


CHATML = Protocol(name="ChatML", opening=("<|im_start|>", "{role}\n"), end="<|im_end|>", closing=("\n",))
LLAMA3 = Protocol(
    name="Llama 3",
    begin=("<|begin_of_text|>",),
    opening=("<|start_header_id|>", "{role}", "<|end_header_id|>", "\n\n"),
    end="<|eot_id|>",
    trims=True,
)
# What a template may do that these protocols do not have: it changes what is written with the day or a switch.
BEYOND = ("strftime_now", "date_string", "Today Date", "custom_instructions", "reasoning_mode")
_SYSTEM = re.compile(r"<\|im_start\|>system\\n([^'\"{}<]+)<\|im_end\|>")


def recognize(template: str) -> Protocol:
    """The protocol that a chat template writes. Raises UserError that tells what is in the way."""
    known = f"{CHATML.name} and {LLAMA3.name} are"
    if len(template) > MAX_TEMPLATE_CHARS:
        raise UserError("its chat template is too long to be read: import it as a base model")
    beyond = next((word for word in BEYOND if word in template), None)
    if beyond is not None:
        raise UserError(
            f"its chat template writes more than what is said ({beyond}), which cannot be mapped: "
            "import it as a base model, to be completed or fine-tuned"
        )
    if LLAMA3.marks - {"<|begin_of_text|>"} <= {mark for mark in LLAMA3.marks if mark in template}:
        return LLAMA3
    if "<|im_start|>assistant\\n" in template and CHATML.end in template:
        system = _SYSTEM.search(template)
        return CHATML.model_copy(update={"default_system": _unescaped(system[1]) if system else None})
    raise UserError(f"its chat template is of a protocol that is not covered: {known}")


def _unescaped(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\'", "'")
