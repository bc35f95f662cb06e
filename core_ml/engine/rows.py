"""A completion that a client waits for: its row in the batch, its text, and where its pieces go."""

from collections.abc import Callable
from dataclasses import dataclass, field

from core_ml.engine.backend import Piece
from core_ml.engine.text import TextStream
from core_ml.sampling import sampler


@dataclass(slots=True, eq=False, kw_only=True)
class Row(sampler.Row):
    """One choice under way. `emit` is called in the computing thread; nothing follows a finish reason."""

    choice: int
    text: TextStream
    emit: Callable[[Piece, int], None]
    """Takes the next piece, and how many tokens were sampled for it."""
    owner: object = field(default_factory=object)
    """The client whose row it is: places are shared out among owners, not among rows or requests."""
    top_logprobs: int | None = None
    """None where no log-probabilities are asked for."""
    echo: str | None = None
    """The prompt's text, when it is to stand before the completion."""
    n_hidden: int = 0
    """Tokens at the beginning of the prompt that the client did not write (`<|bos|>`)."""
    n_unsaid: int = 0
    """Spaces at the beginning of the prompt that a rule of the tokenizer wrote."""
    cancelled: bool = False

    def __post_init__(self) -> None:
        self.n_top = self.top_logprobs or 0
        self.scores_prompt = self.echo is not None and self.top_logprobs is not None
