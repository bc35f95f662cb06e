"""Products of a few rows with a network's matrices, which are laid out once for the processor's library.

`F.linear` is the textbook. It rearranges a matrix at every call, which for two to sixteen rows takes longer than
the product itself. A layout serves one number of rows, so a batch is filled up to it.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core_ml import measured

Product = Callable[[Tensor], Tensor]
PACK_AFTER = 4  # steps at one size: laying out a matrix costs about as much as three products with it
MAX_PACKED_BYTES = 1 << 30
"""The layouts are a second copy of the weights."""
WAYS = ("plain", "mkl", "onednn")


class Linear:
    """x @ weight.T + bias in one type. `product` is what computes it now."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        self.weight = layer.weight.detach().to(dtype)
        self.bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        self.use("plain", 0)

    def use(self, way: str, n: int) -> None:
        """Lay the matrix out for n rows."""
        weight, bias = self.weight, self.bias
        self.product: Product = lambda x: F.linear(x, weight, bias)
        if way == "mkl":
            packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, n)
            self.product = lambda x: torch.ops.mkl._mkl_linear(x, packed, weight, bias, n)
        elif way == "onednn":
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, n)
            self.product = lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")

    def __call__(self, x: Tensor) -> Tensor:
        return self.product(x)


class Products:
    """Keeps a network's matrices laid out for the number of rows that it is used with."""

    def __init__(self, linears: list[Linear]) -> None:
        self._linears = linears
        self._size = self._wanted = self._steps = 0
        weight = linears[0].weight
        n_bytes = sum(linear.weight.numel() for linear in linears) * weight.element_size()
        self._packs = weight.device.type == "cpu" and n_bytes <= MAX_PACKED_BYTES

    def rows(self, n: int) -> int:
        """How many rows to compute for n: as many, or up to where the matrices are laid out for."""
        if not self._packs:
            return n
        wanted = filled_up(n)
        self._steps = self._steps + 1 if wanted == self._wanted else 1
        self._wanted = wanted
        # Fewer rows than laid out for are computed in vain for a while, since numbers go up and down.
        patience = PACK_AFTER if n > self._size else 4 * PACK_AFTER
        if wanted != self._size and self._steps >= patience:
            self._pack(wanted)
        return self._size if n <= self._size else n

    def _pack(self, n: int) -> None:
        way = measured.remembered(self._key(n), lambda: self._quickest(n))
        for linear in self._linears:
            linear.use(way, n)
        self._size = n

    def _key(self, n: int) -> str:
        shapes = sorted({tuple(linear.weight.shape) for linear in self._linears})
        dtype = self._linears[0].weight.dtype
        return f"{n} rows, {torch.get_num_threads()} threads, {dtype}, products with {shapes}"

    def _quickest(self, n: int) -> str:
        """The way of all products of a step that is the quickest in its best of some passes."""
        linears, times = self._linears, {}
        inputs = {
            linear.weight.size(1): linear.weight.new_ones(n, linear.weight.size(1)) for linear in linears
        }
        for way in WAYS:
            if not available(way, linears[0].weight.dtype):
                continue
            for linear in linears:
                linear.use(way, n)
            best = float("inf")
            for _ in range(6):
                begin = time.perf_counter()
                for linear in linears:
                    linear(inputs[linear.weight.size(1)])
                best = min(best, time.perf_counter() - begin)
            times[way] = best
        return min(times, key=times.__getitem__)


def available(way: str, dtype: torch.dtype) -> bool:
    if way == "mkl":
        return torch.backends.mkl.is_available() and dtype == torch.float32
    return way == "plain" or torch.backends.mkldnn.is_available()


def filled_up(n: int) -> int:
    """The next power of two, from 16 on the next multiple of 16."""
    return 1 << (n - 1).bit_length() if n <= 16 else -(-n // 16) * 16
