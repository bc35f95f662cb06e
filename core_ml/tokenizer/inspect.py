"""How a text became tokens, for people to look at."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TypedDict

from core_ml.tokenizer.described import from_symbols
from core_ml.tokenizer.special import Message
from core_ml.tokenizer.tokenizer import Tokenizer


class TokenView(TypedDict):
    """`start` and `end` are places in the text's UTF-8 bytes; of a conversation, in all that its tokens spell.

    `text` is what these bytes spell alone: half a character is U+FFFD. A special token spells its name, and
    takes no place.
    """

    id: int
    text: str
    bytes: list[int]
    start: int
    end: int
    special: bool


class Merge(TypedDict):
    left: str
    right: str
    rank: int
    pieces: list[str]


def tokens(tokenizer: Tokenizer, content: str | Sequence[Message]) -> list[TokenView]:
    """Each token of a text, or of a conversation in the chat protocol."""
    ids = tokenizer.encode(content) if isinstance(content, str) else tokenizer.conversation(content)[0]
    return views(tokenizer, ids)


def views(tokenizer: Tokenizer, ids: Sequence[int]) -> list[TokenView]:
    shown: list[TokenView] = []
    place = 0
    for id in ids:
        data = tokenizer.token_bytes[id]
        special = id in tokenizer.special_ids
        name = tokenizer.name(id) if special else data.decode("utf-8", errors="replace")
        shown.append(
            {
                "id": id,
                "text": name,
                "bytes": list(data),
                "start": place,
                "end": place + len(data),
                "special": special,
            }
        )
        place += len(data)
    return shown


def merges_of(tokenizer: Tokenizer, word: str) -> list[list[Merge]]:
    """How each pre-tokenized piece of a word was merged, in the order of the merges.

    Each step joins the leftmost pair of the lowest rank, the earliest learned; `pieces` is what stands after it.
    Source: Sennrich et al. 2016, arXiv:1508.07909, section 3.2.
    """
    ranks = tokenizer.merge_ranks
    pieces = [piece for piece, _ in tokenizer.inner.pre_tokenizer.pre_tokenize_str(word)]
    return [_merges(list(piece), ranks) for piece in pieces]


def _merges(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[Merge]:
    steps: list[Merge] = []
    while len(symbols) > 1:
        rank, at = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(pairwise(symbols)))
        if rank == len(ranks):
            break
        left, right = symbols[at : at + 2]
        symbols[at : at + 2] = [left + right]
        steps.append(
            {
                "left": _shown(left),
                "right": _shown(right),
                "rank": rank,
                "pieces": [_shown(s) for s in symbols],
            }
        )
    return steps


def _shown(symbol: str) -> str:
    return from_symbols(symbol).decode("utf-8", errors="replace")
