"""Keys and values of what was read lately: a prompt that begins alike is read from where it differs.

A chat sends its whole past with each message, and a system prompt begins every conversation.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core_ml.model.gpt import GPT, Cache

MIN_TOKENS = 8  # copying less than this saves nothing


@dataclass(slots=True)
class Prefix:
    ids: Tensor  # (length,)
    stores: list[Tensor]  # keys, then values, of each layer: (n_kv_head, length, d_head)

    @property
    def n_bytes(self) -> int:
        return sum(store.numel() * store.element_size() for store in self.stores)


class Prefixes:
    """The least recently used go first when they take more than `max_bytes`."""

    def __init__(self, model: GPT, max_bytes: int) -> None:
        self.model, self.max_bytes = model, max_bytes
        self._kept: OrderedDict[bytes, Prefix] = OrderedDict()
        self.n_bytes = 0
        self.n_reused = 0
        """Tokens that did not have to be read again."""

    def keep(self, ids: Sequence[int], keys: list[Tensor], values: list[Tensor]) -> None:
        """Remember the keys and values (n_kv_head, at least len(ids), d_head) of a layer's row that read `ids`."""
        tensor = torch.tensor(ids)
        name = tensor.numpy().tobytes()
        if len(ids) < MIN_TOKENS or name in self._kept:
            return
        stores = [store[:, : len(ids)].clone() for store in (*keys, *values)]
        prefix = Prefix(tensor, stores)
        if prefix.n_bytes > self.max_bytes // 4:
            return
        # What this one begins with is of no use beside it.
        for other, shorter in list(self._kept.items()):
            if name.startswith(other):
                self._drop(other, shorter)
        self._kept[name] = prefix
        self.n_bytes += prefix.n_bytes
        while self.n_bytes > self.max_bytes:
            self._drop(*next(iter(self._kept.items())))

    def begin(self, ids: Sequence[int], size: int) -> Cache | None:
        """A cache of one row with room for `size` that holds the longest known beginning of `ids`, if there is one.

        The last token is always left to be read, since its hidden state is what is wanted.
        """
        wanted = torch.tensor(ids)
        best, name = 0, b""
        for key, prefix in self._kept.items():
            n = min(len(prefix.ids), len(ids) - 1)
            differs = (prefix.ids[:n] != wanted[:n]).nonzero()
            common = int(differs[0]) if len(differs) else n
            if common > best:
                best, name = common, key
        if best < MIN_TOKENS:
            return None
        self._kept.move_to_end(name)
        self.n_reused += best
        cache = Cache(self.model, 1, size)
        for mine, theirs in zip((*cache.keys, *cache.values), self._kept[name].stores, strict=True):
            mine[0, :, :best] = theirs[:, :best]
        cache.length = best
        return cache

    def _drop(self, name: bytes, prefix: Prefix) -> None:
        del self._kept[name]
        self.n_bytes -= prefix.n_bytes
