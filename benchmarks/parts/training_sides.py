"""What `benchmarks/training.py` trains: the peers' networks with their optimizers, and ours of the same kind."""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from parts import llamas

from core_ml.model import device
from core_ml.model.gpt import GPT, GPTConfig
from core_ml.training import fast
from core_ml.training.loss import backward
from core_ml.training.optim import optimizers
from core_ml.training.update import Update

Step = Callable[[torch.Tensor], float]
LR = 3e-4
MUON_LR, ADAM_LR = 0.02, 3e-3


@dataclass(frozen=True)
class Shape:
    n_layer: int
    d_model: int
    n_head: int
    seq_len: int
    batch_size: int
    vocab_size: int
    goal: float
    goal_same_allocator: float

    @property
    def tokens(self) -> int:
        return self.batch_size * self.seq_len

    def sizes(self) -> dict[str, int]:
        """As nanoGPT, nanochat and GPT-2 of `transformers` call them."""
        return {"n_layer": self.n_layer, "n_head": self.n_head, "n_embd": self.d_model}


SHAPES = {
    "A": Shape(6, 384, 6, 256, 16, 4096, 1.25, 1.15),
    "B": Shape(4, 128, 4, 128, 32, 4096, 1.8, 1.5),
    "C": Shape(12, 768, 12, 1024, 32, 50304, 1.0, 1.0),
    "tiny": Shape(1, 64, 2, 64, 8, 512, 1.8, 1.5),
}


def batches(shape: Shape) -> Iterator[torch.Tensor]:
    """Endless tokens that can be learned: walks on a graph in which each token has four successors."""
    draws = torch.Generator().manual_seed(1)
    n = shape.vocab_size // 8
    successors = torch.randint(0, n, (n, 4), generator=draws)
    while True:
        walk = [torch.randint(0, n, (shape.batch_size,), generator=draws)]
        for turn in torch.randint(0, 4, (shape.seq_len, shape.batch_size), generator=draws):
            walk.append(successors[walk[-1], turn])
        yield torch.stack(walk, 1)


# The peers: from inputs and targets to the mean loss


def nanogpt(shape: Shape, options: argparse.Namespace) -> torch.nn.Module:
    sys.path.insert(0, options.nanogpt)
    from model import GPT as NanoGPT
    from model import GPTConfig as NanoConfig

    torch.manual_seed(0)
    room = {"block_size": shape.seq_len, "vocab_size": shape.vocab_size}
    with contextlib.redirect_stdout(io.StringIO()):
        return NanoGPT(NanoConfig(**room, **shape.sizes(), dropout=0.0, bias=False))


def transformers_gpt2(shape: Shape, options: argparse.Namespace) -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    room = {"n_positions": shape.seq_len, "vocab_size": shape.vocab_size}
    dropout = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "use_cache": False}
    return GPT2LMHeadModel(GPT2Config(**shape.sizes(), **room, **dropout, **ends, activation_function="gelu"))


def transformers_llama(shape: Shape, options: argparse.Namespace) -> torch.nn.Module:
    model = llamas.of_transformers(our_llama(shape))
    model.config.use_cache = False
    return model


def litgpt_llama(shape: Shape, options: argparse.Namespace) -> torch.nn.Module:
    sys.path += [options.litgpt] if options.litgpt else []
    return llamas.of_litgpt(our_llama(shape))


def nanochat(shape: Shape, options: argparse.Namespace) -> torch.nn.Module:
    sys.path.insert(0, options.nanochat)
    with contextlib.redirect_stdout(sys.stderr):
        from nanochat.gpt import GPT as Nanochat
        from nanochat.gpt import GPTConfig as NanochatConfig

        torch.manual_seed(0)
        room = {"sequence_len": shape.seq_len, "vocab_size": shape.vocab_size}
        # Every layer looks at everything, as ours do; its windows pay with FlashAttention 3 only.
        model = Nanochat(NanochatConfig(**room, **shape.sizes(), n_kv_head=shape.n_head, window_pattern="L"))
        model.init_weights()
    return model


PEERS = {
    "nanogpt": nanogpt,
    "transformers": transformers_gpt2,
    "transformers-llama": transformers_llama,
    "litgpt": litgpt_llama,
    "nanochat": nanochat,
}


def loss_of(name: str, model: Any, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if name == "nanogpt":
        return model(inputs, targets)[1]
    if name == "nanochat":
        return model(inputs, targets)
    found = model(inputs)
    logits = found if name == "litgpt" else found.logits
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def peer_step(name: str, shape: Shape, options: argparse.Namespace, dtype: str, where: torch.device) -> Step:
    """One step as the peer makes it: nanochat with its own Muon and without clipping, the others with fused AdamW."""
    os.environ["NANOCHAT_DTYPE"] = dtype
    model: Any = PEERS[name](shape, options).to(where)
    params = list(model.parameters())
    own = name == "nanochat"
    optimizer = (
        model.setup_optimizer() if own else torch.optim.AdamW(params, LR, weight_decay=0.0, fused=True)
    )
    compiled = model if options.quick else torch.compile(model, dynamic=False)
    mixed = dtype != "float32" and not own  # nanochat's layers cast by themselves

    def step(ids: torch.Tensor) -> float:
        with torch.autocast(where.type, getattr(torch, dtype), enabled=mixed):
            loss = loss_of(name, compiled, ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        if not own:
            torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


# Ours


def config_like(name: str, shape: Shape) -> GPTConfig:
    """A network of the peer's kind; nanochat's has value embeddings and gates beyond the lab's own."""
    if name in ("transformers-llama", "litgpt"):
        return llamas.config(shape.vocab_size, shape.n_layer, shape.n_head, shape.d_model, shape.seq_len)
    sizes = {"vocab_size": shape.vocab_size, "n_layer": shape.n_layer, "d_model": shape.d_model}
    sizes |= {"max_seq_len": shape.seq_len, "n_head": shape.n_head, "n_kv_head": shape.n_head, "ff_mult": 4}
    if name == "nanochat":
        return GPTConfig(**sizes, logit_softcap=15.0)
    biases = dict.fromkeys(("norm_bias", "qkv_bias", "out_bias", "ff_bias"), name == "transformers")
    return GPTConfig(
        **sizes, **biases, qk_norm=None, positions="learned", norm="layer", norm_weight="plain", norm_eps=1e-5,
        embedding_norm=False, activation="gelu", tie_embeddings=True,
    )  # fmt: skip


def our_llama(shape: Shape) -> GPT:
    """With the weights that the peers copy."""
    torch.manual_seed(0)
    model = GPT(config_like("litgpt", shape))
    for param in model.parameters():
        if param.dim() > 1:
            torch.nn.init.normal_(param, std=0.02)
    return model


def our_model(name: str, shape: Shape, options: argparse.Namespace) -> GPT:
    """With the peer's weights, where it has the same ones."""
    if name in ("transformers-llama", "litgpt"):
        return our_llama(shape)
    torch.manual_seed(0)
    model = GPT(config_like(name, shape))
    if name != "nanochat":
        like = PEERS[name](shape, options)
        model.load_state_dict(_renamed(like, shape, transposed=name == "transformers"))
    return model


def our_step(name: str, shape: Shape, options: argparse.Namespace, where: torch.device) -> Step:
    model = our_model(name, shape, options).to(where)
    if not options.quick:
        fast.compile_blocks(model)
    if name == "nanochat":
        found = optimizers(model, MUON_LR, ADAM_LR)
    else:
        found = [torch.optim.AdamW(model.parameters(), LR, weight_decay=0.0, fused=True)]
    update = Update(model, found, lambda step: 1.0, notes={}, grad_clip=1.0, spread=10.0)
    n = 0

    def step(ids: torch.Tensor) -> float:
        nonlocal n
        n += 1
        loss = backward(model, ids, device.tokens_at_once(where))
        update(n, loss)
        return loss.item()

    return step


def _renamed(like: torch.nn.Module, shape: Shape, transposed: bool) -> dict[str, torch.Tensor]:
    """GPT-2's tensors by our names; `transformers` keeps its matrices turned."""
    theirs = like.state_dict()
    names = {"ln_1": "norm1", "ln_2": "norm2", "attn.c_attn": "qkv", "attn.c_proj": "out"}
    names |= {"mlp.c_fc": "up", "mlp.c_proj": "down"}
    found = {"embedding.weight": "transformer.wte.weight", "positions.weight": "transformer.wpe.weight"}
    found |= {f"norm.{part}": f"transformer.ln_f.{part}" for part in ("weight", "bias")}
    for layer in range(shape.n_layer):
        for name, ours in names.items():
            for part in ("weight", "bias"):
                found[f"blocks.{layer}.{ours}.{part}"] = f"transformer.h.{layer}.{name}.{part}"
    tensors = {ours: theirs[name] for ours, name in found.items() if name in theirs}
    if transposed:
        tensors = {
            name: tensor.T if name.startswith("blocks.") and tensor.dim() == 2 else tensor
            for name, tensor in tensors.items()
        }
    return tensors
