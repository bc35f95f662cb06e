"""Prompts that several running rows share: a step reads their keys and values once, and not once for each row.

Rows of one prompt are queries of one product with it; what each has written itself stays its own. Source: the
same split of attention as in Juravsky et al. 2024, arXiv:2402.05099 ("Hydragen"), with one softmax over both.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from core_ml.model.config import GPTConfig
from core_ml.model.gpt import Cache

HIDDEN = -1e30  # finite, so that a place of the batch without a row stays finite too


@dataclass(slots=True)
class Seats:
    """Which rows read which prompt, as a table of G prompts with m seats each."""

    rows: Tensor  # (G · m,) the row in each seat; free seats repeat row 0, and nobody reads what they get
    seat: Tensor  # (n,) where each row sits
    bias: Tensor  # (n · n_kv_head, 1, P), 0 where the row's prompt has a token
    keys: list[Tensor]  # of each layer, (G, n_kv_head, P, d_head)
    values: list[Tensor]

    def product(self, x: Tensor, store: Tensor, turned: bool = False) -> Tensor:
        """Each row with its prompt: (n · n_kv_head, g, P) and values to (…, d_head), or (…, d_head) and keys to (…, P)."""
        if torch.compiler.is_compiling() and x.device.type == "cpu":
            return torch.ops.core_ml.branch(x, store, self.rows, self.seat, turned)
        return branch(x, store, self.rows, self.seat, turned)


def branch(x: Tensor, store: Tensor, rows: Tensor, seat: Tensor, turned: bool) -> Tensor:
    """One product a prompt and head, in which the rows that share the prompt stand side by side."""
    groups, n_kv_head, _, _ = store.shape
    g = x.size(1)
    x = x.unflatten(0, (-1, n_kv_head))[rows].unflatten(0, (groups, -1))
    x = x.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # (G · n_kv_head, m · g, …)
    y = torch.bmm(x, (store.mT if turned else store).flatten(0, 1))
    y = y.unflatten(0, (groups, n_kv_head)).unflatten(2, (-1, g)).transpose(1, 2)
    return y.flatten(0, 1)[seat].flatten(0, 1)


def _shape(x: Tensor, store: Tensor, rows: Tensor, seat: Tensor, turned: bool) -> Tensor:
    return x.new_empty(x.size(0), x.size(1), store.size(2 if turned else 3))


# How rows are seated changes at every step that one ends. Compiled for any seating, the copies between seats and rows
# took longer than all else that is not a product, so that the compiler sees one operator here.
_library = torch.library.Library("core_ml", "FRAGMENT")
_library.define("branch(Tensor x, Tensor store, Tensor rows, Tensor seat, bool turned) -> Tensor")
_library.impl("branch", branch, "CPU")
_library.impl("branch", _shape, "Meta")


class Trunks:
    """The shared prompts, and which of them each row goes on from: `of` is parallel to the rows of the slots."""

    def __init__(self, config: GPTConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.config, self.device = config, device
        # The first one is empty: rows whose prompt is their own go on from it.
        shape = (1, config.n_kv_head, 0, config.d_head)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layer)]
        self.values = [key.clone() for key in self.keys]
        self.lengths = [0]
        self.of: list[int] = []
        self._seats: Seats | None = None

    def add(self, prompt: Cache, row: int, length: int) -> int:
        """Keep a row of a prompts' cache; returns the number by which rows go on from it."""
        for stores, theirs in ((self.keys, prompt.keys), (self.values, prompt.values)):
            for layer, new in enumerate(theirs):
                width = max(stores[layer].size(2), length)
                parts = [stores[layer], new[row : row + 1, :, :length]]
                padded = [torch.nn.functional.pad(part, (0, 0, 0, width - part.size(2))) for part in parts]
                stores[layer] = torch.cat(padded)
        self.lengths.append(length)
        return len(self.lengths) - 1

    def join(self, trunk: int) -> None:
        """A new row at the end."""
        self.of.append(trunk)
        self._seats = None

    def leave(self, row: int) -> None:
        """The last row takes this one's place; a prompt that nobody reads any more goes."""
        trunk, last = self.of[row], self.of.pop()
        if row < len(self.of):
            self.of[row] = last
        self._seats = None
        if trunk and trunk not in self.of:
            keep = [number for number in range(len(self.lengths)) if number != trunk]
            self.lengths = [self.lengths[number] for number in keep]
            width = max(self.lengths)
            for stores in (self.keys, self.values):
                stores[:] = [store[keep, :, :width] for store in stores]
            self.of = [number - (number > trunk) for number in self.of]

    def seats(self, n: int) -> Seats | None:
        """Of n places, those beyond the rows being empty; None while no row shares its prompt."""
        if not any(self.of):
            return None
        if self._seats is None or len(self._seats.seat) != n:
            self._seats = self._seated(n)
        return self._seats

    def _seated(self, n: int) -> Seats:
        # The empty one is read only where some row has a prompt of its own: for one shared prompt it would be half the work.
        first = 0 if 0 in self.of else 1
        members: list[list[int]] = [[] for _ in self.lengths[first:]]
        for row, trunk in enumerate(self.of):
            members[trunk - first].append(row)
        m = max(map(len, members))
        table = [row for rows in members for row in rows + [0] * (m - len(rows))]
        seat = [0] * n
        for trunk, rows in enumerate(members):
            for number, row in enumerate(rows):
                seat[row] = trunk * m + number
        lengths = torch.tensor(self.lengths[first:], device=self.device)
        hidden = torch.arange(max(self.lengths), device=self.device) >= lengths[:, None]
        bias = torch.zeros(hidden.shape, dtype=self.keys[0].dtype, device=self.device)
        rows_, seat_ = (torch.tensor(places, device=self.device) for places in (table, seat))
        bias = bias.masked_fill_(hidden, HIDDEN)[seat_ // m]
        bias = bias.repeat_interleave(self.config.n_kv_head, dim=0)[:, None]
        keys, values = ([store[first:] for store in stores] for stores in (self.keys, self.values))
        return Seats(rows_, seat_, bias, keys, values)
