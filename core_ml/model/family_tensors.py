"""Where published networks keep their tensors: each of ours as the pieces of theirs that make it up.

Ours joins queries, keys and values to one matrix, and a gate with what it multiplies; most families keep them
apart. No torch here: names and shapes only.
"""

from typing import NamedTuple

from core_ml.model.config import GPTConfig


class Piece(NamedTuple):
    """One of their tensors; a tensor of ours is its pieces stacked along its first dimension."""

    name: str
    rows: int
    columns: int | None = None
    """None for a vector."""
    transposed: bool = False
    """Stored as (inputs, outputs), as GPT-2's."""
    swapped: int | None = None
    """The width of heads whose halves change places, where a family turns its planes the other way round."""

    @property
    def shape(self) -> list[int]:
        if self.columns is None:
            return [self.rows]
        return [self.columns, self.rows] if self.transposed else [self.rows, self.columns]


Layout = dict[str, list[Piece]]
POSITIONAL = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
"""Ends of names that older folders carry beside the weights; they follow from the settings."""


def gpt2(config: GPTConfig) -> Layout:
    d, n = config.d_model, config.vocab_size
    layout: Layout = {
        "embedding.weight": [Piece("transformer.wte.weight", n, d)],
        "positions.weight": [Piece("transformer.wpe.weight", config.max_seq_len, d)],
    }
    for layer in range(config.n_layer):
        ours, theirs = f"blocks.{layer}", f"transformer.h.{layer}"
        for our, their, rows, columns in (
            ("qkv", "attn.c_attn", 3 * d, d),
            ("out", "attn.c_proj", d, d),
            ("up", "mlp.c_fc", config.d_ff, d),
            ("down", "mlp.c_proj", d, config.d_ff),
        ):
            layout[f"{ours}.{our}.weight"] = [Piece(f"{theirs}.{their}.weight", rows, columns, True)]
            layout[f"{ours}.{our}.bias"] = [Piece(f"{theirs}.{their}.bias", rows)]
        for our, their in (("norm1", "ln_1"), ("norm2", "ln_2")):
            for part in ("weight", "bias"):
                layout[f"{ours}.{our}.{part}"] = [Piece(f"{theirs}.{their}.{part}", d)]
    for part in ("weight", "bias"):
        layout[f"norm.{part}"] = [Piece(f"transformer.ln_f.{part}", d)]
    return layout | _head(config)


def llama(config: GPTConfig) -> Layout:
    """Also Mistral, Qwen and SmolLM3."""
    return _decoder(config, {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"})


def gemma2(config: GPTConfig) -> Layout:
    names = {
        "norm1": "input_layernorm",
        "post_norm1": "post_attention_layernorm",
        "norm2": "pre_feedforward_layernorm",
        "post_norm2": "post_feedforward_layernorm",
    }
    return _decoder(config, names)


def nanochat(config: GPTConfig) -> Layout:
    return _decoder(config, {}, up=("fc1",), down="fc2", swapped=config.d_head)


def _decoder(
    config: GPTConfig,
    norms: dict[str, str],
    up: tuple[str, ...] = ("gate_proj", "up_proj"),
    down: str = "down_proj",
    swapped: int | None = None,
) -> Layout:
    d, d_ff = config.d_model, config.d_ff
    q, kv = config.n_head * config.d_head, config.n_kv_head * config.d_head
    layout: Layout = {"embedding.weight": [Piece("model.embed_tokens.weight", config.vocab_size, d)]}
    for layer in range(config.n_layer):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        attention, mlp = f"{theirs}.self_attn", f"{theirs}.mlp"
        heads = (("q_proj", q, swapped), ("k_proj", kv, swapped), ("v_proj", kv, None))
        layout |= {
            f"{ours}.qkv.weight": [
                Piece(f"{attention}.{name}.weight", rows, d, False, swap) for name, rows, swap in heads
            ],
            f"{ours}.out.weight": [Piece(f"{attention}.o_proj.weight", d, q)],
            f"{ours}.up.weight": [Piece(f"{mlp}.{name}.weight", d_ff, d) for name in up],
            f"{ours}.down.weight": [Piece(f"{mlp}.{down}.weight", d, d_ff)],
        }
        if config.qkv_bias:
            layout[f"{ours}.qkv.bias"] = [
                Piece(f"{attention}.{name}.bias", rows, None, False, swap) for name, rows, swap in heads
            ]
        if config.out_bias:
            layout[f"{ours}.out.bias"] = [Piece(f"{attention}.o_proj.bias", d)]
        if config.ff_bias:
            layout[f"{ours}.up.bias"] = [Piece(f"{mlp}.{name}.bias", d_ff) for name in up]
            layout[f"{ours}.down.bias"] = [Piece(f"{mlp}.{down}.bias", d)]
        for our, their in norms.items():
            layout[f"{ours}.{our}.weight"] = [Piece(f"{theirs}.{their}.weight", d)]
        if config.qk_norm == "weighted":
            for name in ("q_norm", "k_norm"):
                layout[f"{ours}.{name}.weight"] = [Piece(f"{attention}.{name}.weight", config.d_head)]
    if config.norm_weight is not None:
        layout["norm.weight"] = [Piece("model.norm.weight", d)]
    return layout | _head(config)


def _head(config: GPTConfig) -> Layout:
    if config.tie_embeddings:
        return {}
    return {"head.weight": [Piece("lm_head.weight", config.vocab_size, config.d_model)]}
