"""One network, many ways to compute it: all give the logits of a second implementation, in NumPy and float64.

| way | how far logits of size one may differ |
| --- | --- |
| one pass, cached, batched, padded, fused, compiled, recomputed, sharded: float32 | 1e-5 |
| products in bfloat16 | 0.1, and 0.02 on average |

Sums of another order are all that float32 ways differ in; which of them are used is a question of speed alone.
Where two processes share a batch, loss, gradients and the weights after an update differ by 1e-6 at most.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core_ml import ranks
from core_ml.model import attention
from core_ml.model.config import GPTConfig, RopeScaling
from core_ml.model.gpt import GPT, Cache
from core_ml.sampling.generate import generate
from core_ml.training import fast, sharding
from core_ml.training.loss import backward
from core_ml.training.optim import optimizers
from core_ml.training.sharding import full, total_norm
from tests.core_ml import numpy_gpt
from tests.core_ml.together import both

TOLERANCE = 1e-5
VOCAB, T = 61, 40
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "n_layer": 2,
    "d_model": 32,
    "n_head": 4,
    "n_kv_head": 2,
    "max_seq_len": 64,
}
PLAIN: dict[str, Any] = {"qk_norm": None, "embedding_norm": False, "norm_weight": "plain"}
CONFIGS = {
    "ours": GPTConfig(**SIZES),
    "llama-like": GPTConfig(
        **SIZES,
        **PLAIN,
        gated=True,
        activation="silu",
        tie_embeddings=True,
        rope_scaling=RopeScaling(kind="llama3", factor=8, original_max_seq_len=32),
    ),
    "gemma-like": GPTConfig(
        **SIZES,
        **PLAIN | {"norm_weight": "one_plus", "qk_norm": "weighted"},
        head_width=12,
        gated=True,
        activation="gelu_tanh",
        post_norm=True,
        window=9,
        window_pattern=(True, False),
        rope_pattern=(True, False),
        attention_softcap=2.0,
        logit_softcap=3.0,
        embedding_scale=32**0.5,
    ),
    "gpt2-like": GPTConfig(
        **SIZES | {"n_kv_head": 4},
        **PLAIN,
        norm="layer",
        norm_bias=True,
        positions="learned",
        activation="gelu",
        qkv_bias=True,
        out_bias=True,
        ff_bias=True,
    ),
}
IDS = torch.randint(0, VOCAB, (3, T), generator=torch.Generator().manual_seed(2))


pytestmark = pytest.mark.usefixtures("in_float32")


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> GPT:
    return network(request.param)


def network(name: str) -> GPT:
    """Every weight random, so that no part of the network can be left out unseen; logits of about size one."""
    torch.manual_seed(3)
    model = GPT(CONFIGS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.normal_(std=parameter.size(-1) ** -0.5)
    return model


def wanted(model: GPT) -> Tensor:
    weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    found = [numpy_gpt.forward(weights, model.config, row) for row in IDS.tolist()]
    return torch.tensor(np.array(found))


def agree(found: Tensor, model: GPT) -> None:
    right = wanted(model)
    assert 0.3 < right.std() < 3
    torch.testing.assert_close(found.detach().double(), right, atol=TOLERANCE, rtol=0)


def test_one_pass(model: GPT) -> None:
    agree(model(IDS), model)


@pytest.mark.parametrize("sizes", [[1] * T, [7, 1, 20, 12]], ids=["by token", "by pieces"])
def test_with_a_cache(model: GPT, sizes: list[int]) -> None:
    cache = Cache(model, len(IDS), T)
    with torch.no_grad():
        parts = [model.hidden(piece, cache=cache) for piece in IDS.split(sizes, dim=1)]
    agree(model.logits(torch.cat(parts, 1)), model)


def test_row_by_row(model: GPT) -> None:
    agree(torch.cat([model(row[None]) for row in IDS]), model)


def test_padded_on_the_left(model: GPT) -> None:
    """Rows of a batch begin at different places, as they do in sampling; a window counts places."""
    pads, width = [0, 5, 17], T + 17
    ids = torch.zeros(3, width, dtype=torch.long)
    filled = torch.zeros(3, width, dtype=torch.bool)
    for row, pad in enumerate(pads):
        ids[row, pad : pad + T], filled[row, pad : pad + T] = IDS[row], True
    positions = (torch.arange(width) - torch.tensor(pads)[:, None]).clamp(0, model.config.max_seq_len - 1)
    square = torch.ones(width, width, dtype=torch.bool)
    mask = (filled[:, None, None] & square.tril()) | torch.eye(width, dtype=torch.bool)
    logits = model.logits(model.hidden(ids, positions, mask=mask))
    agree(torch.stack([logits[row, pad : pad + T] for row, pad in enumerate(pads)]), model)


def test_with_the_fused_kernel(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "WRITTEN_OUT_UP_TO", 0)
    agree(model(IDS), model)


@pytest.fixture
def compiled(model: GPT) -> Iterator[GPT]:
    fast.compile_blocks(model)
    yield model
    fast.release(model)


def test_compiled(compiled: GPT) -> None:
    assert fast.is_compiled(compiled)
    agree(compiled(IDS), compiled)


def test_recomputed(model: GPT) -> None:
    fast.recompute_blocks(model)
    agree(model(IDS), model)


def test_sampled_in_a_batch_of_unequal_prompts(model: GPT) -> None:
    """The sampler's log-probabilities of what it chose are those of the second implementation."""
    prompts = [IDS[0, :3].tolist(), IDS[1, :20].tolist(), IDS[2, :11].tolist()]
    weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    found = generate(model, prompts, max_new_tokens=16, temperature=0, seed=0)
    for prompt, completion in zip(prompts, found, strict=True):
        whole = [*prompt, *completion.ids]
        logits = torch.tensor(numpy_gpt.forward(weights, model.config, whole))[len(prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == completion.ids
        picked = logits.log_softmax(-1).gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
        torch.testing.assert_close(
            torch.tensor(completion.logprobs, dtype=torch.float64), picked, atol=TOLERANCE, rtol=0
        )


def test_products_in_bfloat16(model: GPT) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        error = (model(IDS).double() - wanted(model)).abs()
    assert error.max() < 0.1 and error.mean() < 0.02


# Shared by two processes as training is: each reads some of the rows, and keeps a copy of the weights or a share


def gradients(model: GPT, ids: Tensor) -> dict[str, Tensor]:
    """One rank's part of a pass over a batch of `IDS`' size, then what `ranks` makes of all parts; and an update by Muon."""
    loss = ranks.total(model, backward(model, ids, 10_000, len(IDS)))
    found = {f"gradient/{name}": full(param.grad) for name, param in model.named_parameters()}
    found |= {"loss": loss, "norm": total_norm(model)}
    # Not AdamW's: its first update is the gradient's sign, even of gradients that are nothing but rounding.
    optimizers(model, 0.02, 1e-3)[0].step()
    matrices = [
        (f"blocks.{name}", param) for name, param in model.blocks.named_parameters() if param.dim() == 2
    ]
    return found | {f"updated/{name}": full(param.detach()) for name, param in matrices}


def one_rank(folder: Path) -> None:
    for name in CONFIGS:
        for way in ("copied", "sharded"):
            model = network(name)
            if way == "sharded":
                sharding.shard(model, torch.device("cpu"))
            # Unequal shares: two rows and one.
            rows = IDS[ranks.rank() :: ranks.count()]
            found = {"logits": model(rows).detach(), **gradients(model, rows)}
            save_file(
                {key: tensor.contiguous() for key, tensor in found.items()},
                folder / f"{name}, {way}, {ranks.rank()}.safetensors",
            )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    both(one_rank, folder)
    return folder


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("way", ["copied", "sharded"])
def test_shared_by_two_processes(name: str, way: str, shared: Path) -> None:
    parts = [load_file(shared / f"{name}, {way}, {rank}.safetensors") for rank in range(2)]
    logits = torch.empty(len(IDS), T, VOCAB)
    for rank, part in enumerate(parts):
        logits[rank::2] = part.pop("logits")
    agree(logits, network(name))
    alone = gradients(network(name), IDS)
    for part in parts:
        assert part.keys() == alone.keys()
        for key, tensor in part.items():
            torch.testing.assert_close(tensor, alone[key], atol=1e-6, rtol=1e-6, msg=key)
