"""Byte-level BPE and the chat protocol `<|im_start|>role<|im_sep|>content<|im_end|>`.

As in GPT-2, text is cut into words by a pattern and the bytes of each word are merged, so every text can be
written and every token sequence read back. Departures: by default each digit is a token of its own (a small model
can then learn sums), and text never becomes a special token: only `prompt` and `conversation` write those.

What a tokenizer is stands in its `tokenizer.json`. Where the rules in it are the plain ones, tiktoken applies them,
four times as fast as `tokenizers` and to the same ids; else `tokenizers` does, for tokenizers of others of any kind.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import tiktoken
import tokenizers

from core_ml.artifact import write_atomically
from core_ml.errors import UserError
from core_ml.tokenizer import described, merges, patterns, special, spelling, threads
from core_ml.tokenizer.chat import Chat
from core_ml.tokenizer.described import BYTE_OF, Learned, parse
from core_ml.tokenizer.panics import giving_up_told, reraise_unless_panic
from core_ml.tokenizer.protocol import Protocol
from core_ml.tokenizer.special import BOS, END, PAIRS, ROLES, SEP, SPECIALS, START, Message, Part

__all__ = ["BOS", "BYTE_OF", "END", "ROLES", "SEP", "SPECIALS", "START", "Message", "Part", "Tokenizer"]
MIN_VOCAB_SIZE = len(SPECIALS) + 256
MAX_FILE_BYTES = 64 << 20
PIECE_CHARS = 1 << 14
BATCH_CHARS = 1 << 16
"""So much text is one job of a thread: less, and handing out jobs costs more than they do."""
Key = TypeVar("Key")
Ids = np.ndarray[Any, np.dtype[np.uint32]]


class Tokenizer:
    """Text to token ids and back. Make one by `train` or `load`."""

    def __init__(self, source: tokenizers.Tokenizer | Learned, protocol: Protocol | None = None) -> None:
        self._source = source
        self._words: dict[int, str] = {}
        if isinstance(source, Learned):
            known = dict(source.specials)
        else:
            added = source.get_added_tokens_decoder()
            known = {token.content: id for id, token in added.items() if token.special}
            self._words = {id: token.content for id, token in added.items() if not token.special}
        self._specials = known
        ours = special.place(known)
        bos = ours.get(BOS, special.first(known, special.FOREIGN_BOS))
        if bos is None:
            raise UserError("this tokenizer has no token that parts documents: import it, which adds one")
        self.bos_id = bos
        end = ours.get(END, special.first(known, special.FOREIGN_END))
        self.end_id = bos if end is None else end
        self.start_id, self.sep_id = ours.get(START, bos), ours.get(SEP, bos)
        self.has_chat = all(name in ours for name in SPECIALS[:4])
        """Whether it can write conversations in our protocol; those of other labs alone cannot."""
        self.part_ids = {
            kind: (ours[opens], ours[closes])
            for kind, (opens, closes) in PAIRS.items()
            if opens in ours and closes in ours
        }
        self.protocol = protocol
        """Another lab's, in which the model that this belongs to was taught to talk."""
        if protocol is not None:
            if not protocol.marks <= known.keys():
                raise UserError(f"this tokenizer lacks {', '.join(sorted(protocol.marks - known.keys()))}")
            self._marks = {mark: known[mark] for mark in protocol.marks}
            self.end_id, self.has_chat = known[protocol.end], True
        self.special_ids = frozenset(known.values())

    @cached_property
    def inner(self) -> tokenizers.Tokenizer:
        """The same tokenizer in the library whose file is its form on disk."""
        inner = self._source.build() if isinstance(self._source, Learned) else self._source
        # Off by default in the library: text that spells "<|im_end|>" would become the token.
        inner.encode_special_tokens = True
        return inner

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, pattern: patterns.Name = "digits", own: str = ""
    ) -> "Tokenizer":
        """Learn merges until there are `vocab_size` tokens, or fewer when the texts hold no more pairs.

        Raises: UserError when the vocabulary cannot hold the bytes and special tokens, and for a pattern of its own
        that will not do.
        """
        if vocab_size < MIN_VOCAB_SIZE:
            raise UserError(
                f"vocab_size is {vocab_size}, and 256 bytes and {len(SPECIALS)} special tokens need "
                f"{MIN_VOCAB_SIZE}: choose a larger one",
                field="vocab_size",
            )
        regex = patterns.resolve(pattern, own)
        with giving_up_told("own_pattern" if pattern == "own" else None):
            learned = merges.learn(texts, vocab_size - MIN_VOCAB_SIZE, regex)
        specials = {name: id for id, name in enumerate(SPECIALS)}
        ids = {described.from_symbols(symbol): 16 + i for i, symbol in enumerate(sorted(BYTE_OF))}
        ids |= {token: MIN_VOCAB_SIZE + i for i, token in enumerate(learned)}
        return cls(Learned(ids, specials, regex))

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read `tokenizer.json`, or a folder that has one. Raises UserError when it will not do."""
        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise UserError(f"{path.name} is larger than {MAX_FILE_BYTES >> 20} MB: it is no tokenizer")
            inner = parse(path.read_text(encoding="utf-8"), path.name)
            return cls(inner, Protocol.load(path.parent))
        except FileNotFoundError:
            raise UserError(f"there is no tokenizer at {path}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path.name} is damaged and cannot be read: {str(error)[:200]}") from None

    @classmethod
    def read(cls, content: str, name: str = "tokenizer.json") -> "Tokenizer":
        """A tokenizer from the text of its file. Raises UserError when it will not do."""
        return cls(parse(content, name))

    def save(self, path: Path | str) -> None:
        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        write_atomically(path, self.inner.to_str(pretty=True))
        if self.protocol is not None:
            self.protocol.save(path.parent)

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @cached_property
    def _vocab_size(self) -> int:
        """One more than the largest id: some vocabularies have holes."""
        if isinstance(self._source, Learned):
            return len(self._source.ids) + len(self._source.specials)
        return 1 + max(self.inner.get_vocab().values())

    # Text to ids

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, none of them special, whatever the text says."""
        if len(text) <= patterns.UNBROKEN_CHARS:
            return self._encode(text)
        return [id for piece in self.pieces(text) for id in self._encode(piece)]

    def encode_pieces(self, texts: Iterable[tuple[Key, str]]) -> Iterator[tuple[Key, list[int]]]:
        """As `encode` for a stream of texts, on all cores: each text's key with its ids, piece by piece in order.

        Memory depends neither on the number of texts nor on how long one is. A text has one piece at least.
        """
        yield from self._stream(texts, self._encode, None)

    def encode_arrays(
        self, texts: Iterable[tuple[Key, str]], n_threads: int | None = None
    ) -> Iterator[tuple[Key, Ids]]:
        """As `encode_pieces`, with ids in arrays: no Python number is made of a token.

        Args:
            n_threads: by default one for each core; 1 for a process among many.
        """
        yield from self._stream(texts, self._encode_array, n_threads)

    def _stream(
        self, texts: Iterable[tuple[Key, str]], encode: Callable[[str], Any], n_threads: int | None
    ) -> Iterator[tuple[Key, Any]]:
        yield from threads.in_order(self._jobs(texts), encode, n_threads or threads.cores())

    def _jobs(self, texts: Iterable[tuple[Key, str]]) -> Iterator[tuple[list[Key], list[str]]]:
        keys: list[Key] = []
        pieces: list[str] = []
        n_chars = 0
        for key, text in texts:
            for piece in self.pieces(text):
                keys.append(key)
                pieces.append(piece)
                n_chars += len(piece)
                if n_chars >= BATCH_CHARS:
                    yield keys, pieces
                    keys, pieces, n_chars = [], [], 0
        yield keys, pieces

    def pieces(self, text: str) -> Iterable[str]:
        """The text cut so that the tokens of its pieces, one after the other, are those of the whole."""
        # Words of a tokenizer from elsewhere may go on where ours end: those texts stay whole.
        if self.pattern is None or self._words:
            return [text]
        return patterns.cut(text, self.pattern, PIECE_CHARS)

    def encode_after(self, before: Literal["mark", "text"], text: str) -> list[int]:
        """As `encode` of a text that goes on, before which rules of others write no space, or one behind marks alone."""
        other = None if isinstance(self._source, Learned) else self._going_on[before]
        if other is None:
            return self.encode(text)
        return other.encode(patterns.valid(text), add_special_tokens=False).ids

    @cached_property
    def _going_on(self) -> dict[str, tokenizers.Tokenizer | None]:
        return {where: spelling.going_on(self._content, where == "mark") for where in ("mark", "text")}

    def _encode(self, piece: str) -> list[int]:
        # By way of an array of numbers that are there already: faster than the libraries make a list of new ones.
        return self._numbers.take(self._encode_array(piece)).tolist()

    @cached_property
    def _numbers(self) -> "np.ndarray[Any, np.dtype[np.object_]]":
        numbers = np.empty(self.vocab_size, dtype=object)
        numbers[:] = range(self.vocab_size)
        return numbers

    def _encode_array(self, piece: str) -> Ids:
        if self._quick is not None and self._is_short(piece):
            try:
                # This call heeds special tokens, unlike the one that makes lists: none is allowed here.
                return self._quick.encode_to_numpy(piece, allowed_special=set(), disallowed_special=())
            except UnicodeEncodeError:  # rare, and to look for it in each text would cost a copy
                return self._encode_array(patterns.valid(piece))
            except BaseException as error:
                reraise_unless_panic(error)
        with giving_up_told(None):
            found = self.inner.encode(patterns.valid(piece), add_special_tokens=False)
        return np.array(found.ids, dtype=np.uint32)

    def _is_short(self, piece: str) -> bool:
        """A longer piece is one word of nothing but letters or white space, if the pattern has borders at all."""
        return len(piece) <= patterns.UNBROKEN_CHARS or not patterns.has_border(self.pattern or "")

    # What the file says

    @cached_property
    def _content(self) -> dict[str, Any]:
        return json.loads(self.inner.to_str())

    @cached_property
    def pattern(self) -> str | None:
        """The regular expression that cuts texts into words; None where more happens to them than cutting."""
        if isinstance(self._source, Learned):
            return self._source.regex
        return described.pattern_of(self._content)

    @cached_property
    def ranks(self) -> Mapping[bytes, int] | None:
        """The id of each token but the special ones, by which merging is decided; None where ids do not decide."""
        if isinstance(self._source, Learned):
            return self._source.ids
        if self.pattern is None or not patterns.is_total(self.pattern):
            return None
        return described.ranks_of(self._content)

    @cached_property
    def _quick(self) -> tiktoken.Encoding | None:
        if self.ranks is None or self.pattern is None:
            return None
        try:
            return tiktoken.Encoding(
                "move37",
                pat_str=self.pattern,
                mergeable_ranks=dict(self.ranks),
                special_tokens=self._specials,
            )
        except ValueError:  # a pattern that only the other library can read
            return None

    def name(self, id: int) -> str:
        """The token as the vocabulary writes it, in a byte-level one with stand-ins for bytes that cannot be printed."""
        return self.inner.id_to_token(id) or ""

    @cached_property
    def _spelling(self) -> spelling.Spelling:
        return spelling.Spelling(self.inner.decoder, self._content)

    @cached_property
    def is_of_bytes(self) -> bool:
        """Whether tokens are bytes in stand-ins; those of other tokenizers are characters, and most lack some."""
        return isinstance(self._source, Learned) or spelling.is_of_bytes(self._content)

    @cached_property
    def dropped(self) -> tuple[int, int]:
        """How many spaces its rules write before and behind a text: none if it is of bytes."""
        if self.is_of_bytes:
            return 0, 0
        names = map(self.name, range(self.vocab_size))
        return self._spelling.dropped(zip(names, self.token_bytes, strict=True))

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes that each token id stands for in the midst of a text; none for special tokens."""
        if self.ranks is None:
            return [self._bytes_of(id) for id in range(self.vocab_size)]
        found = [b""] * self.vocab_size
        for token, id in self.ranks.items():
            found[id] = token
        return found

    def _bytes_of(self, id: int) -> bytes:
        name = self.name(id)
        if id in self.special_ids or not name:
            return b""
        if not self.is_of_bytes:
            return self._spelling.bytes_of(name)
        if id in self._words:
            return self._words[id].encode()
        return described.from_symbols(name) if BYTE_OF.keys() >= set(name) else name.encode()

    @cached_property
    def merge_ranks(self) -> dict[tuple[str, str], int]:
        """Learned merges of byte symbols, by pair; the earliest learned has rank 0."""
        return {pair: rank for rank, pair in enumerate(described.pairs_in(self._content))}

    # Ids to text

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; special tokens have none, and bytes that are not UTF-8 become U+FFFD.

        Of a text by itself: a space that the rules wrote before it is left out.
        """
        text = self.decode_bytes(ids).decode("utf-8", errors="replace")
        begin, end = self.dropped
        return text.removeprefix(" " * begin).removesuffix(" " * end)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """What token ids spell in the midst of a text."""
        # A network may have rows for more tokens than there are; such an id stands for nothing.
        known = self.token_bytes
        return b"".join(known[id] for id in ids if id < len(known))

    def parts(self, ids: Iterable[int]) -> list[Part]:
        """What the assistant wrote as text, thoughts and calls of tools; a mark left open holds all that follows."""
        opens = {pair[0]: kind for kind, pair in self.part_ids.items()}
        closes = {pair[1] for pair in self.part_ids.values()}
        found: list[tuple[str, list[int]]] = [("text", [])]
        for id in ids:
            if id in opens:
                found.append((opens[id], []))
            elif id in closes:
                found.append(("text", []))
            else:
                found[-1][1].append(id)
        kept: Any = [{"type": kind, "text": self.decode(own)} for kind, own in found if own or kind != "text"]
        return kept

    # Conversations

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """A conversation up to the point where the assistant writes: the model goes on from here."""
        if self.protocol is not None:
            return self.protocol.prompt(messages, self.encode_after, self._marks)
        return self._chat.prompt(messages)

    def conversation(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Token ids of a conversation, and a mask of equal length: 1 on what the assistant is to learn to write.

        That is the assistant's content, thoughts and calls with the marks around them, and the `<|im_end|>` after
        them; never its role, and never what a tool answered.
        """
        if self.protocol is not None:
            return self.protocol.conversation(messages, self.encode_after, self._marks)
        return self._chat.conversation(messages)

    @property
    def _chat(self) -> Chat:
        if not self.has_chat:
            raise UserError(
                "this tokenizer has no tokens for conversations: import it, which adds them", field="messages"
            )
        return Chat(
            self.start_id, self.sep_id, self.end_id, self.part_ids, partial(self.encode_after, "mark")
        )

    @cached_property
    def spaces_before_answers(self) -> int:
        """How many spaces an answer's tokens begin with that are none of the answer's own.

        Rules write one before a text, but not behind every end of an opening; some templates write one themselves. A
        model may part its answer from an opening by one as well, where that does not end a line.
        """
        asked: list[Message] = [{"role": "user", "content": "a"}]
        opening = self.prompt(asked)
        said = self.conversation([*asked, {"role": "assistant", "content": "a"}])[0][len(opening) :]
        text = self.decode_bytes(said).decode("utf-8", "replace")
        is_parted = self.decode_bytes(opening)[-1:].isspace()
        return max(len(text) - len(text.lstrip(" ")), 0 if is_parted else self.dropped[0])
