"""Who is next: clients take turns, however many requests and completions each of them has asked for.

A few places are kept for clients who have none: a place is free again only when a completion ends, and that may take
minutes.
"""

import threading
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from core_ml.engine.errors import ApiError
from core_ml.engine.rows import Row

MAX_WAITING = 4096
"""In all. One client may have half of it, so that there is room for others."""


class Queue:
    """Rows that wait. `add` may be called from any thread, `take` from one."""

    def __init__(self) -> None:
        self._lines: dict[object, deque[Row]] = {}  # of each owner, the one that has waited longest first
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._lines.values()))

    @property
    def rows(self) -> list[Row]:
        with self._lock:
            return [row for line in self._lines.values() for row in line]

    def add(self, rows: Sequence[Row]) -> None:
        """Raises: ApiError 429 when too many wait."""
        new = Counter(row.owner for row in rows)
        with self._lock:
            own = max((len(self._lines.get(owner, ())) + n for owner, n in new.items()), default=0)
            if own > MAX_WAITING // 2:
                raise ApiError(
                    429, f"{own - len(rows)} of your completions are waiting already: try again later"
                )
            n_waiting = sum(map(len, self._lines.values()))
            if n_waiting + len(rows) > MAX_WAITING:
                raise ApiError(429, f"{n_waiting} completions are waiting already: try again later")
            for row in rows:
                self._lines.setdefault(row.owner, deque()).append(row)

    def take(self, running: Iterable[Row], n_rows: int, n_tokens: int, n_kept: int = 0) -> list[Row]:
        """At most `n_rows` rows for free places, each from the owner who has fewest places by then.

        Args:
            n_tokens: of different prompts that may be read at once; the first prompt may be longer.
            n_kept: of the free places are for owners who have none.
        """
        taken: list[Row] = []
        prompts: set[int] = set()
        places = Counter(row.owner for row in running)
        with self._lock:
            while len(taken) < n_rows and (owner := self._next(places)) is not None:
                if places[owner] and n_rows - len(taken) <= n_kept:
                    break
                row = self._lines[owner][0]
                if id(row.prompt) not in prompts:
                    if prompts and len(row.prompt) > n_tokens:
                        break
                    prompts.add(id(row.prompt))
                    n_tokens -= len(row.prompt)
                self._lines[owner].popleft()
                places[owner] += 1
                taken.append(row)
            self._lines = {owner: line for owner, line in self._lines.items() if line}
        return taken

    def clear(self) -> list[Row]:
        """All that waited."""
        rows = self.rows
        with self._lock:
            self._lines.clear()
        return rows

    def _next(self, places: Counter[object]) -> object | None:
        for line in self._lines.values():
            while line and line[0].cancelled:
                line.popleft()
        waiting = [owner for owner, line in self._lines.items() if line]
        return min(waiting, key=places.__getitem__, default=None)
