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
    bias: Tensor  # (G · n_kv_head, 1, P), 0 where a prompt has a token
    keys: list[Tensor]  # of each layer, (G, n_kv_head, P, d_head)
    values: list[Tensor]

    def grouped(self, x: Tensor, n_kv_head: int) -> Tensor:
        """(n · n_kv_head, g, …) of rows to (G · n_kv_head, m · g, …), each prompt's queries side by side."""
        n_groups = self.bias.size(0) // n_kv_head
        x = x.unflatten(0, (-1, n_kv_head))[self.rows].unflatten(0, (n_groups, -1))
        return x.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def ungrouped(self, x: Tensor, n_kv_head: int, g: int) -> Tensor:
        """The way back."""
        n_groups = self.bias.size(0) // n_kv_head
        x = x.unflatten(0, (n_groups, n_kv_head)).unflatten(2, (-1, g)).transpose(1, 2)
        return x.flatten(0, 1)[self.seat].flatten(0, 1)


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
        members: list[list[int]] = [[] for _ in self.lengths]
        for row, trunk in enumerate(self.of):
            members[trunk].append(row)
        m = max(map(len, members))
        table = [row for rows in members for row in rows + [0] * (m - len(rows))]
        seat = [0] * n
        for trunk, rows in enumerate(members):
            for number, row in enumerate(rows):
                seat[row] = trunk * m + number
        lengths = torch.tensor(self.lengths, device=self.device)
        hidden = torch.arange(max(self.lengths), device=self.device) >= lengths[:, None]
        bias = torch.zeros(hidden.shape, dtype=self.keys[0].dtype, device=self.device)
        bias = bias.masked_fill_(hidden, HIDDEN).repeat_interleave(self.config.n_kv_head, dim=0)[:, None]
        rows_, seat_ = (torch.tensor(places, device=self.device) for places in (table, seat))
        return Seats(rows_, seat_, bias, self.keys, self.values)
