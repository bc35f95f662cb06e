"""Everything one model is sampling now, a token for each row at a step. Only the computing thread steps it.

Products are in float32, so that log-probabilities are the checkpoint's own. What a row gets depends on its
prompt, settings and seed alone; float32 sums of another order may still turn a near tie.

The step is never compiled here, as it is for a run. Measured in float32 with one row of 12 million parameters, on one
shared Zen core: 18.9 ms instead of 22.3 (15 %; in bfloat16, which runs use, more), after 123 s of compiling, in which no
stream of any model would move. So it pays after 36,000 steps with the same number of rows, and that number changes with
each request that comes or ends, each with a graph of its own.
"""

from collections.abc import Sequence

from core_ml.engine.backend import Piece, Rival, Token
from core_ml.engine.queue import Queue
from core_ml.engine.rows import Row
from core_ml.engine.text import offsets
from core_ml.model.gpt import GPT
from core_ml.sampling.products import filled_up, full
from core_ml.sampling.sampler import Draw, Sampler

MAX_ROWS = 64
CACHE_BYTES = 1 << 30
"""Keys and values of one model's running rows; more rows wait."""
PREFIX_BYTES = 256 << 20
"""Keys and values of what one model has read lately."""
KEPT = 8
"""For so many places there is one more, for clients who have none."""
READ_AT_ONCE = 1024
"""Prompt tokens that are read before the running rows get their next token."""


class Batch:
    """Rows that run and rows that wait. `add` may be called from any thread, `step` from one."""

    def __init__(self, model: GPT, token_bytes: Sequence[bytes], stop_ids: frozenset[int]) -> None:
        self.token_bytes, self.stop_ids = token_bytes, stop_ids
        self.sampler: Sampler[Row] = Sampler(model, prefix_bytes=PREFIX_BYTES)
        self.waiting = Queue()
        self._joining: list[Row] = []
        self._stepping = False
        config = model.config
        self._place_bytes = 2 * 4 * config.n_layer * config.n_kv_head * config.d_head
        row_bytes = self._place_bytes * config.max_seq_len
        self.max_rows = full(max(1, min(MAX_ROWS, CACHE_BYTES // row_bytes)))

    @property
    def rows(self) -> list[Row]:
        return self.sampler.rows

    @property
    def is_busy(self) -> bool:
        # In a step, rows that join are neither here nor there.
        return self._stepping or bool(self.rows or len(self.waiting))

    @property
    def n_bytes(self) -> int:
        """Memory beside the weights: what is held, and what the rows that were taken on will come to hold."""
        rows = list(dict.fromkeys([*self.rows, *self._joining, *self.waiting.rows]))
        n = filled_up(min(len(rows), self.max_rows + self.max_rows // KEPT)) if rows else 0
        longest = max((len(row.prompt) + row.max_new_tokens for row in rows), default=0)
        held = self.sampler.slots.n_bytes
        return self.sampler.n_bytes - held + max(held, n * longest * self._place_bytes)

    def add(self, rows: Sequence[Row]) -> None:
        """Raises: ApiError 429 when too many wait."""
        self.waiting.add(rows)

    def step(self) -> None:
        """Drop what nobody waits for, sample one token for each running row, and let some that wait join."""
        self._stepping = True
        try:
            self._step()
        finally:
            self._stepping = False

    def _step(self) -> None:
        self._leave([row for row in self.rows if row.cancelled])
        if self.rows:
            self.sampler.step()
            self._leave([row for row in self.rows if self._give(row)])
        n_kept = self.max_rows // KEPT
        n_free = self.max_rows + n_kept - len(self.rows)
        self._joining = self.waiting.take(self.rows, n_free, READ_AT_ONCE, n_kept)
        if self._joining:
            self.sampler.join(self._joining)
            for row in self._joining:
                if row.echo is not None:
                    self._echo(row)
                if not row.max_new_tokens:
                    row.emit(Piece(row.choice, "", finish_reason="length"), 0)
            self._leave([row for row in self._joining if row.max_new_tokens and self._give(row)])
            self._joining = []

    def fail(self) -> list[Row]:
        """Give up every row, after an error."""
        rows = list(dict.fromkeys([*self.rows, *self._joining, *self.waiting.clear()]))
        self._joining = []
        self.sampler = Sampler(self.sampler.model, prefix_bytes=PREFIX_BYTES)
        return rows

    def _leave(self, rows: list[Row]) -> None:
        for row in rows:
            self.sampler.leave(self.rows.index(row))
        if rows and not self.rows:
            self.sampler.rest()

    def _echo(self, row: Row) -> None:
        """Give out the prompt, each token with its log-probability when that is asked for."""
        starts = offsets(map(self._data, row.prompt), row.n_unsaid)
        # Nothing comes before the first token that could have foretold it.
        tokens = [Token(row.prompt[0], None, (), starts[0])]
        if row.scores_prompt:
            tokens += [self._token(row, *scored) for scored in zip(row.prompt_draws, starts[1:], strict=True)]
        else:
            tokens += [
                Token(id, None, (), start) for id, start in zip(row.prompt[1:], starts[1:], strict=True)
            ]
        row.emit(Piece(row.choice, row.echo or "", tokens[row.n_hidden :]), 0)

    def _give(self, row: Row) -> bool:
        """Give out what a row's new token makes certain; true when the row has ended."""
        assert row.last is not None
        token = self._token(row, row.last)
        if row.last.id in self.stop_ids:
            text, tokens = row.text.finish()
            row.emit(Piece(row.choice, text, tokens, "stop"), 1)
            return True
        text, tokens = row.text.feed(token, self._data(row.last.id))
        if row.text.stopped:
            row.emit(Piece(row.choice, text, tokens, "stop"), 1)
            return True
        if row.finished or len(row.ids) == row.max_new_tokens:
            rest, more = row.text.finish()
            reason = "stop" if row.text.stopped or row.finished else "length"
            row.emit(Piece(row.choice, text + rest, tokens + more, reason), 1)  # type: ignore[arg-type]
            return True
        row.emit(Piece(row.choice, text, tokens), 1)
        return False

    def _token(self, row: Row, draw: Draw, offset: int = 0) -> Token:
        if row.top_logprobs is None:
            return Token(draw.id, None, (), offset)
        top = [Rival(id, logprob) for id, logprob in draw.top[: row.top_logprobs]]
        return Token(draw.id, draw.logprob, top, offset)

    def _data(self, id: int) -> bytes:
        # A network may have more outputs than its tokenizer has tokens.
        return self.token_bytes[id] if id < len(self.token_bytes) else b""
