"""The shape of a network, readable without torch.

The defaults are the lab's own network; the other values are those of the families that the world publishes.
`core_ml.model.families` says which belong to which.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Activation = Literal["relu2", "gelu", "gelu_tanh", "silu"]


class RopeScaling(BaseModel):
    """How angles are slowed down so that a network reads further than it was first trained to.

    "linear" divides every frequency by `factor`; "llama3" only the low ones, with a ramp between. Source: Chen et
    al. 2023, arXiv:2306.15595, and the Llama 3.1 release.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["linear", "llama3"]
    factor: float = Field(gt=0)
    low_freq_factor: float = Field(default=1.0, gt=0)
    high_freq_factor: float = Field(default=4.0, gt=0)
    original_max_seq_len: int = Field(default=8192, ge=1)


class GPTConfig(BaseModel):
    """One decoder for all families. Patterns are cycled over the layers, the first of which is layer 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(ge=1, le=1_000_000)
    n_layer: int = Field(default=4, ge=1, le=256)
    d_model: int = Field(default=128, ge=8, le=16_384)
    max_seq_len: int = Field(default=512, ge=8, le=1_048_576)

    n_head: int = Field(default=4, ge=1, le=256)
    n_kv_head: int = Field(default=4, ge=1, le=256)
    """Each serves n_head / n_kv_head query heads: grouped-query attention."""
    head_width: int | None = Field(default=None, ge=2, le=1024)
    """None is d_model / n_head."""
    qk_norm: Literal["plain", "weighted"] | None = "plain"
    qkv_bias: bool = False
    out_bias: bool = False
    attention_scale: float | None = Field(default=None, gt=0)
    """What scores are multiplied by; None is one over the root of a head's width."""
    attention_softcap: float | None = Field(default=None, gt=0)
    window: int | None = Field(default=None, ge=1)
    """How many tokens back, itself included, a query of a windowed layer may look."""
    window_pattern: tuple[bool, ...] = Field(default=(True,), min_length=1, max_length=256)

    positions: Literal["rope", "learned"] = "rope"
    rope_theta: float = Field(default=10_000.0, gt=1)
    rope_scaling: RopeScaling | None = None
    rope_pattern: tuple[bool, ...] = Field(default=(True,), min_length=1, max_length=256)

    norm: Literal["rms", "layer"] = "rms"
    norm_weight: Literal["plain", "one_plus"] | None = None
    """A learned scale of each channel; "one_plus" keeps it as its difference from one."""
    norm_bias: bool = False
    norm_eps: float | None = Field(default=None, gt=0)
    """None is float32's rounding."""
    post_norm: bool = False
    """Norms behind attention and feed-forward too."""
    embedding_norm: bool = True
    embedding_scale: float | None = Field(default=None, gt=0)

    activation: Activation = "relu2"
    gated: bool = False
    """The feed-forward's inner layer is multiplied by an activated twin of itself."""
    ff_mult: float = Field(default=3, gt=0, le=16)
    ff_width: int | None = Field(default=None, ge=1, le=1 << 20)
    """None is ff_mult × d_model."""
    ff_bias: bool = False

    tie_embeddings: bool = False
    logit_softcap: float | None = Field(default=None, gt=0)
    value_head: bool = False

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.head_width is None:
            check_heads(self.d_model, self.n_head, self.n_kv_head)
        elif self.n_head % self.n_kv_head or self.head_width % 2:
            raise ValueError(
                f"n_head {self.n_head} must be a multiple of n_kv_head {self.n_kv_head}, "
                f"and head_width {self.head_width} even"
            )
        return self

    @property
    def d_head(self) -> int:
        return self.head_width or self.d_model // self.n_head

    @property
    def d_ff(self) -> int:
        return self.ff_width or int(self.ff_mult * self.d_model)

    @property
    def scale(self) -> float:
        return self.attention_scale or self.d_head**-0.5

    def window_of(self, layer: int) -> int | None:
        return self.window if self.window_pattern[layer % len(self.window_pattern)] else None

    def rotates(self, layer: int) -> bool:
        return self.positions == "rope" and self.rope_pattern[layer % len(self.rope_pattern)]

    @property
    def n_parameters(self) -> int:
        embeddings = self.vocab_size * self.d_model * (1 if self.tie_embeddings else 2)
        learned = self.max_seq_len * self.d_model if self.positions == "learned" else 0
        blocks = self.n_layer * (self._n_matrices() + self._n_vectors())
        return embeddings + learned + blocks + self._n_norm(self.d_model) + self.value_head * self.d_model

    def flops_per_token(self, seq_len: int) -> float:
        """Floating-point operations to train on one token: 6 for each weight that multiplies, and attention.

        Source: Chowdhery et al. 2022, arXiv:2204.02311, appendix B; causal attention counted in full, as there.
        """
        multiplied = self.n_layer * self._n_matrices() + self.vocab_size * self.d_model
        return 6 * multiplied + 12 * self.n_layer * self.n_head * self.d_head * seq_len

    def _n_matrices(self) -> int:
        attention = self.d_model * self.d_head * (2 * self.n_head + 2 * self.n_kv_head)
        return attention + (3 if self.gated else 2) * self.d_model * self.d_ff

    def _n_vectors(self) -> int:
        qkv = self.d_head * (self.n_head + 2 * self.n_kv_head)
        biases = self.qkv_bias * qkv + self.out_bias * self.d_model
        biases += self.ff_bias * (self.d_model + self.d_ff * (2 if self.gated else 1))
        qk = 2 * self.d_head if self.qk_norm == "weighted" else 0
        return biases + qk + (4 if self.post_norm else 2) * self._n_norm(self.d_model)

    def _n_norm(self, width: int) -> int:
        return width * ((self.norm_weight is not None) + self.norm_bias)


ASPECT, HEAD_WIDTH, TUNED_WIDTH = 64, 64, 128


def sizes_of(depth: int) -> dict[str, int]:
    """One dial: a network of `depth` layers is 64 times as wide, in heads of 64.

    Source: the aspect ratio that nanochat uses; GPT-2 of 124 million parameters has it too.
    """
    d_model = ASPECT * depth
    n_head = d_model // HEAD_WIDTH
    return {"n_layer": depth, "d_model": d_model, "n_head": n_head, "n_kv_head": n_head}


def width_share(d_model: int) -> float:
    """What AdamW's learning rates, tuned at a width of 128, are multiplied by at another.

    The sum over a row grows with the root of its length, so that a step must shrink with it; Muon's updates have
    the same size at every width and need no share. Source: Yang et al. 2022, arXiv:2203.03466.
    """
    return (d_model / TUNED_WIDTH) ** -0.5


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
