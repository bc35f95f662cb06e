"""Products of a few rows with a network's matrices, which are laid out once for the processor's library.

`F.linear` is the textbook. It rearranges a matrix at every call, which for two to sixteen rows takes longer than
the product itself. A layout serves one number of rows, so a batch is filled up to it.
"""

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core_ml import measured

PACK_AFTER = 4  # steps at one size: laying out a matrix costs about as much as three products with it
MAX_PACKED_BYTES = 1 << 30
"""The layouts are a second copy of the weights."""
WAYS = ("plain", "mkl", "onednn")

# The library's product as an operator of our own: the compiler takes its own only for weights that never change.
_library = torch.library.Library("core_ml", "FRAGMENT")
_library.define("mkl_linear(Tensor x, Tensor packed, Tensor weight, Tensor? bias, int n) -> Tensor")


def _mkl_linear(x: Tensor, packed: Tensor, weight: Tensor, bias: Tensor | None, n: int) -> Tensor:
    return torch.ops.mkl._mkl_linear(x, packed, weight, bias, n)


for key in ("CPU", "MkldnnCPU"):
    _library.impl("mkl_linear", _mkl_linear, key)
_library.impl("mkl_linear", lambda x, packed, weight, bias, n: x.new_empty(x.size(0), weight.size(0)), "Meta")


class Linear:
    """x @ weight.T + bias for a few rows, in one type, in the way that `use` chose."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        self.weight = layer.weight.detach().to(dtype)
        self.bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        self.use("plain", 0)

    def use(self, way: str, n: int) -> None:
        """Lay the matrix out for n rows."""
        self.way, self.n = way, n
        self.packed = self.weight
        if way == "mkl":
            self.packed = torch.ops.mkl._mkl_reorder_linear_weight(self.weight, n)
        elif way == "onednn":
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, n)

    def __call__(self, x: Tensor) -> Tensor:
        if self.way == "mkl":
            return torch.ops.core_ml.mkl_linear(x, self.packed, self.weight, self.bias, self.n)
        if self.way == "onednn":
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        if torch.compiler.is_compiling() and x.size(0) == 1 and x.dtype == torch.bfloat16:
            # One pass over the weights as they lie; the library would rearrange them at every call.
            y = (x[0].float() * self.weight.float()).sum(-1)[None]
            return (y if self.bias is None else y + self.bias).to(x.dtype)
        return F.linear(x, self.weight, self.bias)


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

    def prepare(self, n: int) -> int:
        """Lay the matrices out for n rows without waiting until they stay; returns how many are computed."""
        if not self._packs:
            return n
        if filled_up(n) != self._size:
            self._pack(filled_up(n))
        return self._size

    @property
    def can_be_compiled(self) -> bool:
        """False with a layout that only its own library can read."""
        return all(linear.way != "onednn" for linear in self._linears)

    def _pack(self, n: int) -> None:
        if n == 1 and self._linears[0].weight.dtype == torch.float32:
            way = "plain"  # a vector meets every weight once: nothing to lay out, and timing would find noise
        else:
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
