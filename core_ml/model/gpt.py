"""A decoder-only transformer that is, by its config, GPT-2, Llama, Qwen, Gemma 2, SmolLM or the lab's own.

The lab's own departs from Llama: norms have no weights, queries and keys are normalized per head, the embedding
is normalized, the feed-forward squares a ReLU, and the projections that write to the residual stream start at
zero, so that the untrained network is the identity.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core_ml.model.attention import attend, capped
from core_ml.model.config import GPTConfig, RopeScaling

__all__ = ["GPT", "Cache", "GPTConfig"]

ACTIVATIONS = {
    "relu2": lambda x: F.relu(x).square(),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


class Cache:
    """Keys and values of the tokens seen so far, for generation; `length` of them are filled."""

    def __init__(self, model: "GPT", batch: int, size: int) -> None:
        config = model.config
        shape = (batch, config.n_kv_head, size, config.d_head)
        with torch.no_grad():
            # A product tells the type that attention will meet, with and without autocast.
            probe = torch.zeros(1, config.d_model, device=model.device)
            dtype = F.linear(probe, model.embedding.weight).dtype
        self.keys = [torch.zeros(shape, dtype=dtype, device=model.device) for _ in range(config.n_layer)]
        self.values = [torch.zeros_like(key) for key in self.keys]
        self.length = 0

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, n_kv_head, T, d_head) after what is there; returns everything up to and with it."""
        end = self.length + key.size(2)
        self.keys[layer][:, :, self.length : end] = key
        self.values[layer][:, :, self.length : end] = value
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows of the batch only."""
        self.keys = [key[rows] for key in self.keys]
        self.values = [value[rows] for value in self.values]


class Norm(nn.Module):
    """RMSNorm or LayerNorm over the last dimension, with or without a learned scale and shift."""

    def __init__(self, config: GPTConfig, width: int, weight: bool = True, bias: bool = True) -> None:
        super().__init__()
        self.kind, self.eps = config.norm, config.norm_eps or torch.finfo(torch.float32).eps
        self.one_plus = config.norm_weight == "one_plus"
        weighted = weight and config.norm_weight is not None
        first = torch.zeros(width) if self.one_plus else torch.ones(width)
        self.weight = nn.Parameter(first) if weighted else None
        self.bias = nn.Parameter(torch.zeros(width)) if weighted and bias and config.norm_bias else None

    @property
    def scale(self) -> Tensor | None:
        return self.weight + 1 if self.one_plus and self.weight is not None else self.weight

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "layer":
            return F.layer_norm(x, (x.size(-1),), self.scale, self.bias, self.eps)
        return F.rms_norm(x, (x.size(-1),), self.scale, self.eps)


class Block(nn.Module):
    """Attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        d, d_head = config.d_model, config.d_head
        heads = config.n_head + 2 * config.n_kv_head
        self.qkv = nn.Linear(d, heads * d_head, bias=config.qkv_bias)
        self.out = nn.Linear(config.n_head * d_head, d, bias=config.out_bias)
        # Where it is gated, the first half of its outputs is activated and multiplies the second.
        self.up = nn.Linear(d, config.d_ff * (2 if config.gated else 1), bias=config.ff_bias)
        self.down = nn.Linear(config.d_ff, d, bias=config.ff_bias)
        self.norm1, self.norm2 = Norm(config, d), Norm(config, d)
        self.post_norm1 = Norm(config, d) if config.post_norm else nn.Identity()
        self.post_norm2 = Norm(config, d) if config.post_norm else nn.Identity()
        weighted = config.qk_norm == "weighted"
        self.q_norm = Norm(config, d_head, weighted, bias=False) if config.qk_norm else nn.Identity()
        self.k_norm = Norm(config, d_head, weighted, bias=False) if config.qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, rotation: "Rotation | None", mask: Tensor | None, cache: Cache | None = None
    ) -> Tensor:
        """x: (B, T, d_model); mask: bool, true where a query may look, broadcastable to (B, 1, T, S)."""
        config, (B, T, _) = self.config, x.shape
        heads = self.qkv(self.norm1(x)).view(B, T, -1, config.d_head).transpose(1, 2)
        q, k, v = heads.split((config.n_head, config.n_kv_head, config.n_kv_head), dim=1)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        q, k = q.to(v.dtype), k.to(v.dtype)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        y = attend(q, k, v, mask, config.scale, config.attention_softcap)
        x = x + self.post_norm1(self.out(y.transpose(1, 2).reshape(B, T, -1)))
        return x + self.post_norm2(self.feed_forward(self.norm2(x)))

    def feed_forward(self, x: Tensor) -> Tensor:
        inner, activate = self.up(x), ACTIVATIONS[self.config.activation]
        if self.config.gated:
            gate, inner = inner.chunk(2, dim=-1)
            return self.down(activate(gate) * inner)
        return self.down(activate(inner))


class GPT(nn.Module):
    """The network. `hidden` reads tokens; `logits` and `value` read hidden states."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        d = config.d_model
        self.embedding = nn.Embedding(config.vocab_size, d)
        self.positions = nn.Embedding(config.max_seq_len, d) if config.positions == "learned" else None
        self.blocks: list[Block] = nn.ModuleList([Block(config, n) for n in range(config.n_layer)])  # type: ignore[assignment]
        self.norm = Norm(config, d)
        self.head = None if config.tie_embeddings else nn.Linear(d, config.vocab_size, bias=False)
        self.value_head = nn.Linear(d, 1, bias=False) if config.value_head else None
        self.cos: Tensor
        self.sin: Tensor
        if config.positions == "rope":
            cos, sin = rotary(config.max_seq_len, config.d_head, config.rope_theta, config.rope_scaling)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        self._initialize()

    def _initialize(self) -> None:
        for block in self.blocks:
            for layer in (block.qkv, block.up):
                nn.init.normal_(layer.weight, std=self.config.d_model**-0.5)
            for layer in (block.out, block.down):
                nn.init.zeros_(layer.weight)
            for layer in (block.qkv, block.up, block.out, block.down):
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        # A normalized embedding may be of any size; where it is the head as well, small logits come first.
        wide = self.head is not None and self.config.embedding_norm
        nn.init.normal_(self.embedding.weight, std=1.0 if wide else 0.02)
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=0.02)
        for head in (self.head, self.value_head):
            if head is not None:
                nn.init.zeros_(head.weight)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """(B, T) token ids at (B, T) or (1, T) positions to the residual stream (B, T, d_model)."""
        x = self.embedding(ids)
        if self.config.embedding_scale is not None:
            x = x * self.config.embedding_scale
        if self.positions is not None:
            x = x + self.positions(positions)
        return F.rms_norm(x, (x.size(-1),), None, self.norm.eps) if self.config.embedding_norm else x

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        cache: Cache | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the last layer, normalized.

        Args:
            ids: (B, T) token ids.
            positions: (B, T) or (1, T); by default they go on from what the cache holds.
            cache: keys and values of the tokens before `ids`; these are added to it.
            mask: bool, True where a query may look, broadcastable to (B, 1, T, S) with S the cached tokens
                and these; causal by default.
        Returns: (B, T, d_model).
        Raises: ValueError when there are more tokens than `max_seq_len`.
        """
        T, past = ids.size(1), cache.length if cache else 0
        if positions is None:
            if past + T > self.config.max_seq_len:
                raise ValueError(f"{past + T} tokens do not fit in max_seq_len {self.config.max_seq_len}")
            positions = torch.arange(past, past + T, device=ids.device)[None]
        if mask is None and past:
            mask = torch.ones(T, past + T, dtype=torch.bool, device=ids.device).tril(past)
        x = self.embed(ids, positions)
        rotation = self.rotation(positions)
        masks = self._masks(mask, T, past, ids.device)
        for block in self.blocks:
            turned = rotation if self.config.rotates(block.layer) else None
            x = block(x, turned, masks[self.config.window_of(block.layer) is not None], cache)
        if cache is not None:
            cache.length += T
        return self.norm(x)

    def rotation(self, positions: Tensor) -> "Rotation | None":
        """Cosines and sines, (B or 1, 1, T, d_head / 2) each."""
        if self.config.positions != "rope":
            return None
        return self.cos[positions][:, None], self.sin[positions][:, None]

    def _masks(
        self, mask: Tensor | None, T: int, past: int, device: torch.device
    ) -> tuple[Tensor | None, Tensor | None]:
        """The mask of layers that see everything, and of those with a window."""
        window = self.config.window
        if window is None or past + T <= window:
            return mask, mask
        whole = torch.ones(T, past + T, dtype=torch.bool, device=device).tril(past) if mask is None else mask
        # Rows and columns are places in the cache: the distance between two tokens, padded or not.
        return mask, whole & torch.ones(T, past + T, dtype=torch.bool, device=device).triu(past - window + 1)

    @property
    def head_weight(self) -> Tensor:
        """(vocab_size, d_model)"""
        return self.embedding.weight if self.head is None else self.head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, d_model) to (…, vocab_size) float32."""
        return capped(F.linear(hidden, self.head_weight).float(), self.config.logit_softcap)

    def value(self, hidden: Tensor) -> Tensor:
        """Scores of a reward model: hidden states (B, d_model) of the last tokens to (B,) float32."""
        if self.value_head is None:
            raise ValueError("this network has no value head: make one by `with_value_head`")
        return F.linear(hidden.float(), self.value_head.weight.float())[..., 0]

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) token ids to (B, T, vocab_size) logits of the next token."""
        return self.logits(self.hidden(ids))

    def with_value_head(self) -> "GPT":
        """A copy of this network with a value head that scores everything 0."""
        copy = GPT(self.config.model_copy(update={"value_head": True})).to(self.device)
        copy.load_state_dict({"value_head.weight": torch.zeros(1, self.config.d_model), **self.state_dict()})
        return copy


Rotation = tuple[Tensor, Tensor]


def rotary(length: int, d_head: int, theta: float, scaling: RopeScaling | None = None) -> Rotation:
    """Cosine and sine of each position's angle in each plane, (length, d_head / 2).

    Source: Su et al. 2021, arXiv:2104.09864; planes join the two halves of a head, as in GPT-NeoX.
    """
    frequencies = theta ** (-torch.arange(0, d_head, 2, dtype=torch.float32) / d_head)
    if scaling is not None:
        frequencies = _slowed(frequencies, scaling)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
    return angles.cos(), angles.sin()


def _slowed(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    turns = scaling.original_max_seq_len * frequencies / (2 * torch.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn (B, heads, T, d_head) by its positions' angles."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
