"""Everything one model is sampling now, a token for each row at a step. Only the computing thread steps it.

Products are in float32, so that log-probabilities are the checkpoint's own. A row's draws depend on its seed
alone, never on which other rows are in the batch; float32 sums of another order may still turn a near tie.
"""

import threading
from collections import deque
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from core_ml.engine.backend import Piece, Rival, Token
from core_ml.engine.errors import ApiError
from core_ml.engine.rows import Row, RowCache
from core_ml.engine.text import offsets
from core_ml.model.gpt import GPT, Cache
from core_ml.sampling.choose import choose

MAX_ROWS = 64
MAX_WAITING = 4096
CACHE_BYTES = 1 << 30
"""Keys and values of one model's running rows; more rows wait."""
READ_AT_ONCE = 1024
"""Prompt tokens that are read before the running rows get their next token."""


class Batch:
    """Rows that run and rows that wait. `add` may be called from any thread, `step` from one."""

    def __init__(self, model: GPT, token_bytes: Sequence[bytes], stop_ids: frozenset[int]) -> None:
        self.model, self.token_bytes, self.stop_ids = model, token_bytes, stop_ids
        self.rows: list[Row] = []
        self._joining: list[Row] = []
        self.waiting: deque[Row] = deque()
        self._lock = threading.Lock()
        self._cache: RowCache | None = None
        config = model.config
        row_bytes = 2 * 4 * config.n_layer * config.n_kv_head * config.d_head * config.max_seq_len
        self.max_rows = max(1, min(MAX_ROWS, CACHE_BYTES // row_bytes))

    @property
    def is_busy(self) -> bool:
        return bool(self.rows or self.waiting)

    def add(self, rows: Sequence[Row]) -> None:
        with self._lock:
            if len(self.waiting) + len(rows) > MAX_WAITING:
                raise ApiError(429, f"{len(self.waiting)} completions are waiting already: try again later")
            self.waiting.extend(rows)

    @torch.inference_mode()
    def step(self) -> None:
        """Drop what nobody waits for, read some prompts, and sample one token for each running row."""
        for index in reversed(range(len(self.rows))):
            if self.rows[index].cancelled:
                self._remove(index)
        self._joining = self._admitted()
        for _, group in groupby(self._joining, key=lambda row: id(row.prompt)):
            self._read(list(group))
        self._joining = []
        if self.rows:
            assert self._cache is not None
            positions, mask = self._cache.open()
            ids = torch.tensor([[row.last_id] for row in self.rows], device=self.model.device)
            hidden = self.model.hidden(ids, positions, self._cache, mask)
            self._cache.close()
            ended = self._sample(self.rows, self.model.logits(hidden[:, -1]))
            for index in reversed(ended):
                self._remove(index)
        if not self.rows:
            self._cache = None  # an idle model keeps its weights only

    def fail(self) -> list[Row]:
        """Give up every row, after an error."""
        with self._lock:
            rows = [*self.rows, *self._joining, *self.waiting]
            self.waiting.clear()
        self.rows, self._joining, self._cache = [], [], None
        return rows

    def _admitted(self) -> list[Row]:
        """Waiting rows that there is room for, those that share a prompt beside each other."""
        admitted: list[Row] = []
        n_read = 0
        with self._lock:
            while self.waiting and len(self.rows) + len(admitted) < self.max_rows:
                row = self.waiting[0]
                if not row.cancelled:
                    if not admitted or row.prompt is not admitted[-1].prompt:
                        if admitted and n_read + len(row.prompt) > READ_AT_ONCE:
                            break
                        n_read += len(row.prompt)
                    admitted.append(row)
                self.waiting.popleft()
        return admitted

    def _read(self, group: list[Row]) -> None:
        """Read one prompt, sample the first token of each of its rows, and let them join."""
        prompt = group[0].prompt
        cache = Cache(self.model, 1, len(prompt))
        hidden = self.model.hidden(torch.tensor([prompt], device=self.model.device), cache=cache)[0]
        if group[0].echo is not None:
            self._echo(group, hidden)
        if group[0].max_new_tokens == 0:
            for row in group:
                row.emit(Piece(row.choice, "", finish_reason="length"), 0)
            return
        ended = self._sample(group, self.model.logits(hidden[-1:]).expand(len(group), -1))
        for index, row in enumerate(group):
            if index not in ended:
                self._cache = self._cache or RowCache(self.model)
                self._cache.add(cache)
                self.rows.append(row)

    def _echo(self, group: list[Row], hidden: Tensor) -> None:
        """Give out the prompt, each token with its log-probability when that is asked for."""
        first = group[0]
        assert first.echo is not None
        logprobs: list[float | None] = [None] * len(first.prompt)
        tops: list[Sequence[Rival]] = [()] * len(first.prompt)
        if first.top_logprobs is not None and len(first.prompt) > 1:
            distribution = self.model.logits(hidden[:-1]).log_softmax(-1)
            ids = torch.tensor(first.prompt[1:], device=distribution.device)
            logprobs[1:] = distribution.gather(-1, ids[:, None])[:, 0].tolist()
            tops[1:] = _rivals(distribution, first.top_logprobs)
        tokens, starts = [], offsets(map(self._data, first.prompt))
        for place in range(first.n_hidden, len(first.prompt)):
            tokens.append(Token(first.prompt[place], logprobs[place], tops[place], starts[place]))
        for row in group:
            row.emit(Piece(row.choice, first.echo, tokens), 0)

    def _sample(self, rows: list[Row], logits: Tensor) -> list[int]:
        """Draw and give out one token for each row; returns the indices of those that have ended."""
        ids = self._draw(rows, logits)
        scored = [index for index, row in enumerate(rows) if row.top_logprobs is not None]
        logprobs: dict[int, float] = {}
        tops: dict[int, list[Rival]] = {}
        if scored:
            distribution = logits[scored].log_softmax(-1)
            own = distribution.gather(-1, torch.tensor(ids, device=logits.device)[scored, None])[:, 0]
            logprobs = dict(zip(scored, own.tolist(), strict=True))
            most = max(rows[index].top_logprobs or 0 for index in scored)
            tops = dict(zip(scored, _rivals(distribution, most), strict=True))
        ended = []
        for index, (row, id) in enumerate(zip(rows, ids, strict=True)):
            row.last_id = id
            row.n_new_tokens += 1
            top = tops.get(index, [])[: row.top_logprobs]
            if self._give(row, Token(id, logprobs.get(index), top)):
                ended.append(index)
        return ended

    def _draw(self, rows: list[Row], logits: Tensor) -> list[int]:
        ids = [0] * len(rows)
        uniform = torch.tensor([row.draws.random() for row in rows], device=logits.device)
        alike: dict[object, list[int]] = {}
        for index, row in enumerate(rows):
            alike.setdefault(row.sampling, []).append(index)
        for indices in alike.values():
            how = rows[indices[0]].sampling
            chosen = choose(logits[indices], uniform[indices], how.temperature, how.top_k, how.top_p)
            for index, id in zip(indices, chosen.tolist(), strict=True):
                ids[index] = id
        return ids

    def _give(self, row: Row, token: Token) -> bool:
        """Give out what a new token makes certain; true when the row has ended."""
        if token.id in self.stop_ids:
            text, tokens = row.text.finish()
            row.emit(Piece(row.choice, text, tokens, "stop"), 1)
            return True
        text, tokens = row.text.feed(token, self._data(token.id))
        if row.text.stopped:
            row.emit(Piece(row.choice, text, tokens, "stop"), 1)
            return True
        if row.n_new_tokens == row.max_new_tokens:
            rest, more = row.text.finish()
            reason = "stop" if row.text.stopped else "length"
            row.emit(Piece(row.choice, text + rest, tokens + more, reason), 1)  # type: ignore[arg-type]
            return True
        row.emit(Piece(row.choice, text, tokens), 1)
        return False

    def _data(self, id: int) -> bytes:
        # A network may have more outputs than its tokenizer has tokens.
        return self.token_bytes[id] if id < len(self.token_bytes) else b""

    def _remove(self, index: int) -> None:
        assert self._cache is not None
        self._cache.remove(index)
        last = self.rows.pop()
        if index < len(self.rows):
            self.rows[index] = last


def _rivals(distribution: Tensor, n: int) -> list[list[Rival]]:
    """The n most probable tokens of each row of log-probabilities (B, vocab_size)."""
    values, ids = distribution.topk(min(n, distribution.size(-1)), dim=-1)
    return [
        [Rival(id, value) for id, value in zip(row_ids, row_values, strict=True)]
        for row_ids, row_values in zip(ids.tolist(), values.tolist(), strict=True)
    ]
