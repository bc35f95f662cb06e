"""The settings of published networks: from a `config.json` to ours and back, one pair of functions a family.

What our decoder does not do is refused by name, never guessed. Defaults are those of the family's own release,
since older folders leave out what equals them. Source: the `config.json` files that `transformers` 4 and 5 write.
"""

from collections.abc import Callable
from typing import Any

from core_ml.errors import UserError
from core_ml.model.config import Activation, GPTConfig

Fields = dict[str, Any]
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu2": "relu2",
}
FLOAT32_ROUNDING = 2.0**-23
SLIDING, FULL = "sliding_attention", "full_attention"


def released(name: str, sizes: GPTConfig) -> Fields:
    """The `config.json` of a network of these sizes that is in everything else what its family's own release is.

    Windows and the scale of attention are kept in proportion to what a small network has. Settings that the release
    has from its family's defaults are not named.
    """
    ties = name in ("gpt2", "smollm3", "gemma2")
    fields: Fields = {
        "vocab_size": sizes.vocab_size,
        "num_key_value_heads": sizes.n_kv_head,
        "head_dim": sizes.d_head,
        "tie_word_embeddings": ties or sizes.tie_embeddings,
    }
    for ours, theirs, gpt2s in (
        (sizes.n_layer, "num_hidden_layers", "n_layer"),
        (sizes.d_model, "hidden_size", "n_embd"),
        (sizes.n_head, "num_attention_heads", "n_head"),
        (sizes.max_seq_len, "max_position_embeddings", "n_positions"),
        (sizes.d_ff, "intermediate_size", "n_inner"),
    ):
        fields[gpt2s if name == "gpt2" else theirs] = ours
    if name == "llama":  # the third one
        fields |= {"rms_norm_eps": 1e-5, "rope_theta": 500_000.0}
    elif name == "mistral":  # the first one: 4,096 of 32,768 tokens
        fields |= {"rms_norm_eps": 1e-5, "sliding_window": max(1, sizes.max_seq_len // 8)}
    elif name in ("qwen2", "qwen3"):
        fields |= {"rope_theta": 1_000_000.0}
    elif name == "gemma2":  # 4,096 of 8,192 tokens, in every second layer
        fields |= {
            "sliding_window": max(1, sizes.max_seq_len // 2),
            "query_pre_attn_scalar": sizes.d_head,
        }
    return fields


# What most of them share: RMS norms, rotary positions, a gated feed-forward


def _read(fields: Fields, *, tied: bool = False, act: str = "hidden_act", theta: float = 10_000.0) -> Fields:
    n_head = fields["num_attention_heads"]
    return {
        "vocab_size": fields["vocab_size"],
        "n_layer": fields["num_hidden_layers"],
        "d_model": fields["hidden_size"],
        "max_seq_len": fields["max_position_embeddings"],
        "n_head": n_head,
        "n_kv_head": fields.get("num_key_value_heads") or n_head,
        "head_width": fields.get("head_dim") or fields["hidden_size"] // n_head,
        "ff_width": fields["intermediate_size"],
        "activation": _activation(fields.get(act) or "silu"),
        "norm_eps": fields.get("rms_norm_eps", 1e-6),
        "tie_embeddings": fields.get("tie_word_embeddings", tied),
        "norm_weight": "plain",
        "qk_norm": None,
        "embedding_norm": False,
        "gated": True,
        **_read_rope(fields, theta),
    }


def _write(config: GPTConfig, act: str = "hidden_act") -> Fields:
    return {
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.n_layer,
        "hidden_size": config.d_model,
        "max_position_embeddings": config.max_seq_len,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "head_dim": config.d_head,
        "intermediate_size": config.d_ff,
        act: "gelu_pytorch_tanh" if config.activation == "gelu_tanh" else config.activation,
        "rms_norm_eps": config.norm_eps or FLOAT32_ROUNDING,
        "tie_word_embeddings": config.tie_embeddings,
        **_write_rope(config),
    }


def _check_width(fields: Fields) -> None:
    """Two families refuse such a width even where heads have one of their own."""
    if fields["hidden_size"] % fields["num_attention_heads"]:
        raise UserError(
            f"hidden_size {fields['hidden_size']} must be a multiple of num_attention_heads "
            f"{fields['num_attention_heads']}"
        )


def _activation(name: str) -> Activation:
    if name not in ACTIVATIONS:
        raise UserError(f"the activation {name[:40]!r} is not covered: {', '.join(ACTIVATIONS)} are")
    return ACTIVATIONS[name]


def _refuse(fields: Fields, *names: str) -> None:
    for name in names:
        if fields.get(name):
            raise UserError(f"config.json sets {name}, which is not covered")


def _read_rope(fields: Fields, theta: float) -> Fields:
    """Both ways of writing: `rope_theta` with `rope_scaling`, and since `transformers` 5 `rope_parameters`."""
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if any(isinstance(value, dict) for value in rope.values()):
        raise UserError("rotary positions that differ by kind of layer are not covered")
    if kind not in ("default", "linear", "llama3"):
        raise UserError(
            f"rotary positions scaled by {str(kind)[:40]!r} are not covered: linear and llama3 are"
        )
    if rope.get("partial_rotary_factor", fields.get("partial_rotary_factor") or 1.0) != 1.0:
        raise UserError("rotary positions of a part of each head (partial_rotary_factor) are not covered")
    found: Fields = {"rope_theta": rope.get("rope_theta", fields.get("rope_theta", theta))}
    if kind != "default":
        found["rope_scaling"] = {"kind": kind, "factor": rope["factor"]}
    if kind == "llama3":
        found["rope_scaling"] |= {
            "low_freq_factor": rope["low_freq_factor"],
            "high_freq_factor": rope["high_freq_factor"],
            "original_max_seq_len": rope.get("original_max_position_embeddings")
            or fields["max_position_embeddings"],
        }
    return found


def _write_rope(config: GPTConfig) -> Fields:
    # The older way: every reader of these files knows it, the newest included.
    fields: Fields = {"rope_theta": config.rope_theta, "rope_scaling": None}
    scaling = config.rope_scaling
    if scaling is not None:
        fields["rope_scaling"] = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            fields["rope_scaling"] |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_seq_len,
            }
    return fields


def _read_windows(fields: Fields, by_default: Callable[[int], bool]) -> Fields:
    """Which layers have a window: as listed, else by the family's rule for a layer's number."""
    window, n_layer = fields.get("sliding_window"), fields["num_hidden_layers"]
    listed = fields.get("layer_types")
    if listed is None:
        pattern = [by_default(layer) for layer in range(n_layer)]
    elif len(listed) != n_layer or set(listed) - {SLIDING, FULL}:
        raise UserError(f"layer_types must name {FULL} or {SLIDING} for each of the {n_layer} layers")
    else:
        pattern = [kind == SLIDING for kind in listed]
    return {"window": window, "window_pattern": pattern} if window and any(pattern) else {}


def _write_windows(config: GPTConfig) -> Fields:
    kinds = [SLIDING if config.window_of(layer) else FULL for layer in range(config.n_layer)]
    used = SLIDING in kinds
    return {
        "layer_types": kinds,
        "use_sliding_window": used,
        "sliding_window": config.window if used else None,
    }


# One by one


def read_gpt2(fields: Fields) -> Fields:
    _refuse(fields, "scale_attn_by_inverse_layer_idx", "add_cross_attention")
    return {
        "vocab_size": fields["vocab_size"],
        "n_layer": fields["n_layer"],
        "d_model": fields["n_embd"],
        "max_seq_len": fields["n_positions"],
        "n_head": fields["n_head"],
        "n_kv_head": fields["n_head"],
        "head_width": fields["n_embd"] // fields["n_head"],
        "ff_width": fields.get("n_inner") or 4 * fields["n_embd"],
        "activation": _activation(fields.get("activation_function", "gelu_new")),
        "attention_scale": None if fields.get("scale_attn_weights", True) else 1.0,
        "norm": "layer",
        "norm_weight": "plain",
        "norm_bias": True,
        "norm_eps": fields.get("layer_norm_epsilon", 1e-5),
        "tie_embeddings": fields.get("tie_word_embeddings", True),
        "qkv_bias": True,
        "out_bias": True,
        "ff_bias": True,
        "positions": "learned",
        "qk_norm": None,
        "embedding_norm": False,
    }


def write_gpt2(config: GPTConfig) -> Fields:
    return {
        "vocab_size": config.vocab_size,
        "n_layer": config.n_layer,
        "n_embd": config.d_model,
        "n_positions": config.max_seq_len,
        "n_head": config.n_head,
        "n_inner": config.d_ff,
        "activation_function": "gelu_new" if config.activation == "gelu_tanh" else config.activation,
        "scale_attn_weights": config.scale != 1.0,
        "layer_norm_epsilon": config.norm_eps or FLOAT32_ROUNDING,
        "tie_word_embeddings": config.tie_embeddings,
    }


def read_llama(fields: Fields) -> Fields:
    _check_width(fields)
    bias = fields.get("attention_bias", False)
    return _read(fields) | {"qkv_bias": bias, "out_bias": bias, "ff_bias": fields.get("mlp_bias", False)}


def write_llama(config: GPTConfig) -> Fields:
    return _write(config) | {"attention_bias": config.qkv_bias, "mlp_bias": config.ff_bias}


def read_mistral(fields: Fields) -> Fields:
    # An absent window is the first release's, a null one is none.
    return _read(fields) | {"window": fields.get("sliding_window", 4096)}


def write_mistral(config: GPTConfig) -> Fields:
    return _write(config) | {"sliding_window": config.window}


def _read_qwen_windows(fields: Fields) -> Fields:
    if not fields.get("use_sliding_window", False):
        return {}
    first = fields.get("max_window_layers", 28)
    return _read_windows({"sliding_window": 4096, **fields}, lambda layer: layer >= first)


def read_qwen2(fields: Fields) -> Fields:
    return _read(fields) | {"qkv_bias": True, **_read_qwen_windows(fields)}


def write_qwen2(config: GPTConfig) -> Fields:
    return _write(config) | _write_windows(config)


def read_qwen3(fields: Fields) -> Fields:
    bias = fields.get("attention_bias", False)
    heads = {"qk_norm": "weighted", "qkv_bias": bias, "out_bias": bias}
    return _read({"head_dim": 128, **fields}) | heads | _read_qwen_windows(fields)


def write_qwen3(config: GPTConfig) -> Fields:
    return _write(config) | {"attention_bias": config.qkv_bias, **_write_windows(config)}


def read_gemma2(fields: Fields) -> Fields:
    _refuse(fields, "use_bidirectional_attention")
    _check_width(fields)
    bias = fields.get("attention_bias", False)
    return {
        **_read(
            {"head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", **fields},
            tied=True,
            act="hidden_activation",
        ),
        **_read_windows({"sliding_window": 4096, **fields}, lambda layer: layer % 2 == 0),
        "qkv_bias": bias,
        "out_bias": bias,
        "norm_weight": "one_plus",
        "post_norm": True,
        "embedding_scale": fields["hidden_size"] ** 0.5,
        "attention_scale": fields.get("query_pre_attn_scalar", 256) ** -0.5,
        "attention_softcap": fields.get("attn_logit_softcapping", 50.0),
        "logit_softcap": fields.get("final_logit_softcapping", 30.0),
    }


def write_gemma2(config: GPTConfig) -> Fields:
    return {
        **_write(config, act="hidden_activation"),
        **{name: value for name, value in _write_windows(config).items() if name != "use_sliding_window"},
        "attention_bias": config.qkv_bias,
        "query_pre_attn_scalar": round(config.scale**-2),
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
    }


def read_smollm3(fields: Fields) -> Fields:
    n_layer, interval = fields["num_hidden_layers"], fields.get("no_rope_layer_interval", 4)
    # Named against its sense: 1 where a layer does rotate.
    rotates = fields.get("no_rope_layers") or [(layer + 1) % interval != 0 for layer in range(n_layer)]
    rotates = [bool(value) for value in rotates[:n_layer]]
    if len(rotates) != n_layer:
        raise UserError(f"no_rope_layers must have a number for each of the {n_layer} layers")
    used = fields.get("use_sliding_window", False)
    bias = fields.get("attention_bias", False)
    return {
        **_read(fields, tied=True, theta=2_000_000.0),
        **_read_windows(fields, lambda layer: used and not rotates[layer]),
        "rope_pattern": rotates,
        "qkv_bias": bias,
        "out_bias": bias,
        "ff_bias": fields.get("mlp_bias", False),
    }


def write_smollm3(config: GPTConfig) -> Fields:
    return {
        **_write(config),
        **_write_windows(config),
        "no_rope_layers": [int(config.rotates(layer)) for layer in range(config.n_layer)],
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.ff_bias,
    }


def read_nanochat(fields: Fields) -> Fields:
    bias = fields.get("attention_bias", False)
    return _read({"hidden_act": "relu2", **fields}) | {
        "qkv_bias": bias,
        "out_bias": bias,
        "norm_weight": None,
        "qk_norm": "plain",
        "embedding_norm": True,
        "gated": False,
        "logit_softcap": fields.get("final_logit_softcapping", 15.0),
    }


def write_nanochat(config: GPTConfig) -> Fields:
    return _write(config) | {
        "attention_bias": config.qkv_bias,
        "final_logit_softcapping": config.logit_softcap,
    }
