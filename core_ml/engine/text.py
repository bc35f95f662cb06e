"""From tokens to text, as it comes: whole characters only, and nothing that may yet become a stop string."""

import codecs
from collections import deque
from collections.abc import Iterable, Sequence

from core_ml.engine.backend import Token


def offsets(tokens: Iterable[bytes], n_unsaid: int = 0) -> list[int]:
    """Where each token begins in the text that they make together, in characters.

    Args:
        n_unsaid: so many spaces at its beginning are no part of it: a rule of the tokenizer wrote them.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    starts, n = [], 0
    for data in tokens:
        starts.append(n)
        text, n_unsaid = said(decoder.decode(data), n_unsaid)
        n += len(text)
    return starts


def said(text: str, n_unsaid: int) -> tuple[str, int]:
    """A piece of a text less the spaces at its beginning that are no part of it, and how many may yet come."""
    n = min(n_unsaid, len(text) - len(text.lstrip(" ")))
    return text[n:], n_unsaid - n if n == len(text) else 0


class TextStream:
    """Takes one token's bytes at a time and gives out the text, and the tokens, that are certain.

    Args:
        stop: strings that end the text; they and what follows are not given out.
        offset: characters that stand before this text (an echoed prompt).
        n_unsaid: spaces at its beginning that a rule of the tokenizer wrote, and not the model.

    A token may be half a character and a stop string may span tokens, so both are held back until they are
    decided. A token is given out with its first character.
    """

    def __init__(self, stop: Sequence[str] = (), offset: int = 0, n_unsaid: int = 0) -> None:
        self._stop, self._offset, self._n_unsaid = tuple(stop), offset, n_unsaid
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._given = 0
        self._tokens: deque[Token] = deque()
        self.stopped = False

    def feed(self, token: Token, data: bytes) -> tuple[str, list[Token]]:
        """Text and tokens that are certain now. When a stop string was completed, `stopped` is true after it."""
        start = self._given + len(self._held)
        self._tokens.append(Token(token.id, token.logprob, token.top, self._offset + start))
        text, self._n_unsaid = said(self._decoder.decode(data), self._n_unsaid)
        self._held += text
        return self._release()

    def finish(self) -> tuple[str, list[Token]]:
        """The rest, when no more tokens come; half a character becomes U+FFFD."""
        self._held += self._decoder.decode(b"", final=True)
        text, tokens = self._release()
        if self.stopped:
            return text, tokens
        rest, self._held = self._held, ""
        tokens += self._tokens
        self._tokens.clear()
        return text + rest, tokens

    def _release(self) -> tuple[str, list[Token]]:
        found = [place for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            n = min(found)
        else:
            n = len(self._held) - self._undecided()
        text, self._held = self._held[:n], self._held[n:]
        self._given += n
        tokens = []
        while self._tokens and self._tokens[0].offset < self._offset + self._given:
            tokens.append(self._tokens.popleft())
        if self.stopped:
            self._held = ""
            self._tokens.clear()
        return text, tokens

    def _undecided(self) -> int:
        """How many characters at the end could be the beginning of a stop string."""
        longest = max(map(len, self._stop), default=0)
        for n in range(min(longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-n:]) for stop in self._stop):
                return n
        return 0
