"""What a token spells where tokens are no bytes in stand-ins: SentencePiece's pieces, WordPiece's, whole words.

The file's own decoder says it, asked for each token between two others: at the ends of a text most decoders drop a
space, which a token in the midst of one has. A token such as `<0x0A>` is that byte, whether or not it is a
character alone.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BESIDE = "x"
PARTS = ("normalizer", "pre_tokenizer", "decoder")


def steps_of(content: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    """The steps of a part of `tokenizer.json`, those inside of sequences one by one."""
    waiting, found = [content.get(part)], []
    while waiting:
        step = waiting.pop(0)
        if step is None:
            continue
        inner = step.get("normalizers") or step.get("pretokenizers") or step.get("decoders")
        if step.get("type") == "Sequence":
            waiting = [*(inner or []), *waiting]
        else:
            found.append(step)
    return found


def is_of_bytes(content: Mapping[str, Any]) -> bool:
    """Whether tokens are bytes in GPT-2's stand-ins. Characters of large vocabularies look like them by chance."""
    return any(step["type"] == "ByteLevel" for part in PARTS for step in steps_of(content, part))


class Spelling:
    """Bytes of tokens in the midst of a text, and how many spaces its beginning and its end lose."""

    def __init__(self, decoder: Any, content: Mapping[str, Any]) -> None:
        self._decoder = decoder
        steps = steps_of(content, "decoder")
        falls_back = any(step["type"] == "ByteFallback" for step in steps)
        self._has_bytes = falls_back or bool(content["model"].get("byte_fallback"))
        self._replaced = None if decoder is None else _replaced(steps)
        self._after = self._join([_BESIDE, _BESIDE]).removeprefix(_BESIDE)

    def _join(self, names: Sequence[str]) -> str:
        return " ".join(names) if self._decoder is None else self._decoder.decode(list(names))

    def bytes_of(self, name: str) -> bytes:
        if self._has_bytes and (byte := _BYTE.fullmatch(name)):
            return bytes([int(byte[1], 16)])
        if self._replaced is not None:
            for old, new in self._replaced:
                name = name.replace(old, new)
            return name.encode()
        text = self._join([_BESIDE, name, _BESIDE])
        if not (text.startswith(_BESIDE) and text.endswith(self._after)):
            return name.encode()  # a decoder that looks further than from one token to the next
        return text[len(_BESIDE) : len(text) - len(self._after)].encode()

    def dropped(self, tokens: Iterable[tuple[str, bytes]]) -> tuple[int, int]:
        """How many spaces a text loses at its beginning and at its end, by the first token that shows either."""
        lost = {False: 0, True: 0}
        undecided = {False, True}
        for name, data in tokens:
            for at_end in tuple(undecided):
                if data.strip() and data[-at_end] == ord(" "):
                    undecided.remove(at_end)
                    lost[at_end] = _spaces(data, at_end) - _spaces(self._join([name]).encode(), at_end)
        return max(0, lost[False]), max(0, lost[True])


def _replaced(steps: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]] | None:
    """What a decoder that only replaces letters replaces, which is done a hundred times as fast without it."""
    found, is_one = [], False
    for step in steps:
        if step["type"] == "Metaspace":
            found.append((step["replacement"], " "))
        elif step["type"] == "Replace" and "String" in step["pattern"]:
            found.append((step["pattern"]["String"], step["content"]))
        elif step["type"] == "Fuse":
            is_one = True
        elif step["type"] != "ByteFallback" and not (is_one and step["type"] == "Strip"):
            return None
    return found


def _spaces(data: bytes, at_end: bool) -> int:
    return len(data) - len(data.rstrip(b" ") if at_end else data.lstrip(b" "))


def going_on(content: Mapping[str, Any], after_mark: bool) -> tokenizers.Tokenizer | None:
    """The tokenizer for a text that goes on where another ended, or behind a special token.

    Many rules write a space before a text: some before each that follows a special token, some only before the first
    of all. None where that changes nothing.
    """
    rules = {part: content.get(part) for part in PARTS[:2]}
    changed = json.loads(json.dumps(rules))
    for part in changed:
        for step in steps_of(changed, part):
            if step["type"] == "Metaspace" and (not after_mark or step.get("prepend_scheme") == "first"):
                step["prepend_scheme"] = "never"
            elif step["type"] == "Prepend" and not after_mark:
                step["prepend"] = ""
            elif step.get("add_prefix_space") and not after_mark:
                step["add_prefix_space"] = False
    if changed == rules:
        return None
    made = tokenizers.Tokenizer.from_str(json.dumps({**content, **changed}))
    made.encode_special_tokens = True
    return made
