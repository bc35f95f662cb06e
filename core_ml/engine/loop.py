"""The one thread that computes: models take turns, a step at a time, so that all their streams move."""

import logging
import threading

from core_ml.engine.backend import Piece
from core_ml.engine.batch import Batch

log = logging.getLogger(__name__)


class Loop:
    """Steps every batch that has rows; sleeps when none has."""

    def __init__(self) -> None:
        self._batches: list[Batch] = []
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)
        self._thread.start()

    def wake(self, batch: Batch) -> None:
        """Rows were added to this batch."""
        with self._wake:
            if batch not in self._batches:
                self._batches.append(batch)
            self._wake.notify()

    @property
    def n_rows(self) -> tuple[int, int]:
        """Rows that run and rows that wait, over all models."""
        with self._wake:
            batches = list(self._batches)
        return sum(len(batch.rows) for batch in batches), sum(len(batch.waiting) for batch in batches)

    def stop(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._batches = [batch for batch in self._batches if batch.is_busy]
                while not self._batches and not self._stopping:
                    self._wake.wait()
                if self._stopping:
                    return
                batches = list(self._batches)
            for batch in batches:
                try:
                    batch.step()
                except Exception:  # one request's failure, or one model's, must not end the engine
                    log.exception("a step failed; its completions are given up")
                    for row in batch.fail():
                        row.emit(Piece(row.choice, "", finish_reason="error"), 0)
            del batch, batches  # a model that is let go of must not live on here while the thread sleeps
