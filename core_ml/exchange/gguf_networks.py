"""Which network of llama.cpp computes what one of ours computes, and under what names it wants its tensors.

Nothing is declared: a network of ours is written as the first of llama.cpp's whose every operation it has, and
where none has, what stands in the way is named. Settings that only change weights are worked into the weights:
the norm of the embedding, scales, "one plus" weights, and the order of rotary planes. Our own default, a squared
ReLU behind normalized heads, is llama.cpp's Apertus with xIELU's constants at 0, 1 and 0. Imports no torch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core_ml.errors import UserError
from core_ml.model.config import GPTConfig

FLOAT32_ROUNDING = 2.0**-23


@dataclass(frozen=True)
class Network:
    """One of llama.cpp's. `accepts` gives the settings of ours that it does not compute."""

    name: str
    accepts: Callable[[GPTConfig], list[str]]
    neighbours: bool = False
    """Rotary planes join neighbouring channels, where ours join the two halves of a head."""
    fused_qkv: bool = False
    biases: tuple[str, ...] = ()
    """Tensors that must have a bias, zero where ours has none."""
    slows_low_frequencies: bool = False
    """Takes llama3's scaling of rotary positions, as factors of each frequency."""
    own_head: bool = True
    """Reads a head that is not its embedding."""


def network_of(config: GPTConfig) -> Network:
    """Raises: UserError that names the settings which no network of llama.cpp has. Imports no torch."""
    if config.value_head:
        raise UserError(
            "a reward model gives a number and no text, which llama.cpp does not serve", field="checkpoint"
        )
    nearest, fewest = "", None
    for network in NETWORKS:
        obstacles = network.accepts(config)
        if not obstacles:
            return network
        if fewest is None or len(obstacles) < len(fewest):
            nearest, fewest = network.name, obstacles
    raise UserError(
        f"llama.cpp has no network that computes this one: {nearest}, the nearest, is without "
        f"{', '.join(fewest or [])}. The format huggingface keeps every setting",
        field="format",
    )


def _obstacles(config: GPTConfig, wanted: dict[str, Any]) -> list[str]:
    found: dict[str, Any] = {name: getattr(config, name) for name in wanted}
    return [f"{name} = {found[name]}" for name, value in wanted.items() if found[name] != value]


def _rotary(config: GPTConfig, **wanted: Any) -> list[str]:
    """What is common to Llama's kin: RMS norms before, rotary positions, and no bounds on scores."""
    common = {"norm": "rms", "norm_bias": False, "positions": "rope", "out_bias": False, "ff_bias": False,
              "post_norm": False, "attention_softcap": None, "logit_softcap": None}  # fmt: skip
    obstacles = _obstacles(config, common | wanted)
    if config.window is not None and config.window < config.max_seq_len:
        obstacles.append(f"window = {config.window}")
    return obstacles


def _everywhere(config: GPTConfig) -> list[str]:
    everywhere = all(config.rotates(layer) for layer in range(config.n_layer))
    return [] if everywhere else [f"rope_pattern = {config.rope_pattern}"]


def _plain_rope(config: GPTConfig) -> list[str]:
    slowed = config.rope_scaling is not None and config.rope_scaling.kind == "llama3"
    return ["rope_scaling = llama3"] if slowed else []


def _llama(config: GPTConfig) -> list[str]:
    return _rotary(config, qk_norm=None, qkv_bias=False, gated=True, activation="silu") + _everywhere(config)


def _qwen2(config: GPTConfig) -> list[str]:
    found = _rotary(config, qk_norm=None, gated=True, activation="silu")
    return found + _everywhere(config) + _plain_rope(config)


def _qwen3(config: GPTConfig) -> list[str]:
    normed = [] if config.qk_norm else ["qk_norm = None"]
    found = _rotary(config, qkv_bias=False, gated=True, activation="silu")
    return found + normed + _everywhere(config) + _plain_rope(config)


def _smollm3(config: GPTConfig) -> list[str]:
    found = _rotary(config, qk_norm=None, qkv_bias=False, gated=True, activation="silu")
    # It turns all layers but each fourth.
    differing = [n for n in range(config.n_layer) if config.rotates(n) != bool((n + 1) % 4)]
    return found + _plain_rope(config) + ([f"rope_pattern = {config.rope_pattern}"] if differing else [])


def _arcee(config: GPTConfig) -> list[str]:
    return _rotary(config, qk_norm=None, qkv_bias=False, gated=False, activation="relu2") + _everywhere(
        config
    )


def _apertus(config: GPTConfig) -> list[str]:
    normed = [] if config.qk_norm else ["qk_norm = None"]
    found = _rotary(config, qkv_bias=False, gated=False, activation="relu2")
    return found + normed + _everywhere(config)


def _gemma2(config: GPTConfig) -> list[str]:
    wanted = {"norm": "rms", "norm_bias": False, "positions": "rope", "rope_scaling": None, "out_bias": False,
              "ff_bias": False, "qkv_bias": False, "qk_norm": None, "post_norm": True, "gated": True,
              "activation": "gelu_tanh", "tie_embeddings": True, "embedding_norm": False}  # fmt: skip
    obstacles = _obstacles(config, wanted) + _everywhere(config)
    obstacles += [
        f"{name} = None" for name in ("attention_softcap", "logit_softcap") if not getattr(config, name)
    ]
    if not math.isclose(config.embedding_scale or 1.0, config.d_model**0.5, rel_tol=1e-3):
        obstacles.append(f"embedding_scale = {config.embedding_scale}")
    bounded = config.window is not None and config.window < config.max_seq_len
    # Every other layer has a window, the first among them.
    if bounded and any((config.window_of(n) is None) != bool(n % 2) for n in range(config.n_layer)):
        obstacles.append(f"window_pattern = {config.window_pattern}")
    return obstacles


def _gpt2(config: GPTConfig) -> list[str]:
    wanted = {"norm": "layer", "positions": "learned", "qk_norm": None, "post_norm": False, "gated": False,
              "activation": "gelu_tanh", "embedding_norm": False, "attention_softcap": None,
              "logit_softcap": None, "d_head": config.d_model // config.n_head}  # fmt: skip
    obstacles = _obstacles(config, wanted)
    if config.window is not None and config.window < config.max_seq_len:
        obstacles.append(f"window = {config.window}")
    return obstacles


NETWORKS = (
    Network("llama", _llama, neighbours=True, slows_low_frequencies=True),
    Network("qwen2", _qwen2, biases=("attn_q", "attn_k", "attn_v")),
    Network("qwen3", _qwen3),
    Network("smollm3", _smollm3, neighbours=True),
    Network("arcee", _arcee, neighbours=True, slows_low_frequencies=True),
    Network("apertus", _apertus, slows_low_frequencies=True),
    Network("gemma2", _gemma2, own_head=False),
    Network(
        "gpt2",
        _gpt2,
        fused_qkv=True,
        biases=("attn_qkv", "attn_output", "ffn_up", "ffn_down", "attn_norm", "ffn_norm", "output_norm"),
    ),
)  # fmt: skip


def settings(network: Network, config: GPTConfig) -> dict[str, Any]:
    """The keys of a file that describe the network, without the prefix of its name."""
    eps = config.norm_eps or FLOAT32_ROUNDING
    found: dict[str, Any] = {
        "context_length": config.max_seq_len,
        "embedding_length": config.d_model,
        "block_count": config.n_layer,
        "feed_forward_length": config.d_ff,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.n_kv_head,
        "attention.layer_norm_epsilon" if config.norm == "layer" else "attention.layer_norm_rms_epsilon": eps,
    }
    if config.positions == "rope":
        found |= {
            "attention.key_length": config.d_head,
            "attention.value_length": config.d_head,
            "rope.dimension_count": config.d_head,
            "rope.freq_base": config.rope_theta,
        }
        if config.rope_scaling is not None and config.rope_scaling.kind == "linear":
            found |= {"rope.scaling.type": "linear", "rope.scaling.factor": config.rope_scaling.factor}
    if network.name == "gemma2":
        found |= {
            "attention.sliding_window": min(config.window or config.max_seq_len, config.max_seq_len),
            "attn_logit_softcapping": config.attention_softcap,
            "final_logit_softcapping": config.logit_softcap,
        }
    if network.name == "apertus":
        # x > 0: softplus(alpha_p) x² + beta x; below: the first term with softplus(alpha_n) of (e^x - 1 - x).
        per_layer = {"alpha_p": math.log(math.e - 1), "alpha_n": -200.0, "beta": 0.0, "eps": -1e-6}
        found |= {f"xielu.{name}": [value] * config.n_layer for name, value in per_layer.items()}
    return found
