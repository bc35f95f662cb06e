"""How a text became tokens, for people to look at."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypedDict

from core_ml.tokenizer.described import from_symbols, symbols
from core_ml.tokenizer.panics import giving_up_told
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
    if isinstance(content, str):
        # A space that the rules wrote before the text stands in none of its places.
        return views(tokenizer, tokenizer.encode(content), -tokenizer.dropped[0])
    return views(tokenizer, tokenizer.conversation(content)[0])


def views(tokenizer: Tokenizer, ids: Sequence[int], place: int = 0) -> list[TokenView]:
    found: list[TokenView] = []
    for id in ids:
        data = tokenizer.token_bytes[id]
        special = id in tokenizer.special_ids
        name = tokenizer.name(id) if special else data.decode("utf-8", errors="replace")
        found.append(
            {
                "id": id,
                "text": name,
                "bytes": list(data),
                "start": max(0, place),
                "end": max(0, place + len(data)),
                "special": special,
            }
        )
        place += len(data)
    return found


def merges_of(tokenizer: Tokenizer, word: str) -> list[list[Merge]]:
    """How each pre-tokenized piece of a word was merged, in the order of the merges.

    Each step joins the leftmost pair of the lowest rank, the earliest learned; `pieces` is what stands after it.
    Source: Sennrich et al. 2016, arXiv:1508.07909, section 3.2.
    """
    if tokenizer.is_of_bytes:
        return [_merges(symbols, tokenizer.merge_ranks, shown) for symbols in words_of(tokenizer, word)]
    return [_merges(list(piece), tokenizer.merge_ranks, str) for piece in _pieces(tokenizer, word)]


def words_of(tokenizer: Tokenizer, text: str) -> list[list[str]]:
    """The words into which a text is cut, each as the stand-ins of its letters' bytes."""
    if tokenizer.is_of_bytes:
        return [list(piece) for piece in _pieces(tokenizer, text)]
    return [[symbols(letter.encode()) for letter in piece] for piece in _pieces(tokenizer, text)]


def _pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    inner: Any = tokenizer.inner
    with giving_up_told(None):
        if inner.normalizer is not None:
            text = inner.normalizer.normalize_str(text)
        pieces = inner.pre_tokenizer.pre_tokenize_str(text) if inner.pre_tokenizer else [(text, None)]
    return [piece for piece, _ in pieces]


def _merges(
    symbols: list[str], ranks: dict[tuple[str, str], int], shown: Callable[[str], str]
) -> list[Merge]:
    steps: list[Merge] = []
    while len(symbols) > 1:
        rank, at = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(pairwise(symbols)))
        if rank == len(ranks):
            break
        left, right = symbols[at : at + 2]
        symbols[at : at + 2] = [left + right]
        steps.append(
            {
                "left": shown(left),
                "right": shown(right),
                "rank": rank,
                "pieces": [shown(s) for s in symbols],
            }
        )
    return steps


def shown(symbol: str) -> str:
    try:
        return from_symbols(symbol).decode("utf-8", errors="replace")
    except KeyError:  # a tokenizer from elsewhere that cuts words before it has bytes
        return symbol
