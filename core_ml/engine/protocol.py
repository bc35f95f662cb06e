"""The answers of both endpoints, whole and streamed, as OpenAI's clients read them.

What goes beyond them, where clients pass over it: `token_ids` of each choice, an `id` with each token's
log-probability, and for completions the same `content` list of log-probabilities that chat answers have.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from core_ml.engine.backend import Backend, Generation, Job, Piece, Token
from core_ml.engine.schemas import ChatRequest, CompletionRequest

Spelled = Callable[[int], tuple[str, bytes | None]]


class Answer:
    """Writes one request's answer. `kind` is what it is called, with and without streaming."""

    kind: tuple[str, str]
    prefix: str

    def __init__(self, model: str, backend: Backend) -> None:
        self._spelled: Spelled = backend.spelled
        self._head = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": backend.fingerprint,
        }

    @property
    def id(self) -> str:
        return str(self._head["id"])

    def whole(self, pieces: Sequence[Piece], generation: Generation) -> dict[str, Any]:
        """The answer that is not streamed."""
        joined = [Piece(index, "") for index in range(generation.n_choices)]
        for piece in pieces:
            before = joined[piece.choice]
            joined[piece.choice] = Piece(
                piece.choice, before.text + piece.text, before.tokens + piece.tokens, piece.finish_reason
            )
        choices = [self._choice(piece) for piece in joined]
        return self._head | {"object": self.kind[0], "choices": choices, "usage": usage(generation)}

    def chunk(self, choices: list[dict[str, Any]], with_usage: bool) -> dict[str, Any]:
        """One event of a stream; with usage asked for, all events but the last say null."""
        empty = {"usage": None} if with_usage else {}
        return self._head | {"object": self.kind[1], "choices": choices} | empty

    def begin(self, generation: Generation) -> list[dict[str, Any]]:
        """The choices of the events before the first piece, one event each."""
        return []

    def delta(self, piece: Piece) -> dict[str, Any]:
        return self._choice(piece)

    def end(self, generation: Generation) -> dict[str, Any]:
        return self._head | {"object": self.kind[1], "choices": [], "usage": usage(generation)}

    def _choice(self, piece: Piece) -> dict[str, Any]:
        raise NotImplementedError

    def _content(self, tokens: Sequence[Token]) -> list[dict[str, Any]]:
        """Log-probabilities in the shape of chat answers."""
        return [
            self._scored(token.id, token.logprob)
            | {"top_logprobs": [self._scored(rival.id, rival.logprob) for rival in token.top]}
            for token in tokens
        ]

    def _scored(self, id: int, logprob: float | None) -> dict[str, Any]:
        text, data = self._spelled(id)
        return {"token": text, "bytes": None if data is None else list(data), "logprob": logprob, "id": id}


class CompletionAnswer(Answer):
    kind = ("text_completion", "text_completion")
    prefix = "cmpl"

    def __init__(self, model: str, backend: Backend, request: CompletionRequest) -> None:
        super().__init__(model, backend)
        self._with_logprobs = request.logprobs is not None

    def _choice(self, piece: Piece) -> dict[str, Any]:
        return {
            "index": piece.choice,
            "text": piece.text,
            "logprobs": self._logprobs(piece.tokens) if self._with_logprobs else None,
            "finish_reason": piece.finish_reason,
            "token_ids": [token.id for token in piece.tokens],
        }

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        return {
            "tokens": [self._spelled(token.id)[0] for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": [token.offset for token in tokens],
            "content": self._content(tokens),
        }

    def _top(self, token: Token) -> dict[str, float] | None:
        """The most probable tokens, and the one that stands here even where it is not among them."""
        if token.logprob is None:
            return None
        top = {self._spelled(rival.id)[0]: rival.logprob for rival in token.top}
        return top | {self._spelled(token.id)[0]: token.logprob}


class ChatAnswer(Answer):
    kind = ("chat.completion", "chat.completion.chunk")
    prefix = "chatcmpl"

    def __init__(self, model: str, backend: Backend, request: ChatRequest) -> None:
        super().__init__(model, backend)
        self._with_logprobs = request.logprobs

    def begin(self, generation: Generation) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": ""}
        return [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            for index in range(generation.n_choices)
        ]

    def delta(self, piece: Piece) -> dict[str, Any]:
        return self._outer(piece) | {"delta": {"content": piece.text} if piece.text or piece.tokens else {}}

    def _choice(self, piece: Piece) -> dict[str, Any]:
        return self._outer(piece) | {"message": {"role": "assistant", "content": piece.text, "refusal": None}}

    def _outer(self, piece: Piece) -> dict[str, Any]:
        logprobs = {"content": self._content(piece.tokens), "refusal": None} if self._with_logprobs else None
        return {
            "index": piece.choice,
            "logprobs": logprobs,
            "finish_reason": piece.finish_reason,
            "token_ids": [token.id for token in piece.tokens],
        }


def usage(generation: Generation) -> dict[str, int]:
    """A prompt counts once, however many completions it has; every sampled token counts, those cut off too."""
    n_prompt, n_completion = generation.n_prompt_tokens, generation.n_completion_tokens
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
    }


def completion_job(request: CompletionRequest) -> Job:
    return Job(
        prompts=request.prompts,
        n=request.n,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=request.stops,
        seed=request.seed,
        echo=request.echo,
        top_logprobs=request.logprobs,
    )


def chat_job(request: ChatRequest) -> Job:
    wanted = request.max_completion_tokens
    return Job(
        messages=[message.plain() for message in request.messages],
        continue_final_message=request.continue_final_message,
        n=request.n,
        max_tokens=request.max_tokens if wanted is None else wanted,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=request.stops,
        seed=request.seed,
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )
