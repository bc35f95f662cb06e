"""A network of any published family trained from nothing: it is that family's, here and in `transformers`."""

from pathlib import Path
from typing import get_args

import pytest
import torch
import transformers

from core_ml import artifact
from core_ml.events import Event, Metric
from core_ml.exchange import huggingface
from core_ml.execute import read_config
from core_ml.model import checkpoint
from core_ml.model.config import GPTConfig
from core_ml.model.families import FAMILIES
from core_ml.recipes.pretrain import RECIPE
from core_ml.training.config import PretrainConfig
from tests.core_ml import small

pytestmark = pytest.mark.usefixtures("in_float32")

# What one would look for in each family's own paper or release.
TRAITS = {
    "gpt2": {"norm": "layer", "positions": "learned", "activation": "gelu_tanh", "qkv_bias": True, "n_kv_head": 2},
    "llama": {"norm": "rms", "activation": "silu", "gated": True, "rope_theta": 5e5, "qkv_bias": False},
    "mistral": {"window": 32, "activation": "silu", "rope_theta": 1e4},
    "qwen2": {"qkv_bias": True, "out_bias": False, "rope_theta": 1e6, "qk_norm": None},
    "qwen3": {"qkv_bias": False, "qk_norm": "weighted", "rope_theta": 1e6},
    "smollm3": {"rope_pattern": (True, True, True, False), "tie_embeddings": True},
    "gemma2": {"window": 128, "window_pattern": (True, False), "logit_softcap": 30, "attention_softcap": 50,
               "post_norm": True, "norm_weight": "one_plus", "embedding_scale": 8, "scale": 32**-0.5},
    "nanochat": {"activation": "relu2", "norm_weight": None, "logit_softcap": 15, "qk_norm": "plain"},
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return {
        "documents": small.documents(folder / "documents"),
        "tokenizer": small.tokenizer_artifact(folder / "tokenizer"),
    }


def test_the_form_offers_every_family_that_is_covered_and_the_labs_own_by_default() -> None:
    field = PretrainConfig.model_fields["family"]
    assert set(get_args(field.annotation)) == {"own", *FAMILIES}
    assert all(f"{name}: " in str(field.description) for name in get_args(field.annotation))
    network = PretrainConfig().network(1000)
    assert network == GPTConfig(vocab_size=1000)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_network_of_each_family_learns_and_leaves_as_one_of_it(
    family: str, inputs: dict[str, Path], tmp_path: Path
) -> None:
    changes = {
        "family": family,
        "n_layer": 4 if family == "smollm3" else 2,  # its fourth layer is what tells it from llama
        "steps": 8,
        "val_tokens": 256,
        "eval_every": 8,
        "sample_every": 8,
        "threads": 1,
    }
    config = read_config(RECIPE, changes, "tiny")
    network = config.network(1000)
    traits = TRAITS[family]
    assert {name: getattr(network, name) for name in traits} == traits
    assert (network.d_model, network.n_head, network.d_ff, network.max_seq_len) == (64, 2, 192, 256)

    events: list[Event] = list(RECIPE.run(config, small.workspace(RECIPE, tmp_path / "run", **inputs)))
    losses = [
        event.values["loss"] for event in events if isinstance(event, Metric) and "loss" in event.values
    ]
    assert losses[-1] < losses[0]

    made = artifact.Folder(next(path.parent for path in (tmp_path / "run").rglob("model.safetensors")))
    folder = tmp_path / "folder"
    folder.mkdir()
    assert huggingface.save(folder, made) == family
    ours, _ = checkpoint.load(made.path, "cpu")
    assert sum(parameter.numel() for parameter in ours.parameters()) == ours.config.n_parameters
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    # Longer than a window, so that what it hides is seen.
    ids = torch.randint(0, 300, (2, 80), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = ours(ids)
        torch.testing.assert_close(theirs(ids).logits, logits, atol=1e-4, rtol=0)
    assert logits.std() > 0.01
