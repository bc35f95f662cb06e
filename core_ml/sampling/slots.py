"""Keys and values of rows of different lengths, each of which grows by one token at a step.

Rows come and go at any step (continuous batching, Yu et al. 2022, OSDI, "Orca"). Every row begins at place 0,
and a mask hides what lies beyond its end. Rows of one prompt may leave that to `trunks`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from core_ml.model.config import GPTConfig
from core_ml.model.gpt import Cache
from core_ml.sampling.products import filled_up
from core_ml.sampling.trunks import HIDDEN, Seats, Trunks

GROW_ROWS, GROW_PLACES = 4, 32
"""Products with keys and values read whole stores: of a part of the places their library would make a copy first,
at every step. So a store has few places more than its longest row, and is made anew once in so many steps."""


@dataclass(slots=True)
class Turn:
    """One step's view of the places: where each row's new token stands, and what it may look at."""

    rows: Tensor  # (n,) 0, 1, …
    places: Tensor  # (n,) among what is the row's own
    positions: Tensor  # (n,) in its text, of which the beginning may be shared
    bias: Tensor  # (n · n_kv_head, 1, places), 0 where a row may look, for layers that see everything
    windowed: Tensor  # the same for layers with a window
    seats: Seats | None  # where rows share their prompts


class Slots:
    """`lengths` of its rows are filled; (rows, n_kv_head, places, d_head) a layer, and room for more."""

    def __init__(self, config: GPTConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.config, self.device = config, device
        shape = (GROW_ROWS, config.n_kv_head, min(GROW_PLACES, config.max_seq_len), config.d_head)
        empty = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(2 * config.n_layer)]
        self.keys, self.values = empty[: config.n_layer], empty[config.n_layer :]
        self.lengths: list[int] = []
        self.trunks = Trunks(config, dtype, device)

    @property
    def n_bytes(self) -> int:
        """Of the rows' own places."""
        return sum(store.numel() * store.element_size() for store in (*self.keys, *self.values))

    def add(self, prompt: Cache, row: int, length: int) -> None:
        """Append a row that begins as a row of a prompts' cache."""
        n = len(self.lengths)
        self.reserve(n + 1, length + 1)
        for mine, theirs in zip((*self.keys, *self.values), (*prompt.keys, *prompt.values), strict=True):
            mine[n, :, :length] = theirs[row, :, :length]
        self.lengths.append(length)
        self.trunks.join(0)

    def add_sharing(self, prompt: Cache, row: int, length: int, n: int) -> None:
        """Append n rows that go on from one prompt. Layers with a window count places, and cannot share."""
        assert self.config.window is None
        trunk = self.trunks.add(prompt, row, length)
        for _ in range(n):
            self.lengths.append(0)
            self.trunks.join(trunk)

    def remove(self, row: int) -> None:
        """The last row moves into the place of this one."""
        last = len(self.lengths) - 1
        if row != last:
            for store in (*self.keys, *self.values):
                store[row, :, : self.lengths[last]] = store[last, :, : self.lengths[last]]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        self.trunks.leave(row)

    def turn(self, n: int) -> Turn:
        """Make room for one more token in each row, and in places up to `n` that hold none."""
        lengths = self.lengths + [0] * (n - len(self.lengths))
        self._fit(n, max(lengths) + 1)
        own = torch.tensor(lengths, device=self.device)
        places = torch.arange(self.keys[0].size(2), device=self.device)
        hidden = places > own[:, None]
        bias = self._bias(hidden)
        window = self.config.window
        if window is None or max(lengths) < window:
            windowed = bias
        else:
            windowed = self._bias(hidden | (places <= own[:, None] - window))
        positions, seats = own, self.trunks.seats(n)
        if seats is not None:
            shared = [self.trunks.lengths[trunk] for trunk in self.trunks.of]
            positions = own + torch.tensor(shared + [0] * (n - len(shared)), device=self.device)
        return Turn(torch.arange(n, device=self.device), own, positions, bias, windowed, seats)

    def close(self) -> None:
        """All layers have their token: each row is one longer."""
        self.lengths = [length + 1 for length in self.lengths]

    def reserve(self, n_rows: int, n_places: int = 0) -> None:
        """Make room for so many rows in all, each with so many tokens at least."""
        have_rows, _, have_places, _ = self.keys[0].shape
        # As many as are computed once matrices are laid out for them, and none in reserve: they are what is counted on.
        rows = max(have_rows, filled_up(n_rows))
        places = max(have_places, -(-n_places // GROW_PLACES) * GROW_PLACES)
        self._resize(rows, places)

    def _fit(self, n_rows: int, n_places: int) -> None:
        """As `reserve`, and let go of places that no row needs any more."""
        self.reserve(n_rows, n_places)
        have_rows, _, have_places, _ = self.keys[0].shape
        if have_places >= n_places + 2 * GROW_PLACES:
            self._resize(have_rows, have_places - GROW_PLACES)

    def _resize(self, rows: int, places: int) -> None:
        if (rows, places) != (self.keys[0].size(0), self.keys[0].size(2)):
            for stores in (self.keys, self.values):  # one at a time: never two of everything
                for layer, store in enumerate(stores):
                    stores[layer] = _resized(store, rows, places)

    def _bias(self, hidden: Tensor) -> Tensor:
        dtype = self.keys[0].dtype
        bias = torch.zeros(hidden.shape, dtype=dtype, device=self.device).masked_fill_(hidden, HIDDEN)
        return bias.repeat_interleave(self.config.n_kv_head, dim=0)[:, None]


def append(store: Tensor, turn: Turn, new: Tensor) -> Tensor:
    """Write (n, n_kv_head, d_head) at the rows' ends; returns all that may be seen, (n · n_kv_head, places, d_head)."""
    store[turn.rows, :, turn.places] = new
    return store[: new.size(0)].flatten(0, 1)


def _resized(store: Tensor, rows: int, places: int) -> Tensor:
    """A store of the new size with what fits; the rest is 0, which a masked place must be: never NaN."""
    new = store.new_empty(rows, store.size(1), places, store.size(3))
    places = min(places, store.size(2))
    new[: store.size(0), :, :places] = store[:, :, :places]
    new[: store.size(0), :, places:] = 0
    new[store.size(0) :] = 0
    return new
