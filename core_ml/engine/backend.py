"""The seam between the protocol and what runs a model: text or ids in, pieces of text with their tokens out."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "error"]


@dataclass(frozen=True, slots=True)
class Rival:
    """A token that could stand at a place, with its log-probability there.

    A server elsewhere tells no ids (`id` is -1), but how its tokens are spelled: `text`, and `data` where it tells
    bytes.
    """

    id: int
    logprob: float
    text: str | None = None
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a prompt or a completion.

    `logprob` is the model's own (temperature 1, untruncated); None for the first token of a prompt, which
    nothing comes before. `offset` counts characters from the beginning of the choice's text.
    """

    id: int
    logprob: float | None
    top: Sequence[Rival] = ()
    offset: int = 0
    text: str | None = None
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """The next part of one call of a tool: `id` and `name` come with its first part, `arguments` are JSON."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """The next part of one choice. The last one says why it ended."""

    choice: int
    text: str
    tokens: list[Token] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """What to sample: `n` completions of each prompt, or of one conversation."""

    prompts: list[str | list[int]] = field(default_factory=list)
    messages: list[dict[str, Any]] | None = None
    """As the protocol has them: role, content as text, tool_calls, tool_call_id."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    """As the protocol has them: {"type": "function", "function": {"name", "description", "parameters"}}."""
    tool_choice: str | None = None
    """"none", "auto", "required", or the name of the tool that must be called."""
    continue_final_message: bool = False
    n: int = 1
    max_tokens: int | None = None
    """None fills the context."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    response_format: dict[str, Any] | None = None
    """As the protocol has it: json_object, or json_schema with its schema."""
    guided_regex: str | None = None
    """What a completion must match as a whole."""
    stop: tuple[str, ...] = ()
    seed: int | None = None
    echo: bool = False
    streams: bool = True
    """Whether pieces are wanted as they come; a whole answer at the end costs less on the way."""
    top_logprobs: int | None = None
    """None for no log-probabilities at all, which is quicker."""
    client: str = ""
    """Who asks: places are shared out among clients. Empty for a client of its own."""


class Generation(Protocol):
    """A job under way. Iterate it for pieces; `close` stops what is left, and does nothing when all is done."""

    n_choices: int
    n_prompt_tokens: int
    n_completion_tokens: int

    def __aiter__(self) -> AsyncIterator[Piece]: ...

    def close(self) -> None: ...


class Backend(Protocol):
    """One loaded model."""

    fingerprint: str
    """Changes when anything does that may change an answer: weights, library, device."""
    takes: frozenset[str]
    """Which of the fields in `core_ml.engine.schemas.BEYOND` it knows; a request with another one is refused."""

    @property
    def n_bytes(self) -> int:
        """Memory that the model takes, with what its jobs will come to take."""
        ...

    @property
    def is_busy(self) -> bool: ...

    @property
    def is_gone(self) -> bool:
        """Whether it has ended by itself, so that it must be opened anew."""
        ...

    async def start(self, job: Job) -> Generation:
        """Begin a job. Raises ApiError for what the model cannot do."""
        ...

    def close(self) -> None:
        """Give back what it holds. It is asked nothing after this."""
        ...

    def spelled(self, id: int) -> tuple[str, bytes | None]:
        """A token as the protocol writes it, and its bytes, which a special token lacks."""
        ...
