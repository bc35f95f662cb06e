"""Where tensors live and in which precision they are multiplied, found without any setting."""

import contextlib
import ctypes
import os
import sys
import time
from functools import cache
from pathlib import Path

import torch

from core_ml import measured

WORTH_ROUNDING = 1.2
"""How many times as fast bfloat16 must be on a processor before its rounding is accepted."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h
MADV_HUGEPAGE = 14  # sys/mman.h


def choose() -> torch.device:
    """The machine's accelerator if it has one, else its processor; ranks on one machine take a GPU each."""
    if torch.cuda.is_available():
        number = int(os.environ.get("LOCAL_RANK", 0))
        torch.cuda.set_device(number)
        return torch.device("cuda", number)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def use_threads(n: int | None) -> int:
    """Set this process up to compute on `n` threads, by default one fewer than the cores; returns n.

    The core that is left serves web and worker. Sums are ordered by thread, so a run is repeatable to the bit
    only with the same number.
    """
    _keep_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    n = n or max(1, (cores - 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    torch.set_num_threads(n)
    return n


@cache
def _keep_memory() -> None:
    """Let glibc keep freed memory, and ask the kernel for large pages below it.

    Giving it back and faulting it in again cost 18 % of a step of 0.9 M parameters, and 40 % of one of 12 M. In small
    pages a processor looks up the place of nearly every row that it reads, on a virtual machine twice over: on one, a
    step of 0.8 M parameters became nearly twice as fast with large ones (`benchmarks/training.py`).
    """
    libc = ctypes.CDLL(None)
    # Other systems and C libraries have none, or no such heap.
    if sys.platform != "linux" or not hasattr(libc, "mallopt") or not hasattr(libc, "sbrk"):
        return
    for name, result, arguments in (
        ("sbrk", ctypes.c_void_p, [ctypes.c_ssize_t]),
        ("malloc", ctypes.c_void_p, [ctypes.c_size_t]),
        ("free", None, [ctypes.c_void_p]),
        ("madvise", ctypes.c_int, [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]),
    ):
        function = getattr(libc, name)
        function.restype, function.argtypes = result, arguments
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(M_TRIM_THRESHOLD, -1)
    # Half of the machine's memory as addresses of the heap: they cost nothing until they are used, but where the kernel
    # promises no more than it has.
    if _is_strict():
        return
    page, n_pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    begin = -(-libc.sbrk(0) // page) * page
    libc.mallopt(M_MMAP_MAX, 0)  # else a piece of this size would be a mapping of its own
    libc.free(libc.malloc(page * n_pages // 2))
    libc.mallopt(M_MMAP_MAX, 65536)
    n_bytes = libc.sbrk(0) - begin
    if n_bytes > 0:
        libc.madvise(begin, n_bytes, MADV_HUGEPAGE)


def _is_strict() -> bool:
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    except OSError:
        return False


def autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """Matrix products in the type that is quickest here, everything else in float32."""
    dtype = precision(device)
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


_precision: torch.dtype | None = None


def precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it faster, else float32.

    A processor that lists bfloat16 among its instructions may still be twice as slow at it: this is measured.
    """
    global _precision
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32
    if _precision is None:
        faster = measured.remembered("bfloat16 against float32", _bfloat16_gain) > WORTH_ROUNDING
        _precision = torch.bfloat16 if faster else torch.float32
    return _precision


def use_precision(name: str) -> None:
    """Multiply in this type from here on: a run goes on in the one that it began with."""
    global _precision
    _precision = getattr(torch, name)


def _bfloat16_gain() -> float:
    speeds = []
    for dtype in (torch.float32, torch.bfloat16):
        rows, weight = torch.ones(1024, 256, dtype=dtype), torch.ones(512, 256, dtype=dtype)
        best = float("inf")
        for _ in range(20):
            begin = time.perf_counter()
            rows @ weight.T
            best = min(best, time.perf_counter() - begin)
        speeds.append(1 / best)
    return speeds[1] / speeds[0]


def tokens_at_once(device: torch.device) -> int:
    """How many tokens one forward and backward pass takes; a larger batch is split, and its gradients summed."""
    return 65_536 if device.type == "cuda" else 2_048


def peak_flops(device: torch.device, size: int | None = None) -> float:
    """Operations per second of one large matrix product here, as training does them; what MFU divides by."""
    size = size or (4096 if device.type == "cuda" else 768)
    a = torch.ones(size, size, device=device)
    best = 0.0
    with torch.no_grad(), autocast(device):
        a = a.to(torch.bfloat16) if torch.is_autocast_enabled(device.type) else a
        for _ in range(4):  # the first one warms up
            begin = time.perf_counter()
            (a @ a)[0, 0].item()
            best = max(best, 2 * size**3 / (time.perf_counter() - begin))
    return best


def memory_bytes(device: torch.device) -> int:
    """The most memory that this process has held: of its GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)
