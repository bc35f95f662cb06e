"""Texts of one file, found again by key while another is read: on disk, so that memory does not grow with them."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from core_ml.feedback.sets.ranked import Row, Source


class Lookup:
    """Values by key, in a database that is gone when the set has been read."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        # Nobody reads it after a crash, so nothing need be safe from one.
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute("CREATE TABLE texts (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")

    def put(self, key: tuple[Any, ...], value: Any) -> None:
        row = (json.dumps(key), json.dumps(value))
        self._db.execute("INSERT OR REPLACE INTO texts VALUES (?, ?)", row)

    def get(self, key: tuple[Any, ...]) -> Any:
        found = self._db.execute("SELECT value FROM texts WHERE key = ?", (json.dumps(key),)).fetchone()
        return json.loads(found[0]) if found else None

    def fill(
        self, sources: Iterable[Source], entries: Callable[[Row], Iterable[tuple[tuple[Any, ...], Any]]]
    ) -> None:
        """Keep what `entries` finds in each row. Rows that say nothing are passed over: a vote that needs one tells."""
        self._db.execute("BEGIN")
        for source in sources:
            for _, row in source.rows():
                if isinstance(row, dict):
                    for key, value in entries(row):
                        self.put(key, value)
        self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()


@contextmanager
def lookup() -> Iterator[Lookup]:
    with TemporaryDirectory() as folder:
        found = Lookup(Path(folder) / "texts.sqlite")
        try:
            yield found
        finally:
            found.close()
