"""A decoder-only transformer: rotary positions, RMSNorm, grouped-query attention, squared ReLU.

Departures from Llama: norms have no weights, queries and keys are normalized per head, the embedding is
normalized, and the projections that write to the residual stream start at zero, so that the untrained
network is the identity. Attention is written out on a CPU at short context: the backward pass of its fused
bfloat16 kernel takes four times as long there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core_ml.model.config import GPTConfig

__all__ = ["GPT", "Cache", "GPTConfig"]

WRITTEN_OUT_UP_TO = 512  # keys; beyond that the score matrix costs more memory than the kernel costs time
HIDDEN = -1e4  # finite, so that a row of a left-padded batch that sees nothing stays finite too


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


class Block(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        d, n_kv = config.d_model, config.n_head + 2 * config.n_kv_head
        self.qkv = nn.Linear(d, n_kv * config.d_head, bias=False)
        self.out = nn.Linear(d, d, bias=False)
        self.up = nn.Linear(d, config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, d, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: Cache | None, layer: int
    ) -> Tensor:
        """x: (B, T, d_model); mask: bool, True where a query may look, broadcastable to (B, 1, T, S)."""
        config, (B, T, d) = self.config, x.shape
        heads = self.qkv(norm(x)).view(B, T, -1, config.d_head).transpose(1, 2)
        q, k, v = heads.split((config.n_head, config.n_kv_head, config.n_kv_head), dim=1)
        q, k = (rotate(norm(z), cos, sin).to(v.dtype) for z in (q, k))
        if cache is not None:
            k, v = cache.append(layer, k, v)
        y = attend(q, k, v, mask)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, d))
        return x + self.down(F.relu(self.up(norm(x))).square())


class GPT(nn.Module):
    """The network. `hidden` reads tokens; `logits` and `value` read hidden states."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks: list[Block] = nn.ModuleList([Block(config) for _ in range(config.n_layer)])  # type: ignore[assignment]
        self.head = (
            None if config.tie_embeddings else nn.Linear(config.d_model, config.vocab_size, bias=False)
        )
        self.value_head = nn.Linear(config.d_model, 1, bias=False) if config.value_head else None
        cos, sin = rotary(config.max_seq_len, config.d_head, config.rope_theta)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialize()

    def _initialize(self) -> None:
        for block in self.blocks:
            for layer in (block.qkv, block.up):
                nn.init.normal_(layer.weight, std=self.config.d_model**-0.5)
            for layer in (block.out, block.down):
                nn.init.zeros_(layer.weight)
        # The embedding is normalized when it is read; where it is the head as well, small logits come first.
        nn.init.normal_(self.embedding.weight, std=0.02 if self.head is None else 1.0)
        for head in (self.head, self.value_head):
            if head is not None:
                nn.init.zeros_(head.weight)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

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
        if mask is None and (past or written_out(ids.device, T)):
            mask = torch.ones(T, past + T, dtype=torch.bool, device=ids.device).tril(past)
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]  # (B, 1, T, d_head / 2)
        x = norm(self.embedding(ids))
        for layer, block in enumerate(self.blocks):
            x = block(x, cos, sin, mask, cache, layer)
        if cache is not None:
            cache.length += T
        return norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, d_model) to (…, vocab_size) float32."""
        weight = self.embedding.weight if self.head is None else self.head.weight
        return F.linear(hidden, weight).float()

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


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))


def rotary(length: int, d_head: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angle in each plane, (length, d_head / 2).

    Source: Su et al. 2021, arXiv:2104.09864; planes join the two halves of a head, as in GPT-NeoX.
    """
    frequencies = theta ** (-torch.arange(0, d_head, 2, dtype=torch.float32) / d_head)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn (B, heads, T, d_head) by its positions' angles."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def written_out(device: torch.device, n_keys: int) -> bool:
    return device.type == "cpu" and n_keys <= WRITTEN_OUT_UP_TO


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Grouped-query attention: q (B, n_head, T, d_head), k and v (B, n_kv_head, S, d_head) to q's shape.

    No mask means causal, with S = T, which the fused kernels know how to skip.
    Source: Ainslie et al. 2023, arXiv:2305.13245.
    """
    if mask is None or not written_out(q.device, k.size(2)):
        # Repeated here: not every fused kernel takes shared heads, and those that do not fall back silently.
        k, v = (z.repeat_interleave(q.size(1) // z.size(1), dim=1) for z in (k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    B, n_head, T, d_head = q.shape
    n_kv_head, S = k.shape[1:3]
    # Query heads that share a key head are stacked along time: no key is copied.
    q = q.reshape(B, n_kv_head, -1, d_head)
    scores = ((q @ k.mT) * d_head**-0.5).view(B, n_kv_head, -1, T, S)
    mask = mask if mask.dim() < 4 else mask[:, :, None]
    weights = scores.masked_fill(~mask, HIDDEN).softmax(-1).to(v.dtype)
    return (weights.view(B, n_kv_head, -1, S) @ v).view(B, n_head, T, d_head)
