"""Products of a few rows with a network's matrices, which are laid out once for the processor's library.

`F.linear` is the textbook. It rearranges a matrix at every call, which for two to sixteen rows takes longer than
the product itself. A layout serves one number of rows, so a batch is filled up to it.
"""

import itertools
import time
import weakref

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core_ml import measured

PACK_AFTER = 4  # steps at one size: laying out a matrix costs about as much as three products with it
MAX_PACKED_BYTES = 1 << 30
"""The layouts are a second copy of the weights."""
WAYS = ("plain", "turned", "mkl", "onednn")


class Linear:
    """x @ weight.T + bias for a few rows, in one type, in the way that `use` chose."""

    keeps: bool = False
    last: Tensor
    """What the last call gave, if it `keeps` that: a training step on the same rows need not compute it again."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        self.weight = layer.weight.detach().to(dtype)
        self.bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        self.number = torch.tensor(next(_numbers))
        _linears[int(self.number)] = self
        self.use("plain", 0)

    def use(self, way: str, n: int) -> None:
        """Lay the matrix out for n rows."""
        self.way, self.n = way, n
        self.packed = self.weight
        if way == "turned":
            self.packed = self.weight.T.contiguous()
        elif way == "mkl":
            self.packed = torch.ops.mkl._mkl_reorder_linear_weight(self.weight, n)
        elif way == "onednn":
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, n)

    def __call__(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            y = self.product(x)
            if self.keeps:
                self.last = y
            return y
        if self.keeps or (x.size(0) > 1 and x.device.type == "cpu"):
            return torch.ops.core_ml.product(x, self.weight, self.number)
        return self.vector_product(x) if x.device.type == "cpu" else F.linear(x, self.weight, self.bias)

    def product(self, x: Tensor) -> Tensor:
        if self.way == "turned":
            return x @ self.packed if self.bias is None else torch.addmm(self.bias, x, self.packed)
        if self.way == "mkl":
            return torch.ops.mkl._mkl_linear(x, self.packed, self.weight, self.bias, self.n)
        if self.way == "onednn":
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)

    def vector_product(self, x: Tensor) -> Tensor:
        """One row, written out for the compiler: one pass over the weights as they lie, at the memory's own speed."""
        # Without a layout asked for, the compiler makes the row anew for each of the numbers that come out.
        row = x[0].float().contiguous().as_strided((x.size(1),), (1,))
        y = (row * self.weight.float()).sum(-1)[None]
        return (y if self.bias is None else y + self.bias).to(x.dtype)


# The compiler knows no layout of the libraries, so it sees a product with one as an operator of ours, which finds
# the layout by a number. The number is a tensor: as a constant, each new network would be compiled anew.
_numbers = itertools.count()
_linears: "weakref.WeakValueDictionary[int, Linear]" = weakref.WeakValueDictionary()


def _product(x: Tensor, weight: Tensor, number: Tensor) -> Tensor:
    linear = _linears[int(number)]
    y = linear.product(x)
    if linear.keeps:
        linear.last = y.clone()  # the graph writes over what it has read
    return y


_library = torch.library.Library("core_ml", "FRAGMENT")
_library.define("product(Tensor x, Tensor weight, Tensor number) -> Tensor")
for _device in ("CPU", "CUDA"):
    _library.impl("product", _product, _device)
_library.impl("product", lambda x, weight, number: x.new_empty(x.size(0), weight.size(0)), "Meta")


class Products:
    """Keeps a network's matrices laid out for the number of rows that it is used with."""

    def __init__(self, linears: list[Linear]) -> None:
        self._linears = linears
        self._size = self._wanted = self._steps = 0
        weight = linears[0].weight
        n_bytes = sum(linear.weight.numel() for linear in linears) * weight.element_size()
        self._packs = weight.device.type == "cpu" and n_bytes <= MAX_PACKED_BYTES

    @property
    def n_bytes(self) -> int:
        """Of layouts beside the weights themselves."""
        laid_out = [linear.weight for linear in self._linears if linear.way != "plain"]
        return sum(weight.numel() * weight.element_size() for weight in laid_out)

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

    def _pack(self, n: int) -> None:
        way = measured.remembered(self._key(n), lambda: self._quickest(n))
        for linear in self._linears:
            linear.use(way, n)
        self._size = n

    def _key(self, n: int) -> str:
        shapes = sorted({tuple(linear.weight.shape) for linear in self._linears})
        dtype = self._linears[0].weight.dtype
        return f"{n} rows, {torch.get_num_threads()} threads, {dtype}, products with {shapes} by {WAYS}"

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
    if way == "onednn":
        emulates = dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.backends.mkldnn.is_available() and not emulates
    return True


def filled_up(n: int) -> int:
    """The next power of two, from 16 on the next multiple of 16."""
    return 1 << (n - 1).bit_length() if n <= 16 else -(-n // 16) * 16


def full(n: int) -> int:
    """The most rows, at most n, that are not filled up any further: each that is stored and computed is one of a text."""
    return 1 << (n.bit_length() - 1) if n <= 16 else n // 16 * 16
