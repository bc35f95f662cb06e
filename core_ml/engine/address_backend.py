"""Models of another OpenAI-compatible server: vLLM on a rack, LM Studio, a hosted one.

Each choice is a request of its own, since not every server knows `n`; a seed is counted on by the choice's number.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from core_ml.engine.backend import Call, Job, Piece, Rival, Token
from core_ml.engine.errors import ApiError
from core_ml.engine.gathered import Gathered
from core_ml.engine.remote import Endpoint, Remote
from core_ml.engine.schemas import BEYOND

AT_ONCE = 8
"""Requests that one job has under way: a server elsewhere is not ours to flood."""
REASONS = {"stop", "length", "tool_calls", "content_filter"}


class AddressBackend:
    """One model at one server. Implements `core_ml.engine.backend.Backend`."""

    takes = frozenset(BEYOND) - {"guided_regex"}
    n_bytes = 0
    is_gone = False

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self.model, self.remote = model, Remote(endpoint)
        self.fingerprint = "address-" + hashlib.sha256(f"{endpoint.base} {model}".encode()).hexdigest()[:12]
        self._n_running = 0
        self._closing: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        return self._n_running > 0

    async def start(self, job: Job) -> Gathered:
        return await begin_remote(self.remote, self.model, job, self._one_more())

    def _one_more(self) -> Any:
        self._n_running += 1

        def ended() -> None:
            self._n_running -= 1

        return ended

    def spelled(self, id: int) -> tuple[str, bytes | None]:
        raise AssertionError("tokens of an address spell themselves")

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # the engine is ending: its connections end with it
            self._closing = asyncio.get_running_loop().create_task(self.remote.close())


async def begin_remote(
    remote: Remote, model: str, job: Job, ended: Any, extra: dict[str, Any] | None = None
) -> Gathered:
    """A job as requests to a server that speaks the protocol. `extra` stands in each of their bodies."""
    asked: list[Any] = [None] if job.messages is not None else list(job.prompts)
    generation: Gathered

    def source(prompt: Any, choice: int) -> Any:
        path, body = _body(model, job, prompt, choice)
        reader = _Choice(choice, chat=job.messages is not None, echoes=job.echo)

        async def pieces() -> AsyncIterator[Piece]:
            async for event in remote.stream(path, body | (extra or {})):
                try:
                    piece = reader.take(event)
                except (KeyError, TypeError, ValueError, AttributeError, IndexError):
                    name = remote.endpoint.name
                    raise ApiError(502, f"{name} does not speak OpenAI's protocol") from None
                if piece is not None:
                    yield piece
            # A prompt counts once, however many choices it has.
            generation.n_prompt_tokens += reader.n_prompt if choice % job.n == 0 else 0
            generation.n_completion_tokens += reader.n_completion
            if not reader.has_ended:
                yield Piece(choice, "", finish_reason="stop")

        return pieces

    sources = [
        source(prompt, place * job.n + k) for place, prompt in enumerate(asked) for k in range(job.n)
    ]  # fmt: skip
    generation = Gathered(sources, AT_ONCE, ended)
    return await generation.begin()


def _body(model: str, job: Job, prompt: Any, choice: int) -> tuple[str, dict[str, Any]]:
    """Only what was asked for: servers refuse fields that they do not know."""
    streams = not job.echo
    body: dict[str, Any] = {"model": model, "temperature": job.temperature, "stream": streams}
    if streams:
        body["stream_options"] = {"include_usage": True}
    plain = {"top_p": 1.0, "top_k": None, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
             "frequency_penalty": 0.0, "response_format": None, "max_tokens": None}  # fmt: skip
    for name, neutral in plain.items():
        if (value := getattr(job, name)) != neutral:
            body[name] = value
    if job.stop:
        body["stop"] = list(job.stop)
    if job.logit_bias:
        body["logit_bias"] = {str(id): bias for id, bias in job.logit_bias}
    if job.seed is not None:
        body["seed"] = job.seed + choice
    if job.messages is None:
        body["prompt"] = prompt
        if job.top_logprobs is not None:
            body["logprobs"] = job.top_logprobs
        return "/completions", body | ({"echo": True} if job.echo else {})
    body["messages"] = job.messages
    if job.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": job.top_logprobs}
    if job.continue_final_message:
        # As vLLM names it; a server that does not know it begins a new message.
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if job.tools:
        body["tools"] = job.tools
        named = job.tool_choice not in (None, "none", "auto", "required")
        choice_ = {"type": "function", "function": {"name": job.tool_choice}} if named else job.tool_choice
        body |= {} if choice_ is None else {"tool_choice": choice_}
    return "/chat/completions", body


class _Choice:
    """Reads the events of one choice."""

    def __init__(self, choice: int, chat: bool, echoes: bool) -> None:
        self.choice, self.chat, self.echoes = choice, chat, echoes
        self.has_ended = False
        self.n_prompt = self.n_completion = 0
        self._n_chars = 0

    def take(self, event: dict[str, Any]) -> Piece | None:
        if usage := event.get("usage"):
            self.n_prompt = int(usage.get("prompt_tokens") or 0)
            self.n_completion = int(usage.get("completion_tokens") or 0)
        choices = event.get("choices") or []
        if not choices or self.has_ended:
            return None
        told = choices[0]
        said = (told.get("delta") or told.get("message") or {}) if self.chat else told
        text = said.get("content" if self.chat else "text") or ""
        if not isinstance(text, str):
            raise TypeError("text is no text")
        reason = told.get("finish_reason")
        if reason is not None:
            self.has_ended, reason = True, reason if reason in REASONS else "stop"
        tokens = self._tokens(told.get("logprobs") or {})
        self._n_chars += len(text)
        calls = tuple(map(_call, said.get("tool_calls") or ())) if self.chat else ()
        return Piece(self.choice, text, tokens, reason, calls)

    def _tokens(self, logprobs: dict[str, Any]) -> list[Token]:
        entries = logprobs.get("content")
        if entries is None and logprobs.get("tokens"):
            entries = _as_chat(logprobs)
        at, tokens = self._n_chars, []
        for entry in entries or []:
            token, rivals = _rival(entry), [_rival(rival) for rival in entry.get("top_logprobs") or ()]
            logprob = None if entry.get("logprob") is None else token.logprob
            tokens.append(Token(token.id, logprob, rivals, at, token.text, token.data))
            at += len((token.data or b"").decode("utf-8", "ignore"))
        return tokens


def _as_chat(logprobs: dict[str, Any]) -> list[dict[str, Any]]:
    """The lists of a completion's log-probabilities as the entries that a chat has."""
    tokens, values = logprobs["tokens"], logprobs["token_logprobs"]
    tops: Sequence[Any] = logprobs.get("top_logprobs") or [None] * len(tokens)
    return [
        {"token": text, "logprob": value}
        | {"top_logprobs": [{"token": name, "logprob": one} for name, one in (top or {}).items()]}
        for text, value, top in zip(tokens, values, tops, strict=True)
    ]


def _rival(entry: dict[str, Any]) -> Rival:
    text, data = str(entry["token"]), entry.get("bytes")
    spelled = bytes(data) if data is not None else None if text.startswith("bytes:") else text.encode()
    id = entry.get("id")
    logprob = entry.get("logprob")
    return Rival(id if isinstance(id, int) else -1, 0.0 if logprob is None else float(logprob), text, spelled)


def _call(told: dict[str, Any]) -> Call:
    function = told.get("function") or {}
    name = function.get("name")
    return Call(int(told.get("index") or 0), told.get("id"), name, str(function.get("arguments") or ""))
