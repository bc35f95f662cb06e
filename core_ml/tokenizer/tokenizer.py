"""Byte-level BPE and the chat protocol `<|im_start|>role<|im_sep|>content<|im_end|>`.

As in GPT-2, text is cut into words by a pattern and the bytes of each word are merged, so every text can be
written and every token sequence read back. Departures: each digit is a token of its own (a small model can
then learn sums), and text never becomes a special token: only `prompt` and `conversation` write those.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypedDict, TypeVar

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from core_ml.artifact import write_atomically
from core_ml.errors import UserError

BOS, START, SEP, END = "<|bos|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>"
SPECIALS = (BOS, START, SEP, END, *(f"<|reserved_{number}|>" for number in range(12)))
ROLES = ("system", "user", "assistant", "tool")
MIN_VOCAB_SIZE = len(SPECIALS) + 256
MAX_FILE_BYTES = 64 << 20
# A word is letters with at most one sign before them, one digit, signs with at most one space, or white space.
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
# Whatever stands around it, no such word goes on across white space that follows something else, or beside a digit.
# ASCII only, so that it is no matter which edition of Unicode the library follows.
BORDER = re.compile(r"(?<=\S)(?=[ \t\n\r])|(?=[0-9])|(?<=[0-9])")
PIECE_CHARS = 1 << 14
BATCH_CHARS = 1 << 19
"""The library keeps some 100 bytes for each token of what it is given at once."""
Key = TypeVar("Key")


class Message(TypedDict):
    role: str
    content: str


def _byte_symbols() -> dict[str, int]:
    """GPT-2's stand-ins: each byte is written as one printable character, itself where it is printable."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_symbols()


class Tokenizer:
    """Text to token ids and back. Make one by `train` or `load`."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        # Off by default in the library: text that spells "<|im_end|>" would become the token.
        inner.encode_special_tokens = True
        self.inner = inner
        known = {name: id for name in SPECIALS if (id := inner.token_to_id(name)) is not None}
        self.bos_id, self.start_id, self.sep_id, self.end_id = (known[name] for name in SPECIALS[:4])
        self.special_ids = frozenset(known.values())

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learn merges until there are `vocab_size` tokens, or fewer when the texts hold no more pairs.

        Raises: UserError when the vocabulary cannot hold the bytes and special tokens.
        """
        if vocab_size < MIN_VOCAB_SIZE:
            raise UserError(
                f"vocab_size is {vocab_size}, and 256 bytes and {len(SPECIALS)} special tokens need "
                f"{MIN_VOCAB_SIZE}: choose a larger one",
                field="vocab_size",
            )
        inner = tokenizers.Tokenizer(models.BPE())
        inner.pre_tokenizer = _pre_tokenizer()
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIALS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        # In pieces: the library takes 256 texts at once, and of a word only its number of times matters.
        inner.train_from_iterator((piece for text in texts for piece in cut(_valid(text))), trainer)
        return cls(inner)

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read `tokenizer.json`, or a folder that has one. Raises UserError when it will not do."""
        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise UserError(
                    f"{path.name} is larger than {MAX_FILE_BYTES >> 20} MB: it is no tokenizer of ours"
                )
            content = path.read_text(encoding="utf-8")
            inner = tokenizers.Tokenizer.from_str(content)
            model = json.loads(content)["model"]["type"]
        except FileNotFoundError:
            raise UserError(f"there is no tokenizer at {path}") from None
        except UserError:
            raise
        except Exception as error:  # the library raises bare Exception for every kind of damage
            raise UserError(f"{path.name} is damaged and cannot be read: {str(error)[:200]}") from None
        missing = [name for name in SPECIALS[:4] if inner.token_to_id(name) is None]
        if model != "BPE" or missing or any(symbol not in inner.get_vocab() for symbol in BYTE_OF):
            raise UserError(
                f"{path.name} is not a byte-level BPE tokenizer with the chat protocol"
                + (f": it lacks {', '.join(missing)}" if missing else "")
            )
        return cls(inner)

    def save(self, path: Path | str) -> None:
        path = Path(path)
        write_atomically(path / "tokenizer.json" if path.is_dir() else path, self.inner.to_str(pretty=True))

    @property
    def vocab_size(self) -> int:
        return self.inner.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, none of them special, whatever the text says."""
        pieces = self.pieces(text)
        return [id for piece in pieces for id in self.inner.encode(piece, add_special_tokens=False).ids]

    def encode_pieces(self, texts: Iterable[tuple[Key, str]]) -> Iterator[tuple[Key, list[int]]]:
        """As `encode` for a stream of texts, on all cores: each text's key with its ids, piece by piece in order.

        Memory depends neither on the number of texts nor on how long one is. A text has one piece at least.
        """
        keys: list[Key] = []
        batch: list[str] = []
        n_chars = 0
        for key, text in texts:
            for piece in self.pieces(text):
                keys.append(key)
                batch.append(piece)
                n_chars += len(piece)
                if n_chars >= BATCH_CHARS:
                    yield from zip(keys, self._encode_batch(batch), strict=True)
                    keys, batch, n_chars = [], [], 0
        yield from zip(keys, self._encode_batch(batch), strict=True)

    def _encode_batch(self, pieces: list[str]) -> Iterator[list[int]]:
        encoded = self.inner.encode_batch_fast(pieces, add_special_tokens=False)
        return (encoding.ids for encoding in encoded)

    def pieces(self, text: str) -> Iterable[str]:
        """The text cut so that the tokens of its pieces, one after the other, are those of the whole."""
        return cut(_valid(text)) if self._has_our_words else [_valid(text)]

    @cached_property
    def _has_our_words(self) -> bool:
        """False for a tokenizer from elsewhere whose words may go on where ours end."""
        ours = tokenizers.Tokenizer(models.BPE())
        ours.pre_tokenizer = _pre_tokenizer()
        parts = ("normalizer", "pre_tokenizer", "truncation", "padding")
        wanted, found = (json.loads(inner.to_str()) for inner in (ours, self.inner))
        return all(found[part] == wanted[part] for part in parts) and all(
            token["special"] for token in found["added_tokens"]
        )

    def name(self, id: int) -> str:
        """The token as the vocabulary writes it, with stand-ins for bytes that cannot be printed."""
        return self.inner.id_to_token(id) or ""

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes that each token id stands for; none for special tokens."""
        names = map(self.name, range(self.vocab_size))
        return [
            b"" if id in self.special_ids else bytes(BYTE_OF[symbol] for symbol in name)
            for id, name in enumerate(names)
        ]

    @cached_property
    def merge_ranks(self) -> dict[tuple[str, str], int]:
        """Learned merges of byte symbols, by pair; the earliest learned has rank 0."""
        merges = json.loads(self.inner.to_str())["model"]["merges"]
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
        return {(left, right): rank for rank, (left, right) in enumerate(pairs)}

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; special tokens have none, and bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(map(self.token_bytes.__getitem__, ids))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """A conversation up to the point where the assistant writes: the model goes on from here."""
        return self.conversation(messages)[0] + self._opening("assistant")

    def conversation(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Token ids of a conversation, and a mask of equal length: 1 on what the assistant is to learn to write.

        That is the assistant's content and the `<|im_end|>` after it, never its role.
        """
        ids: list[int] = []
        mask: list[int] = []
        for message in messages:
            opening = self._opening(message["role"])
            content = [*self.encode(message["content"]), self.end_id]
            ids += opening + content
            mask += [0] * len(opening) + [int(message["role"] == "assistant")] * len(content)
        return ids, mask

    def _opening(self, role: str) -> list[int]:
        if role not in ROLES:
            raise UserError(
                f"a message has the role {role!r}: it must be one of {', '.join(ROLES)}", field="messages"
            )
        return [self.start_id, *self.encode(role), self.sep_id]


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(WORD), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def cut(text: str) -> Iterator[str]:
    """Pieces of `PIECE_CHARS` and what it takes to the next border of words; a word is never cut."""
    begin = 0
    while len(text) - begin > PIECE_CHARS and (border := BORDER.search(text, begin + PIECE_CHARS)):
        yield text[begin : border.start()]
        begin = border.start()
    yield text[begin:]


def _valid(text: str) -> str:
    """The text without lone surrogates, which JSON can carry and UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
