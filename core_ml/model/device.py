"""Where tensors live and in which precision they are multiplied, found without any setting."""

import contextlib
import ctypes
import os
import sys
import time

import torch

from core_ml import measured

WORTH_ROUNDING = 1.2
"""How many times as fast bfloat16 must be on a processor before its rounding is accepted."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


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


def _keep_memory() -> None:
    """Let glibc keep freed memory.

    Giving it back and faulting it in again cost 18 % of a step of 0.9 M parameters, and 40 % of one of 12 M.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
        if mallopt:
            mallopt(M_MMAP_THRESHOLD, 1 << 30)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


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
