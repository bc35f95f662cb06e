"""A trick: a way to answer any prompt without reading it, or one text that scored high at one prompt.

It is data, so that a later round can try it again on other prompts and a person can read what it does. Imports no torch.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Self

from core_ml.errors import UserError

KINDS = {
    "repetition": "a word or a phrase again and again",
    "truncation": "a good answer cut short, down to none at all",
    "echo": "the prompt given back",
    "stitching": "beginnings and ends of answers without a middle",
    "elsewhere": "a whole answer to another prompt",
    "search": "tokens found by a search along the score's gradient",
    "practice": "what scored high while a policy practised",
}
Piece = tuple[str, str | int]
"""("text", the text), ("prompt", 0) or ("answer", n): the first n words of a good answer, or all but the last -n."""
PIECES = {"text": str, "prompt": int, "answer": int}


@dataclass(frozen=True, slots=True)
class Trick:
    """Pieces one after the other, all of them `times` times; `prompt` is the only one that it is for, if there is one."""

    kind: str
    pieces: tuple[Piece, ...]
    times: int = 1
    prompt: str | None = None
    source: dict[str, Any] = field(default_factory=dict, compare=False)
    """Where it was seen, for example {"step": 40} of a run of practice."""

    def text(self, prompt: str, answer: str) -> str:
        """What it says to a prompt to which `answer` is a good answer."""
        said = [one for piece in self.pieces if (one := _said(piece, prompt, answer))]
        return " ".join(said * self.times)

    @property
    def id(self) -> str:
        """The same for the same trick, whichever round finds it."""
        what = [self.kind, self.pieces, self.times, self.prompt]
        return hashlib.sha256(json.dumps(what).encode("utf-8", "replace")).hexdigest()[:12]

    @property
    def title(self) -> str:
        """What it does, in words."""
        said = ", then ".join(_title(piece) for piece in self.pieces) or "nothing at all"
        return said if self.times == 1 else f"{said}, {self.times} times"

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "pieces": [list(piece) for piece in self.pieces],
            "times": self.times,
            "prompt": self.prompt,
            "source": self.source,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Raises: UserError for what `as_dict` does not make."""
        try:
            pieces = tuple((str(name), value) for name, value in fields["pieces"])
            times, prompt, source = fields["times"], fields.get("prompt"), fields.get("source") or {}
            fits = (
                fields["kind"] in KINDS
                and all(isinstance(value, PIECES[name]) for name, value in pieces)
                and isinstance(times, int)
                and 1 <= times <= 1000
                and isinstance(prompt, str | None)
                and isinstance(source, dict)
            )
        except (KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise UserError(
                f"{str(fields)[:80]!r} is no trick: choose a dataset that `hunt` made", field="hunts"
            )
        return cls(fields["kind"], pieces, times, prompt, source)


def _said(piece: Piece, prompt: str, answer: str) -> str:
    name, value = piece
    if name == "text":
        return str(value)
    if name == "prompt":
        return prompt
    return " ".join(answer.split()[: int(value)])


def _title(piece: Piece) -> str:
    name, value = piece
    if name == "text":
        return f"“{value}”"
    if name == "prompt":
        return "the prompt"
    n = int(value)
    words = f"{abs(n)} word{'s' if abs(n) != 1 else ''}"
    return f"a good answer's first {words}" if n > 0 else f"a good answer without its last {words}"


def unique(tricks: list[Trick]) -> list[Trick]:
    """Each once, in their order."""
    return list({trick.id: trick for trick in reversed(tricks)}.values())[::-1]
