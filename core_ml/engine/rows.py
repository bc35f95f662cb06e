"""The rows of a running batch: their settings, where each stands, and their keys and values.

Rows come and go at any step (continuous batching, Yu et al. 2022, OSDI, "Orca"), so each has its own length:
the cache keeps every row from place 0 on, and a mask hides what lies beyond a row's end.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core_ml.engine.backend import Piece
from core_ml.engine.text import TextStream
from core_ml.model.gpt import GPT, Cache

GROW_ROWS, GROW_PLACES = 4, 128


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one row's tokens are drawn; rows with equal settings are drawn together."""

    temperature: float
    top_k: int | None
    top_p: float


@dataclass(slots=True)
class Row:
    """One completion under way. `emit` is called in the computing thread; nothing follows a finish reason."""

    choice: int
    prompt: list[int]
    sampling: Sampling
    max_new_tokens: int
    draws: random.Random
    text: TextStream
    emit: Callable[[Piece, int], None]
    """Takes the next piece, and how many tokens were sampled for it."""
    top_logprobs: int | None = None
    echo: str | None = None
    """The prompt's text, when it is to stand before the completion."""
    n_hidden: int = 0
    """Tokens at the beginning of the prompt that the client did not write (`<|bos|>`)."""
    cancelled: bool = False
    n_new_tokens: int = 0
    last_id: int = -1


class RowCache(Cache):
    """Keys and values of rows of different lengths. `GPT.hidden` sees the first `n` rows, one new token each."""

    def __init__(self, model: GPT) -> None:
        super().__init__(model, GROW_ROWS, GROW_PLACES)
        self.n = 0
        self.lengths = torch.zeros(GROW_ROWS, dtype=torch.long, device=model.device)
        self._width = 0

    def add(self, prompt: Cache) -> None:
        """Append a row that begins as a prompt's cache of one row."""
        self._reserve(self.n + 1, prompt.length)
        for mine, theirs in (*zip(self.keys, prompt.keys), *zip(self.values, prompt.values)):  # noqa: B905
            mine[self.n, :, : prompt.length] = theirs[0, :, : prompt.length]
        self.lengths[self.n] = prompt.length
        self.n += 1

    def remove(self, row: int) -> None:
        """The last row moves into the place of this one."""
        self.n -= 1
        if row != self.n:
            for store in (*self.keys, *self.values):
                store[row] = store[self.n]
            self.lengths[row] = self.lengths[self.n]

    def open(self) -> tuple[Tensor, Tensor]:
        """Make room for one more token in each row; its positions (n, 1) and the mask (n, 1, 1, S)."""
        lengths = self.lengths[: self.n]
        self._width = int(lengths.max()) + 1
        self._reserve(self.n, self._width)
        places = torch.arange(self._width, device=lengths.device)
        return lengths[:, None], (places <= self.lengths[: self.n, None])[:, None, None]

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store one token (n, n_kv_head, 1, d_head) at the end of each row."""
        rows = torch.arange(self.n, device=key.device)
        self.keys[layer][rows, :, self.lengths[: self.n]] = key[:, :, 0]
        self.values[layer][rows, :, self.lengths[: self.n]] = value[:, :, 0]
        return self.keys[layer][: self.n, :, : self._width], self.values[layer][: self.n, :, : self._width]

    def close(self) -> None:
        """All layers have their token: each row is one longer."""
        self.lengths[: self.n] += 1

    def _reserve(self, n_rows: int, n_places: int) -> None:
        have_rows, _, have_places, _ = self.keys[0].shape
        if n_rows <= have_rows and n_places <= have_places:
            return
        rows, places = (
            max(have_rows, _doubled(GROW_ROWS, n_rows)),
            max(have_places, _doubled(GROW_PLACES, n_places)),
        )
        self.keys = [_grown(key, rows, places) for key in self.keys]
        self.values = [_grown(value, rows, places) for value in self.values]
        self.lengths = torch.nn.functional.pad(self.lengths, (0, rows - have_rows))


def _doubled(size: int, needed: int) -> int:
    while size < needed:
        size *= 2
    return size


def _grown(store: Tensor, rows: int, places: int) -> Tensor:
    grown = store.new_zeros(rows, store.size(1), places, store.size(3))
    grown[: store.size(0), :, : store.size(2)] = store
    return grown
