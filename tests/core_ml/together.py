"""Two ranks in processes of their own, as torchrun starts them, on one processor thread each and in float32."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from core_ml.model import device


def both(work: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Call `work(folder, …)` on both ranks; whatever one of them raises is raised here."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.multiprocessing.spawn(_rank, (work, folder, arguments), nprocs=2)


def _rank(rank: int, work: Callable[..., None], folder: Path, arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    torch.set_num_threads(1)
    device._precision = torch.float32
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        work(folder, *arguments)
    finally:
        dist.destroy_process_group()
