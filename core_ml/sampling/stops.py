"""Texts that end a completion, found in the bytes of its last tokens: they may begin and end within one."""

from collections.abc import Sequence


class Stops:
    """`token_bytes` are those of each token; special tokens have none."""

    def __init__(self, texts: Sequence[str], token_bytes: Sequence[bytes]) -> None:
        self.texts = tuple(texts)
        self._sought = [text.encode() for text in texts]
        self._longest = max(map(len, self._sought))
        self._token_bytes = token_bytes

    def reached(self, ids: Sequence[int]) -> bool:
        """Whether the last tokens hold one of them; asked after each token."""
        tail = last = self._bytes(ids[-1])
        for place in range(len(ids) - 2, -1, -1):
            if len(tail) >= len(last) + self._longest - 1:
                break
            tail = self._bytes(ids[place]) + tail
        return any(sought in tail for sought in self._sought)

    def cut(self, text: str) -> str:
        """A completion's text up to the first of them."""
        return text[
            : min((place for stop in self.texts if (place := text.find(stop)) >= 0), default=len(text))
        ]

    def _bytes(self, id: int) -> bytes:
        return self._token_bytes[id] if id < len(self._token_bytes) else b""
