"""The decoder a second time, in NumPy and float64, one sequence and one head at a time: what ours must equal.

Written from the papers and from the config's own words, it shares no line with `core_ml.model.gpt`.
"""

import math

import numpy as np
from numpy.typing import NDArray

from core_ml.model.config import GPTConfig

Array = NDArray[np.float64]
erf = np.vectorize(math.erf)


def forward(weights: dict[str, Array], config: GPTConfig, ids: list[int]) -> Array:
    """Logits (T, vocab_size) of one sequence."""
    x = weights["embedding.weight"][ids]
    if config.embedding_scale is not None:
        x = x * config.embedding_scale
    if config.positions == "learned":
        x = x + weights["positions.weight"][: len(ids)]
    if config.embedding_norm:
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps(config))
    for layer in range(config.n_layer):
        mine = {
            name.split(".", 2)[2]: value
            for name, value in weights.items()
            if name.startswith(f"blocks.{layer}.")
        }
        change = attention(mine, config, layer, norm(mine, "norm1", config, x))
        x = x + (norm(mine, "post_norm1", config, change) if config.post_norm else change)
        change = feed_forward(mine, config, norm(mine, "norm2", config, x))
        x = x + (norm(mine, "post_norm2", config, change) if config.post_norm else change)
    head = weights["embedding.weight" if config.tie_embeddings else "head.weight"]
    logits = norm(weights, "norm", config, x) @ head.T
    return capped(logits, config.logit_softcap)


def attention(mine: dict[str, Array], config: GPTConfig, layer: int, x: Array) -> Array:
    T, width = len(x), config.d_head
    joined = linear(mine, "qkv", x).reshape(T, -1, width)
    queries = joined[:, : config.n_head]
    keys = joined[:, config.n_head : config.n_head + config.n_kv_head]
    values = joined[:, config.n_head + config.n_kv_head :]
    window = config.window_of(layer)
    outputs = np.zeros((T, config.n_head, width))
    for head in range(config.n_head):
        shared = head * config.n_kv_head // config.n_head
        q, k, v = queries[:, head], keys[:, shared], values[:, shared]
        if config.qk_norm:
            q, k = norm(mine, "q_norm", config, q), norm(mine, "k_norm", config, k)
        if config.rotates(layer):
            q, k = turned(q, config), turned(k, config)
        for t in range(T):
            first = 0 if window is None else max(0, t - window + 1)
            scores = capped(k[first : t + 1] @ q[t] * config.scale, config.attention_softcap)
            shares = np.exp(scores - scores.max())
            outputs[t, head] = (shares / shares.sum()) @ v[first : t + 1]
    return linear(mine, "out", outputs.reshape(T, -1))


def turned(x: Array, config: GPTConfig) -> Array:
    """Each pair of channels (i, i + width / 2) as a complex number, turned by position times frequency."""
    half = x.shape[1] // 2
    frequencies = config.rope_theta ** (-np.arange(half) / half)
    scaling = config.rope_scaling
    for i in range(half):
        if scaling is None:
            break
        slow = frequencies[i] / scaling.factor
        if scaling.kind == "linear":
            frequencies[i] = slow
            continue
        turns = scaling.original_max_seq_len / (2 * np.pi / frequencies[i])
        if turns < scaling.low_freq_factor:
            frequencies[i] = slow
        elif turns <= scaling.high_freq_factor:
            share = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
            frequencies[i] = (1 - share) * slow + share * frequencies[i]
    numbers = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * np.outer(np.arange(len(x)), frequencies))
    return np.concatenate([numbers.real, numbers.imag], axis=1)


def feed_forward(mine: dict[str, Array], config: GPTConfig, x: Array) -> Array:
    inner = linear(mine, "up", x)
    if not config.gated:
        return linear(mine, "down", activated(inner, config))
    gate, inner = np.split(inner, 2, axis=-1)
    return linear(mine, "down", activated(gate, config) * inner)


def activated(x: Array, config: GPTConfig) -> Array:
    if config.activation == "relu2":
        return np.maximum(x, 0) ** 2
    if config.activation == "silu":
        return x / (1 + np.exp(-x))
    if config.activation == "gelu":
        return x * (1 + erf(x / np.sqrt(2))) / 2
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2


def linear(weights: dict[str, Array], name: str, x: Array) -> Array:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)


def norm(weights: dict[str, Array], name: str, config: GPTConfig, x: Array) -> Array:
    if config.norm == "layer":
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps(config))
    scale = weights.get(f"{name}.weight", 0.0 if config.norm_weight == "one_plus" else 1.0)
    return x * (scale + (config.norm_weight == "one_plus")) + weights.get(f"{name}.bias", 0.0)


def capped(x: Array, cap: float | None) -> Array:
    return x if cap is None else cap * np.tanh(x / cap)


def eps(config: GPTConfig) -> float:
    return config.norm_eps or 2.0**-23
