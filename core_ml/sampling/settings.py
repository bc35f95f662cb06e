"""How one completion's tokens are drawn, readable without torch; and the fields by which a recipe lets people say it."""

from dataclasses import dataclass, fields
from typing import Annotated

from pydantic import Field

from core_ml.config import RecipeConfig, setting

GROUP = "Sampling"
# What any recipe that samples may offer: it names those that it heeds.
TopK = Annotated[
    int | None,
    setting(
        None, "Sample among this many likeliest tokens only; empty for all.", group=GROUP, ge=1, le=1_000_000
    ),
]
TopP = Annotated[
    float,
    setting(
        1.0,
        "Sample among the likeliest tokens that together reach this probability.",
        group=GROUP,
        gt=0,
        le=1,
    ),
]
MinP = Annotated[
    float,
    setting(
        0.0, "Leave out tokens below this share of the likeliest one's probability.", group=GROUP, ge=0, le=1
    ),
]
RepetitionPenalty = Annotated[
    float,
    setting(
        1.0,
        "Above 1, tokens that the prompt or the answer has already become less likely.",
        group=GROUP,
        gt=0,
        le=10,
    ),
]
PresencePenalty = Annotated[
    float,
    setting(0.0, "Taken once from the logit of each token that the answer has.", group=GROUP, ge=-2, le=2),
]
FrequencyPenalty = Annotated[
    float,
    setting(0.0, "Taken as often as the answer has the token.", group=GROUP, ge=-2, le=2),
]
StopStrings = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...],
    setting((), "Texts that end an answer, which is then given without them.", group=GROUP, max_length=16),
]


@dataclass(frozen=True, slots=True)
class Sampling:
    """OpenAI's and vLLM's names and meanings. Rows with equal settings are drawn together."""

    temperature: float = 1.0
    """0 takes the most probable token."""
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    """Keeps tokens of at least this share of the most probable one's probability."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens that the prompt or the completion has."""
    presence_penalty: float = 0.0
    """Taken once from the logits of tokens that the completion has."""
    frequency_penalty: float = 0.0
    """Taken as often as the completion has the token."""
    logit_bias: tuple[tuple[int, float], ...] = ()

    @property
    def changes_logits(self) -> bool:
        """Whether logits are changed, token by token, before temperature and truncation."""
        neutral = self.repetition_penalty == 1 and not self.presence_penalty and not self.frequency_penalty
        return bool(self.logit_bias) or not neutral


def sampling_of(config: RecipeConfig) -> dict[str, float | int | None]:
    """What a recipe's config says of the fields of `Sampling`."""
    names = [field.name for field in fields(Sampling)]
    return {name: getattr(config, name) for name in names if name in type(config).model_fields}
