"""Where tensors live and in which precision they are multiplied, found without any setting."""

import contextlib
import ctypes
import os
import sys
import time

import torch

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
    """Matrix products in bfloat16 where the device has them, everything else in float32."""
    if device.type == "cuda":
        fits = torch.cuda.is_bf16_supported()
    else:
        fits = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16) if fits else contextlib.nullcontext()


def tokens_at_once(device: torch.device) -> int:
    """How many tokens one forward and backward pass takes; a larger batch is split, and its gradients summed."""
    return 65_536 if device.type == "cuda" else 4_096


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
