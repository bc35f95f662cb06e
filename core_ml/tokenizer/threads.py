"""Texts encoded on all cores, in their order: the libraries let go of the interpreter while they work."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

JOBS_A_THREAD = 3
"""So many wait or are done and not yet taken: memory follows neither the number of texts nor a slow reader."""
Key = TypeVar("Key")
Made = TypeVar("Made")
Job = tuple[list[Key], list[str]]


def in_order(
    jobs: Iterable[Job[Key]], encode: Callable[[str], Made], n_threads: int
) -> Iterator[tuple[Key, Made]]:
    """Each key of each job with what is made of its piece."""
    if n_threads == 1:
        for keys, pieces in jobs:
            yield from zip(keys, map(encode, pieces), strict=True)
        return

    def work(job: Job[Key]) -> list[tuple[Key, Made]]:
        keys, pieces = job
        return [(key, encode(piece)) for key, piece in zip(keys, pieces, strict=True)]

    waiting: deque[Future[list[tuple[Key, Made]]]] = deque()
    with ThreadPoolExecutor(n_threads, thread_name_prefix="encode") as pool:
        for job in jobs:
            waiting.append(pool.submit(work, job))
            if len(waiting) > JOBS_A_THREAD * n_threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def cores() -> int:
    """Those that this process may use; not every system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
