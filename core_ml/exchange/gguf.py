"""A checkpoint as one GGUF file, which llama.cpp and what is built on it load: weights, tokenizer, chat template.

Weights are written as they are (f16), or in blocks of 32 that share a scale: 8 bits each (q8_0) or 4 (q4_0). As
llama.cpp's own converter does, vectors stay in float32, and with q4_0 the embedding and the head have 8 bits.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from core_ml.exchange import gguf_tokenizer
from core_ml.exchange.gguf_networks import Network, network_of, settings
from core_ml.model import checkpoint

if TYPE_CHECKING:
    import torch

    from core_ml.model.gpt import GPT, Block

Precision = Literal["f16", "q8_0", "q4_0"]
PRECISIONS: tuple[Precision, ...] = ("f16", "q8_0", "q4_0")
BLOCK = 32
Tensors = Iterator[tuple[str, "torch.Tensor"]]


def save(target: Path, folder: Path, precision: Precision, *, name: str, role: str) -> str:
    """Write the checkpoint in a folder as the file `target`.

    Args:
        role: of the checkpoint; a base model's text begins with `<|bos|>`, and ends before the next.
    Returns: the network of llama.cpp that it is, such as "llama".
    Raises: UserError that names the settings which llama.cpp lacks, or that the checkpoint is damaged.
    """
    import gguf

    model, tokenizer = checkpoint.load(folder, "cpu")
    network = network_of(model.config)
    writer = gguf.GGUFWriter(target, network.name)
    try:
        writer.add_name(name)
        kinds = gguf.LlamaFileType
        writer.add_file_type(
            {"f16": kinds.MOSTLY_F16, "q8_0": kinds.MOSTLY_Q8_0, "q4_0": kinds.MOSTLY_Q4_0}[precision]
        )
        _write_settings(writer, network, settings(network, model.config))
        gguf_tokenizer.write(writer, tokenizer, model.config.vocab_size, role)
        for tensor_name, tensor in tensors(network, model):
            data, kind = packed(tensor_name, tensor.detach().float().contiguous().numpy(), precision)
            writer.add_tensor(tensor_name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return network.name


def packed(name: str, data: np.ndarray, precision: Precision) -> tuple[np.ndarray, Any]:
    """A tensor's bytes in the file, and their type. What does not divide into blocks stays f16."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    if data.ndim == 1 or name in ("position_embd.weight", "rope_freqs.weight"):
        return data.astype(np.float32), kinds.F32
    kind = {"f16": kinds.F16, "q8_0": kinds.Q8_0, "q4_0": kinds.Q4_0}[precision]
    if precision == "q4_0" and name in ("token_embd.weight", "output.weight"):
        kind = kinds.Q8_0
    if precision != "f16" and data.shape[-1] % BLOCK:
        kind = kinds.F16
    if kind == kinds.F16:
        return data.astype(np.float16), kind
    return gguf.quants.quantize(data, kind), kind


def as_written(model: "GPT", precision: Precision) -> "GPT":
    """A network of ours with the weights that a reader of the file gets."""
    import gguf
    import torch

    from core_ml.model.gpt import GPT

    config = model.config
    worked_in = {"embedding_norm": False, "embedding_scale": None, "tie_embeddings": False}
    folded = model.positions is None and not config.post_norm and not _is_plain(model)
    copy = GPT(config.model_copy(update=worked_in) if folded else config)
    weights = dict(model.state_dict())
    if folded:
        weights |= {"embedding.weight": _embedding(model), "head.weight": model.head_weight}
    known = {
        "embedding.weight": "token_embd.weight",
        "head.weight": "output.weight",
        "positions.weight": "position_embd.weight",
    }
    for name, weight in weights.items():
        data, kind = packed(known.get(name, name), weight.detach().float().cpu().numpy(), precision)
        if kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0):
            data = gguf.quants.dequantize(data, kind)
        weights[name] = torch.from_numpy(data.astype(np.float32))
    copy.load_state_dict(weights)
    return copy.eval()


# Tensors


def tensors(network: Network, model: "GPT") -> Tensors:
    """Every tensor of the file by llama.cpp's name, float32."""
    import torch

    config = model.config
    with torch.no_grad():
        yield "token_embd.weight", _embedding(model)
        if model.positions is not None:
            yield "position_embd.weight", model.positions.weight
        scaling = config.rope_scaling
        if scaling is not None and scaling.kind == "llama3":
            yield "rope_freqs.weight", _frequency_factors(model)
        for block in model.blocks:
            yield from _block(network, block, f"blk.{block.layer}.")
        yield from _norm("output_norm", model.norm, config.d_model, network)
        if network.own_head and (model.head is not None or not _is_plain(model)):
            yield "output.weight", model.head_weight


def _is_plain(model: "GPT") -> bool:
    """Whether the embedding is read as it stands, so that it can be the head as well."""
    return not model.config.embedding_norm and model.config.embedding_scale is None


def _embedding(model: "GPT") -> "torch.Tensor":
    """The embedding with its scale and its norm worked in. Gemma's scale is part of the network there."""
    import torch

    if model.positions is not None or _is_plain(model) or model.config.post_norm:
        scale = model.config.embedding_scale if model.positions is not None else None
        return model.embedding.weight * (scale or 1.0)
    ids = torch.arange(model.config.vocab_size)[None]
    return model.embed(ids, torch.zeros_like(ids))[0]


def _frequency_factors(model: "GPT") -> "torch.Tensor":
    """What llama.cpp divides each plane's frequency by."""
    from core_ml.model.gpt import rotary

    config = model.config
    # Two positions are enough to read the angle of one from.
    plain, slowed = (
        rotary(2, config.d_head, config.rope_theta, scaling) for scaling in (None, config.rope_scaling)
    )
    return plain[1][1].atan2(plain[0][1]) / slowed[1][1].atan2(slowed[0][1])


def _block(network: Network, block: "Block", prefix: str) -> Tensors:
    config, d = block.config, block.config.d_model
    yield from _norm(f"{prefix}attn_norm", block.norm1, d, network)
    yield from _norm(f"{prefix}ffn_norm", block.norm2, d, network)
    if config.post_norm:
        yield from _norm(f"{prefix}post_attention_norm", block.post_norm1, d, network)
        yield from _norm(f"{prefix}post_ffw_norm", block.post_norm2, d, network)
    yield from _attention(network, block, prefix)
    yield from _linear(f"{prefix}attn_output", block.out.weight, block.out.bias, network)
    names = ("ffn_gate", "ffn_up") if config.gated else ("ffn_up",)
    weights = block.up.weight.chunk(len(names))
    biases = [None] * len(names) if block.up.bias is None else block.up.bias.chunk(len(names))
    for name, weight, bias in zip(names, weights, biases, strict=True):
        yield from _linear(f"{prefix}{name}", weight, bias, network)
    yield from _linear(f"{prefix}ffn_down", block.down.weight, block.down.bias, network)


def _attention(network: Network, block: "Block", prefix: str) -> Tensors:
    """Queries, keys and values; queries take on what our scale of scores has beyond llama.cpp's."""
    config = block.config
    beyond = config.scale * config.d_head**0.5
    n = [heads * config.d_head for heads in (config.n_head, config.n_kv_head, config.n_kv_head)]
    weights = list(block.qkv.weight.split(n))
    biases = [None] * 3 if block.qkv.bias is None else list(block.qkv.bias.split(n))
    if config.qk_norm:
        for name, norm in (("attn_q_norm", block.q_norm), ("attn_k_norm", block.k_norm)):
            scale = beyond if name == "attn_q_norm" else 1.0
            yield from _norm(f"{prefix}{name}", norm, config.d_head, network, scale)
    else:
        weights[0] = weights[0] * beyond
        biases[0] = None if biases[0] is None else biases[0] * beyond
    if network.neighbours:
        for i, heads in ((0, config.n_head), (1, config.n_kv_head)):
            weights[i] = _side_by_side(weights[i], heads)
            biases[i] = None if biases[i] is None else _side_by_side(biases[i], heads)
    if network.fused_qkv:
        import torch

        bias = None if biases[0] is None else torch.cat(biases)  # type: ignore[arg-type]
        yield from _linear(f"{prefix}attn_qkv", torch.cat(weights), bias, network)
        return
    for name, weight, one in zip(("attn_q", "attn_k", "attn_v"), weights, biases, strict=True):
        yield from _linear(f"{prefix}{name}", weight, one, network)


def _side_by_side(rows: "torch.Tensor", n_heads: int) -> "torch.Tensor":
    """Rows of each head from two halves to pairs of neighbours: channel i and i + d/2 come beside each other."""
    halves = rows.reshape(n_heads, 2, -1, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)


def _linear(name: str, weight: "torch.Tensor", bias: "torch.Tensor | None", network: Network) -> Tensors:
    yield f"{name}.weight", weight
    if bias is None and name.rpartition(".")[2] in network.biases:
        bias = weight.new_zeros(weight.size(0))
    if bias is not None:
        yield f"{name}.bias", bias


def _norm(name: str, norm: Any, width: int, network: Network, scale: float = 1.0) -> Tensors:
    import torch

    weight = torch.ones(width) if norm.weight is None else norm.weight + float(norm.one_plus)
    yield f"{name}.weight", weight * scale
    bias = norm.bias
    if bias is None and name.rpartition(".")[2] in network.biases:
        bias = torch.zeros(width)
    if bias is not None:
        yield f"{name}.bias", bias


def _write_settings(writer: Any, network: Network, found: dict[str, Any]) -> None:
    for key, value in found.items():
        key = key if key.startswith("xielu.") else f"{network.name}.{key}"
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_float32(key, value)
