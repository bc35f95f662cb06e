"""The rows of a dataset of tokens: windows in the order of the shards, with the documents that stand in them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from core_ml.artifact import Folder
from core_ml.errors import UserError
from core_ml.tokenizer.tokenizer import Tokenizer
from core_ml.training.tokens import SIDES, Tokens

WINDOW = 256
MAX_TOKENS = 4_000_000
"""How far into the shards a search looks."""
OVERLAP = 64
"""Tokens after a window in which what was searched for may end."""


@dataclass(frozen=True)
class _Shard:
    side: str
    tokens: np.ndarray
    documents: np.ndarray
    first: int
    """Number of its first window."""

    @property
    def n_windows(self) -> int:
        return -(-len(self.tokens) // WINDOW)


def page(folder: Folder, tokenizer: Tokenizer, offset: int, limit: int, q: str) -> tuple[list[dict[str, Any]], int, bool]:  # fmt: skip
    """Windows `offset` to `offset + limit` of those in which `q` begins, how many there are, whether it looked at all.

    Raises: UserError when a file is damaged.
    """
    try:
        shards = list(_shards(folder))
        if q:
            return _searched(shards, tokenizer, offset, limit, q.lower())
        count = shards[-1].first + shards[-1].n_windows
        return [_row(shards, n, tokenizer) for n in range(offset, min(count, offset + limit))], count, False
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"this dataset cannot be read: {str(error).splitlines()[0][:200]}") from error


def _shards(folder: Folder) -> Iterator[_Shard]:
    first = 0
    for side in SIDES:
        tokens = Tokens(folder.path, side)
        for shard, documents in zip(tokens.shards, tokens.documents, strict=True):
            yield (found := _Shard(side, shard, documents, first))
            first += found.n_windows


def _searched(
    shards: list[_Shard], tokenizer: Tokenizer, offset: int, limit: int, q: str
) -> tuple[list[dict[str, Any]], int, bool]:
    found, looked = [], 0
    for shard in shards:
        for begin in range(0, len(shard.tokens), WINDOW):
            if looked >= MAX_TOKENS:
                break
            looked += WINDOW
            window = tokenizer.decode(shard.tokens[begin : begin + WINDOW].tolist()).lower()
            after = tokenizer.decode(shard.tokens[begin + WINDOW : begin + WINDOW + OVERLAP].tolist()).lower()
            if 0 <= (window + after).find(q) < len(window):
                found.append(shard.first + begin // WINDOW)
    rows = [_row(shards, number, tokenizer) for number in found[offset : offset + limit]]
    return rows, len(found), looked < sum(len(shard.tokens) for shard in shards)


def _row(shards: list[_Shard], number: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """One window: its tokens by the documents that they belong to."""
    shard = next(shard for shard in reversed(shards) if shard.first <= number)
    begin = (number - shard.first) * WINDOW
    end = min(begin + WINDOW, len(shard.tokens))
    starts = shard.documents["start"]
    first = int(np.searchsorted(starts, begin, side="right")) - 1
    last = int(np.searchsorted(starts, end, side="left"))
    parts = []
    for document in range(first, last):
        at = int(starts[document])
        until = int(starts[document + 1]) if document + 1 < len(starts) else end
        ids = shard.tokens[max(at, begin) : min(until, end)].tolist()
        row = int(shard.documents["row"][document])
        parts.append({"document": row, "begins": at >= begin, "ids": ids, "text": tokenizer.decode(ids)})
    return {"number": number, "side": shard.side, "start": begin, "end": end, "parts": parts}
