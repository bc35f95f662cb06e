"""Tiny networks of published families with random weights, made by `transformers` and saved as it saves them."""

from pathlib import Path
from typing import Any

import torch
import transformers

VOCAB = 96
LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
GPT2 = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
    "initializer_range": 0.2,
}

# Name: family, and what differs from the sizes above.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2, untied, unscaled": ("gpt2", {"tie_word_embeddings": False, "scale_attn_weights": False, "n_inner": 48}),
    "llama": ("llama", {}),
    "llama 3": ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama, linear, biased": (
        "llama",
        {"rope_parameters": LINEAR, "attention_bias": True, "mlp_bias": True, "head_dim": 12},
    ),
    "mistral": ("mistral", {"sliding_window": 7}),
    "mistral, no window": ("mistral", {"sliding_window": None, "head_dim": 16}),
    "qwen2": ("qwen2", {}),
    "qwen2, upper layers windowed": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2, "tie_word_embeddings": True},
    ),
    "qwen3": ("qwen3", {"head_dim": 20}),
    "qwen3, biased": ("qwen3", {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}),
    "gemma2": ("gemma2", {"head_dim": 12, "sliding_window": 6, "query_pre_attn_scalar": 24}),
    "gemma2, no caps": (
        "gemma2",
        {"head_dim": 8, "attn_logit_softcapping": None, "final_logit_softcapping": None, "sliding_window": 9},
    ),
    "smollm3": ("smollm3", {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    "smollm3, windowed": (
        "smollm3",
        {
            **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "no_rope_layer_interval": 2},
            **{"use_sliding_window": True, "sliding_window": 5, "tie_word_embeddings": False},
        },
    ),
    "nanochat": ("nanochat", {}),
    "nanochat, heads of a width of their own": ("nanochat", {"head_dim": 12, "num_attention_heads": 6}),
    "qwen2, heads of a width of their own": ("qwen2", {"head_dim": 12, "num_attention_heads": 6}),
    "nanochat, biased": ("nanochat", {"attention_bias": True, "final_logit_softcapping": None}),
}  # fmt: skip


def make(name: str, seed: int = 0, **changes: Any) -> transformers.PreTrainedModel:
    """A network of NETWORKS; every parameter is random, norms and biases too, so that none can hide."""
    family, differing = NETWORKS[name]
    sizes = GPT2 if family == "gpt2" else LLAMA
    config = transformers.AutoConfig.for_model(family, **{**sizes, **differing, **changes})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def save(name: str, folder: Path, **options: Any) -> transformers.PreTrainedModel:
    model = make(name)
    model.save_pretrained(folder, **options)
    return model
