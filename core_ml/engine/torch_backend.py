"""Our own checkpoints by our own sampler: exact log-probabilities of any of them, many requests in one batch."""

import asyncio
import hashlib
import json
import random
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from core_ml.engine.backend import Job, Piece
from core_ml.engine.batch import Batch
from core_ml.engine.errors import ApiError, bad_request
from core_ml.engine.loop import Loop
from core_ml.engine.prompts import prompts_of, room, spelled, unsaid
from core_ml.engine.rows import Row
from core_ml.engine.schemas import BEYOND
from core_ml.engine.text import TextStream
from core_ml.engine.tools import CallReader, schema_of_call
from core_ml.errors import UserError
from core_ml.model.checkpoint import load
from core_ml.sampling.grammar import Constraint, Grammar, Grammars
from core_ml.sampling.settings import Sampling

COLDEST = 1e-4
"""Below this temperature the most probable token is taken: dividing by less would overflow."""


class TorchBackend:
    """One checkpoint in memory. Implements `core_ml.engine.backend.Backend`."""

    takes = frozenset(BEYOND)
    is_gone = False

    def __init__(self, path: Path, weights_sha256: str, loop: Loop, device: torch.device) -> None:
        """Raises: UserError for a checkpoint that is damaged."""
        self.model, self.tokenizer = load(path, device)
        self.loop = loop
        state = f"{weights_sha256} {torch.__version__} {device} float32"
        self.fingerprint = "m37-" + hashlib.sha256(state.encode()).hexdigest()[:12]
        self._weight_bytes = sum(weight.numel() * weight.element_size() for weight in self.model.parameters())
        stops = frozenset((self.tokenizer.bos_id, self.tokenizer.start_id, self.tokenizer.end_id))
        self._batch = Batch(self.model, self.tokenizer.token_bytes, stops)

    @property
    def n_bytes(self) -> int:
        return self._weight_bytes + self._batch.n_bytes

    @property
    def is_busy(self) -> bool:
        return self._batch.is_busy

    async def start(self, job: Job) -> "TorchGeneration":
        call = schema_of_call(job)
        # A call that must be made is begun by its mark alone: the schema says the rest.
        asked = job if call is None else replace(job, tool_choice="required")
        prompts, n_hidden, begun = await asyncio.to_thread(  # a long text takes a while
            prompts_of, asked, self.tokenizer, self.model.config.vocab_size
        )
        constraint = await asyncio.to_thread(self._constraint, job, call)
        generation = TorchGeneration(n_choices=len(prompts) * job.n, n_prompt_tokens=sum(map(len, prompts)))
        if job.tools and job.tool_choice != "none":
            generation.calls = CallReader(self.tokenizer, begun)
        seed = secrets.randbits(63) if job.seed is None else job.seed
        how = _sampling(job)
        for place, prompt in enumerate(prompts):
            max_new_tokens = room(len(prompt), job, self.model.config.max_seq_len)
            echo = self.tokenizer.decode(prompt) if job.echo else None
            for choice in range(place * job.n, (place + 1) * job.n):
                generation.rows.append(
                    Row(
                        choice=choice,
                        prompt=prompt,
                        how=how,
                        max_new_tokens=max_new_tokens,
                        draws=random.Random(f"{seed}:{choice}"),
                        text=TextStream(job.stop, len(echo or ""), unsaid(job, self.tokenizer)),
                        emit=generation.emit,
                        owner=job.client or generation,
                        top_logprobs=job.top_logprobs,
                        echo=echo,
                        n_hidden=n_hidden[place],
                        n_unsaid=self.tokenizer.dropped[0],
                        constraint=constraint and constraint.copy(),
                    )
                )
        self._batch.add(generation.rows)
        self.loop.wake(self._batch)
        return generation

    def _constraint(self, job: Job, call: dict[str, Any] | None) -> Constraint | None:
        """What the job's completions must match. Raises ApiError for what cannot be matched."""
        given = job.response_format
        if call is not None:
            grammar = Grammar("json_schema", json.dumps(call))
        elif given is not None:
            schema = given["json_schema"]["schema"] if given["type"] == "json_schema" else {"type": "object"}
            grammar = Grammar("json_schema", json.dumps(schema))
        elif job.guided_regex is not None:
            grammar = Grammar("regex", job.guided_regex)
        else:
            return None
        try:
            return self._grammars.begin(grammar)
        except UserError as error:
            name = "guided_regex" if grammar.kind == "regex" else "response_format"
            raise bad_request(error.message, "tools" if call is not None else name) from None

    @cached_property
    def _grammars(self) -> Grammars:
        return Grammars(self.tokenizer.token_bytes, self.model.config.vocab_size, self.tokenizer.end_id)

    def spelled(self, id: int) -> tuple[str, bytes | None]:
        return spelled(self.tokenizer, id)

    def close(self) -> None:
        """Nothing: the weights go with the last row that needs them."""


def _sampling(job: Job) -> Sampling:
    greedy = job.temperature < COLDEST or job.top_p == 0
    return Sampling(
        temperature=0.0 if greedy else job.temperature,
        top_k=job.top_k,
        top_p=job.top_p,
        min_p=job.min_p,
        repetition_penalty=job.repetition_penalty,
        presence_penalty=job.presence_penalty,
        frequency_penalty=job.frequency_penalty,
        logit_bias=job.logit_bias,
    )


class TorchGeneration:
    """Pieces cross here from the computing thread to the event loop."""

    def __init__(self, n_choices: int, n_prompt_tokens: int) -> None:
        self.n_choices, self.n_prompt_tokens = n_choices, n_prompt_tokens
        self.n_completion_tokens = 0
        self.rows: list[Row] = []
        self.calls: CallReader | None = None
        """Reads calls of tools out of the text, where there are tools."""
        self._event_loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[tuple[Piece, int]] = asyncio.Queue()

    def emit(self, piece: Piece, n_tokens: int) -> None:
        try:
            self._event_loop.call_soon_threadsafe(self._pieces.put_nowait, (piece, n_tokens))
        except RuntimeError:
            pass  # the event loop is closed: the engine is ending

    async def __aiter__(self) -> AsyncIterator[Piece]:
        left = self.n_choices
        while left:
            piece, n_tokens = await self._pieces.get()
            self.n_completion_tokens += n_tokens
            if piece.finish_reason == "error":
                raise ApiError(500, "The model failed while it was sampling; the engine's log says why.")
            left -= piece.finish_reason is not None
            yield piece if self.calls is None else self.calls.take(piece)

    def close(self) -> None:
        for row in self.rows:
            row.cancelled = True
