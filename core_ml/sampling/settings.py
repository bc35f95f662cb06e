"""How one completion's tokens are drawn, readable without torch."""

from dataclasses import dataclass


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
