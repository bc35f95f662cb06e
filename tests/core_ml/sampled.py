"""Small networks of every kind, and rows that are sampled from them."""

import random
from typing import Any

import torch

from core_ml.model.config import GPTConfig
from core_ml.model.gpt import GPT
from core_ml.sampling.sampler import Row, Sampler
from core_ml.sampling.settings import Sampling

CONTEXT = 160


NETWORKS: dict[str, dict[str, Any]] = {
    "our own": {},
    "llama-like": {"qk_norm": None, "norm_weight": "plain", "embedding_norm": False, "activation": "silu",
                   "gated": True, "tie_embeddings": True},
    "gpt2-like": {"qk_norm": None, "positions": "learned", "norm": "layer", "norm_weight": "plain",
                  "norm_bias": True, "qkv_bias": True, "out_bias": True, "ff_bias": True, "activation": "gelu_tanh",
                  "embedding_norm": False, "n_kv_head": 4, "tie_embeddings": True},
    "gemma-like": {"qk_norm": None, "norm_weight": "one_plus", "post_norm": True, "embedding_norm": False,
                   "embedding_scale": 5.6, "activation": "gelu_tanh", "gated": True, "head_width": 12,
                   "attention_softcap": 2.0, "logit_softcap": 3.0, "attention_scale": 0.3, "window": 7,
                   "window_pattern": (True, False)},
    "qwen-like": {"qk_norm": "weighted", "norm_weight": "plain", "qkv_bias": True, "embedding_norm": False,
                  "activation": "silu", "gated": True},
    "smollm-like": {"qk_norm": None, "norm_weight": "plain", "rope_pattern": (True, False), "gated": True,
                    "embedding_norm": False, "activation": "silu", "window": 5},
}  # fmt: skip


PROMPTS = [[7], [5, 60, 70, 80], [5, 61] * 9, list(range(10, 95))]


def network(**changes: Any) -> GPT:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 100,
        "n_layer": 3,
        "n_head": 4,
        "n_kv_head": 2,
        "d_model": 32,
        "max_seq_len": CONTEXT,
    }
    model = GPT(GPTConfig(**(sizes | changes)))
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.3)
    return model


def row(prompt: list[int], n: int = 12, seed: int = 0, **more: Any) -> Row:
    how = Sampling(**{"temperature": 0.0} | more.pop("how", {}))
    return Row(prompt=prompt, how=how, draws=random.Random(seed), max_new_tokens=n, **more)


def run(sampler: Sampler[Row]) -> None:
    while sampler.rows:
        for done in [r for r in sampler.rows if len(r.ids) == r.max_new_tokens]:
            sampler.leave(sampler.rows.index(done))
        if sampler.rows:
            sampler.step()


def forward(model: GPT, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids]))[0].log_softmax(-1)
