"""The seam between the protocol and what runs a model: text or ids in, pieces of text with their tokens out."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from core_ml.tokenizer.tokenizer import Message

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class Rival:
    """A token that could stand at a place, with its log-probability there."""

    id: int
    logprob: float


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


@dataclass(frozen=True, slots=True)
class Piece:
    """The next part of one choice. The last one says why it ended."""

    choice: int
    text: str
    tokens: list[Token] = field(default_factory=list)
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What to sample: `n` completions of each prompt, or of one conversation."""

    prompts: list[str | list[int]] = field(default_factory=list)
    messages: list[Message] | None = None
    continue_final_message: bool = False
    n: int = 1
    max_tokens: int | None = None
    """None fills the context."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    echo: bool = False
    top_logprobs: int | None = None
    """None for no log-probabilities at all, which is quicker."""


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
    n_bytes: int
    """Memory that the model takes."""

    @property
    def is_busy(self) -> bool: ...

    async def start(self, job: Job) -> Generation:
        """Begin a job. Raises ApiError for what the model cannot do."""
        ...

    def spelled(self, id: int) -> tuple[str, bytes | None]:
        """A token as the protocol writes it, and its bytes, which a special token lacks."""
        ...
