"""Our own checkpoints by our own sampler: exact log-probabilities of any of them, many requests in one batch."""

import asyncio
import hashlib
import random
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import torch

from core_ml.engine.backend import Job, Piece
from core_ml.engine.batch import Batch
from core_ml.engine.errors import ApiError, bad_request
from core_ml.engine.loop import Loop
from core_ml.engine.rows import Row, Sampling
from core_ml.engine.text import TextStream
from core_ml.errors import UserError
from core_ml.model.checkpoint import load

COLDEST = 1e-4
"""Below this temperature the most probable token is taken: dividing by less would overflow."""
DEFAULT_MAX_TOKENS = 16
"""OpenAI's, for completions that name no number."""


class TorchBackend:
    """One checkpoint in memory. Implements `core_ml.engine.backend.Backend`."""

    def __init__(self, path: Path, weights_sha256: str, loop: Loop, device: torch.device) -> None:
        """Raises: UserError for a checkpoint that is damaged."""
        self.model, self.tokenizer = load(path, device)
        self.loop = loop
        state = f"{weights_sha256} {torch.__version__} {device} float32"
        self.fingerprint = "m37-" + hashlib.sha256(state.encode()).hexdigest()[:12]
        self.n_bytes = sum(weight.numel() * weight.element_size() for weight in self.model.parameters())
        stops = frozenset((self.tokenizer.bos_id, self.tokenizer.start_id, self.tokenizer.end_id))
        self._batch = Batch(self.model, self.tokenizer.token_bytes, stops)

    @property
    def is_busy(self) -> bool:
        return self._batch.is_busy

    async def start(self, job: Job) -> "TorchGeneration":
        prompts, n_hidden = await asyncio.to_thread(self._prompts, job)  # a long text takes a while
        generation = TorchGeneration(n_choices=len(prompts) * job.n, n_prompt_tokens=sum(map(len, prompts)))
        seed = secrets.randbits(63) if job.seed is None else job.seed
        greedy = job.temperature < COLDEST or job.top_p == 0
        sampling = Sampling(0.0, None, 1.0) if greedy else Sampling(job.temperature, job.top_k, job.top_p)
        for place, prompt in enumerate(prompts):
            room = self._room(len(prompt), job)
            echo = self.tokenizer.decode(prompt) if job.echo else None
            for choice in range(place * job.n, (place + 1) * job.n):
                generation.rows.append(
                    Row(
                        choice=choice,
                        prompt=prompt,
                        sampling=sampling,
                        max_new_tokens=room,
                        draws=random.Random(f"{seed}:{choice}"),
                        text=TextStream(job.stop, len(echo or "")),
                        emit=generation.emit,
                        top_logprobs=job.top_logprobs,
                        echo=echo,
                        n_hidden=n_hidden[place],
                    )
                )
        self._batch.add(generation.rows)
        self.loop.wake(self._batch)
        return generation

    def spelled(self, id: int) -> tuple[str, bytes | None]:
        data = self.tokenizer.token_bytes[id] if id < len(self.tokenizer.token_bytes) else b""
        if not data:
            return self.tokenizer.inner.id_to_token(id) or f"<|unused_{id}|>", None
        try:
            return data.decode("utf-8"), data
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data), data

    def _prompts(self, job: Job) -> tuple[list[list[int]], list[int]]:
        """Token ids of each prompt, and how many at its beginning are ours."""
        if job.messages is not None:
            try:
                if not job.continue_final_message:
                    return [self.tokenizer.prompt(job.messages)], [0]
                begun = self.tokenizer.prompt(job.messages[:-1])
                return [begun + self.tokenizer.encode(job.messages[-1]["content"])], [0]
            except UserError as error:
                raise bad_request(error.message, "messages") from None
        prompts, n_hidden = [], []
        for prompt in job.prompts:
            if isinstance(prompt, str):
                # Every document that the model has read began so.
                prompts.append([self.tokenizer.bos_id, *self.tokenizer.encode(prompt)])
                n_hidden.append(1)
                continue
            if (highest := max(prompt)) >= self.model.config.vocab_size:
                raise bad_request(
                    f"prompt has the token id {highest}, and this model's go up to "
                    f"{self.model.config.vocab_size - 1}",
                    "prompt",
                )
            prompts.append(prompt)
            n_hidden.append(0)
        return prompts, n_hidden

    def _room(self, n_prompt: int, job: Job) -> int:
        """How many tokens one completion may have."""
        context = self.model.config.max_seq_len
        chat = job.messages is not None
        wanted = job.max_tokens
        if wanted is None:
            wanted = context - n_prompt if chat else min(DEFAULT_MAX_TOKENS, context - n_prompt)
            needed = n_prompt + max(wanted, 1)
        else:
            needed = n_prompt + wanted
        if needed > context:
            raise bad_request(
                f"This model's context is {context} tokens, and {needed} are asked for ({n_prompt} in the "
                f"{'messages' if chat else 'prompt'}, {needed - n_prompt} in the completion): shorten either",
                "messages" if chat else "prompt",
                "context_length_exceeded",
            )
        return wanted


class TorchGeneration:
    """Pieces cross here from the computing thread to the event loop."""

    def __init__(self, n_choices: int, n_prompt_tokens: int) -> None:
        self.n_choices, self.n_prompt_tokens = n_choices, n_prompt_tokens
        self.n_completion_tokens = 0
        self.rows: list[Row] = []
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
            yield piece

    def close(self) -> None:
        for row in self.rows:
            row.cancelled = True
