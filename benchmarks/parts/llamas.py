"""Llama as others write it, with the weights of ours: peers of `benchmarks/training.py` and `benchmarks/sampling.py`."""

from collections.abc import Iterator
from typing import Any

import torch

from core_ml.model.gpt import GPT, GPTConfig


def config(vocab_size: int, n_layer: int, n_head: int, d_model: int, seq_len: int) -> GPTConfig:
    """Ours, as a Llama of this shape with a tied head; its inner layer is Llama's 8/3 of the width, rounded to 64."""
    return GPTConfig(
        vocab_size=vocab_size, n_layer=n_layer, d_model=d_model, n_head=n_head, n_kv_head=n_head,
        max_seq_len=seq_len, qk_norm=None, norm_weight="plain", norm_eps=1e-6, embedding_norm=False,
        activation="silu", gated=True, ff_width=round(d_model / 24) * 64, tie_embeddings=True,
    )  # fmt: skip


def of_transformers(model: GPT) -> Any:
    import transformers

    transformers.logging.set_verbosity_error()
    a = model.config
    settings = transformers.LlamaConfig(
        vocab_size=a.vocab_size, hidden_size=a.d_model, intermediate_size=a.d_ff, num_hidden_layers=a.n_layer,
        num_attention_heads=a.n_head, max_position_embeddings=a.max_seq_len, tie_word_embeddings=True,
        rms_norm_eps=a.norm_eps, attn_implementation="sdpa", eos_token_id=None, bos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return _filled(transformers.LlamaForCausalLM(settings), _as_transformers(model))


def of_litgpt(model: GPT) -> Any:
    from litgpt import GPT as Theirs
    from litgpt import Config

    a = model.config
    settings = Config(
        name="ours", block_size=a.max_seq_len, n_layer=a.n_layer, n_embd=a.d_model, vocab_size=a.vocab_size,
        padded_vocab_size=a.vocab_size, norm_class_name="RMSNorm", norm_eps=a.norm_eps, n_head=a.n_head,
        parallel_residual=False, rotary_percentage=1.0, bias=False, mlp_class_name="LLaMAMLP",
        intermediate_size=a.d_ff,
    )  # fmt: skip
    theirs = Theirs(settings)
    theirs.lm_head.weight = theirs.transformer.wte.weight
    return _filled(theirs, _as_litgpt(model))


def _filled(theirs: torch.nn.Module, tensors: Iterator[tuple[str, torch.Tensor]]) -> torch.nn.Module:
    weights = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors:
            weights.pop(name).copy_(tensor)
    assert not weights, f"weights that ours does not have: {list(weights)}"
    return theirs


def _as_transformers(model: GPT) -> Iterator[tuple[str, torch.Tensor]]:
    yield "model.embed_tokens.weight", model.embedding.weight
    yield "model.norm.weight", model.norm.weight
    for number, block in enumerate(model.blocks):
        prefix = f"model.layers.{number}."
        for name, part in zip("qkv", block.qkv.weight.chunk(3), strict=True):
            yield f"{prefix}self_attn.{name}_proj.weight", part
        yield prefix + "self_attn.o_proj.weight", block.out.weight
        for name, part in zip(("gate", "up"), block.up.weight.chunk(2), strict=True):
            yield f"{prefix}mlp.{name}_proj.weight", part
        yield prefix + "mlp.down_proj.weight", block.down.weight
        yield prefix + "input_layernorm.weight", block.norm1.weight
        yield prefix + "post_attention_layernorm.weight", block.norm2.weight


def _as_litgpt(model: GPT) -> Iterator[tuple[str, torch.Tensor]]:
    yield "lm_head.weight", model.embedding.weight  # the embedding's too: they are one
    yield "transformer.ln_f.weight", model.norm.weight
    for number, block in enumerate(model.blocks):
        prefix = f"transformer.h.{number}."
        yield prefix + "attn.qkv.weight", block.qkv.weight
        yield prefix + "attn.proj.weight", block.out.weight
        for name, part in zip(("fc_1", "fc_2"), block.up.weight.chunk(2), strict=True):
            yield f"{prefix}mlp.{name}.weight", part
        yield prefix + "mlp.proj.weight", block.down.weight
        yield prefix + "norm_1.weight", block.norm1.weight
        yield prefix + "norm_2.weight", block.norm2.weight
