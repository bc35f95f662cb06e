"""The shape of a network, readable without torch."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class GPTConfig(BaseModel):
    """Sizes of a GPT. One key-value head serves `n_head / n_kv_head` query heads (grouped-query attention)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(ge=1, le=1_000_000)
    n_layer: int = Field(default=4, ge=1, le=256)
    n_head: int = Field(default=4, ge=1, le=256)
    n_kv_head: int = Field(default=4, ge=1, le=256)
    d_model: int = Field(default=128, ge=8, le=16_384)
    ff_mult: float = Field(default=3, gt=0, le=16)
    max_seq_len: int = Field(default=512, ge=8, le=1_048_576)
    rope_theta: float = Field(default=10_000.0, gt=1)
    tie_embeddings: bool = False
    value_head: bool = False

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        check_heads(self.d_model, self.n_head, self.n_kv_head)
        return self

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_head

    @property
    def d_ff(self) -> int:
        return int(self.ff_mult * self.d_model)

    @property
    def n_parameters(self) -> int:
        embeddings = self.vocab_size * self.d_model * (1 if self.tie_embeddings else 2)
        return embeddings + self.n_layer * self._n_block() + self.value_head * self.d_model

    def flops_per_token(self, seq_len: int) -> float:
        """Floating-point operations to train on one token: 6 for each weight that multiplies, and attention.

        Source: Chowdhery et al. 2022, arXiv:2204.02311, appendix B; causal attention counted in full, as there.
        """
        multiplied = self.n_layer * self._n_block() + self.vocab_size * self.d_model
        return 6 * multiplied + 12 * self.n_layer * self.d_model * seq_len

    def _n_block(self) -> int:
        attention = self.d_model * self.d_head * (2 * self.n_head + 2 * self.n_kv_head)
        return attention + 2 * self.d_model * self.d_ff


def check_heads(d_model: int, n_head: int, n_kv_head: int) -> None:
    """Raises ValueError that names the sizes which do not divide, and what to choose."""
    if d_model % n_head:
        raise ValueError(
            f"d_model {d_model} must be a multiple of n_head {n_head}: try {_near(d_model, n_head)}"
        )
    if d_model // n_head % 2:
        raise ValueError(
            f"d_model / n_head is {d_model // n_head}, and rotary positions need an even number: "
            f"try d_model {_near(d_model, 2 * n_head)}"
        )
    if n_head % n_kv_head:
        raise ValueError(
            f"n_head {n_head} must be a multiple of n_kv_head {n_kv_head}: try n_kv_head {n_head}"
        )


def _near(value: int, divisor: int) -> int:
    return max(1, round(value / divisor)) * divisor
