"""The answers of both endpoints, whole and streamed, as OpenAI's clients read them.

What goes beyond them, where clients pass over it: `token_ids` of each choice, an `id` with each token's
log-probability, and for completions the same `content` list of log-probabilities that chat answers have.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from core_ml.engine.backend import Backend, Call, Generation, Job, Piece, Rival, Token
from core_ml.engine.schemas import ChatRequest, CompletionRequest, SamplingRequest

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
                piece.choice,
                before.text + piece.text,
                before.tokens + piece.tokens,
                piece.finish_reason or before.finish_reason,
                before.calls + piece.calls,
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
            self._scored(token) | {"top_logprobs": [self._scored(rival) for rival in token.top]}
            for token in tokens
        ]

    def _scored(self, token: Token | Rival) -> dict[str, Any]:
        text, data = self._spelling(token)
        bytes_ = None if data is None else list(data)
        return {
            "token": text,
            "bytes": bytes_,
            "logprob": token.logprob,
            "id": token.id if token.id >= 0 else None,
        }

    def _spelling(self, token: Token | Rival) -> tuple[str, bytes | None]:
        if token.text is not None:
            return token.text, token.data
        return self._spelled(token.id)


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
            "token_ids": [token.id for token in piece.tokens if token.id >= 0],
        }

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        return {
            "tokens": [self._spelling(token)[0] for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": [token.offset for token in tokens],
            "content": self._content(tokens),
        }

    def _top(self, token: Token) -> dict[str, float] | None:
        """The most probable tokens, and the one that stands here even where it is not among them."""
        if token.logprob is None:
            return None
        top = {self._spelling(rival)[0]: rival.logprob for rival in token.top}
        return top | {self._spelling(token)[0]: token.logprob}


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
        delta: dict[str, Any] = (
            {"content": piece.text} if piece.text or (piece.tokens and not piece.calls) else {}
        )
        if piece.calls:
            delta["tool_calls"] = [_delta(call) for call in piece.calls]
        return self._outer(piece) | {"delta": delta}

    def _choice(self, piece: Piece) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": piece.text, "refusal": None}
        if piece.calls:
            message |= {"content": piece.text or None, "tool_calls": _joined(piece.calls)}
        return self._outer(piece) | {"message": message}

    def _outer(self, piece: Piece) -> dict[str, Any]:
        logprobs = {"content": self._content(piece.tokens), "refusal": None} if self._with_logprobs else None
        return {
            "index": piece.choice,
            "logprobs": logprobs,
            "finish_reason": piece.finish_reason,
            "token_ids": [token.id for token in piece.tokens if token.id >= 0],
        }


def _delta(call: Call) -> dict[str, Any]:
    """A part of a call as streams have it; what names the call stands in its first part only."""
    function = {"arguments": call.arguments} | ({} if call.name is None else {"name": call.name})
    first = {} if call.id is None else {"id": call.id, "type": "function"}
    return {"index": call.index, "function": function} | first


def _joined(parts: Sequence[Call]) -> list[dict[str, Any]]:
    calls: dict[int, dict[str, Any]] = {}
    for part in parts:
        call = calls.setdefault(
            part.index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = part.id or call["id"]
        call["function"]["name"] = part.name or call["function"]["name"]
        call["function"]["arguments"] += part.arguments
    return list(calls.values())


def usage(generation: Generation) -> dict[str, int]:
    """A prompt counts once, however many completions it has; every sampled token counts, those cut off too."""
    n_prompt, n_completion = generation.n_prompt_tokens, generation.n_completion_tokens
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
    }


def completion_job(request: CompletionRequest, client: str) -> Job:
    return Job(
        client=client,
        prompts=request.prompts,
        max_tokens=request.max_tokens,
        echo=request.echo,
        top_logprobs=request.logprobs,
        **_sampling(request),
    )


def chat_job(request: ChatRequest, client: str) -> Job:
    wanted = request.max_completion_tokens
    return Job(
        client=client,
        messages=[message.plain() for message in request.messages],
        tools=[tool.model_dump(exclude_none=True) for tool in request.tools],
        tool_choice=request.choice,
        continue_final_message=request.continue_final_message,
        max_tokens=request.max_tokens if wanted is None else wanted,
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        **_sampling(request),
    )


def _sampling(request: SamplingRequest) -> dict[str, Any]:
    same = ("n", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
            "frequency_penalty", "seed", "response_format", "guided_regex")  # fmt: skip
    biases = tuple((int(id), bias) for id, bias in (request.logit_bias or {}).items())
    given = {name: getattr(request, name) for name in same}
    return given | {"stop": request.stops, "logit_bias": biases, "streams": request.stream}
