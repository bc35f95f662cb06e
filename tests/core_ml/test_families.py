"""Networks of published families: ours computes what `transformers` computes, and they leave as they came."""

import json
import math
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from core_ml.errors import UserError
from core_ml.exchange import huggingface
from core_ml.model import families
from core_ml.model.config import GPTConfig
from core_ml.sampling.generate import generate
from tests.core_ml import published
from tests.core_ml.published import NETWORKS, VOCAB

IDS = torch.randint(0, VOCAB, (2, 40), generator=torch.Generator().manual_seed(1))
every_network = pytest.mark.parametrize("name", NETWORKS)


pytestmark = pytest.mark.usefixtures("in_float32")


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found = model(IDS)
    return found if isinstance(found, torch.Tensor) else found.logits


def leave(model, folder: Path, name: str) -> Path:
    """Our network as a folder of its own family."""
    folder.mkdir()
    family, fields = families.write(model.config, preferred=NETWORKS[name][0])
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(fields | special))
    huggingface.save_weights(model, family, folder / "model.safetensors")
    return folder


@every_network
def test_logits_are_theirs_both_ways_and_tensors_leave_as_they_came(name, tmp_path):
    theirs = published.save(name, tmp_path / "in")
    ours = huggingface.load(tmp_path / "in")
    wanted = logits(theirs)
    assert wanted.std() > 0.1  # so that 1e-4 says something
    torch.testing.assert_close(logits(ours), wanted, atol=1e-4, rtol=0)

    folder = leave(ours, tmp_path / "out", name)
    again = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    assert type(again) is type(theirs)
    torch.testing.assert_close(logits(again), logits(ours), atol=1e-4, rtol=0)
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(before[key], stored[key]) for key in stored)


@every_network
def test_greedy_generation_gives_the_same_tokens(name, tmp_path):
    theirs = published.save(name, tmp_path / "in")
    ours = huggingface.load(tmp_path / "in")
    prompts = IDS[:, :11].tolist()
    found = generate(ours, prompts, max_new_tokens=24, temperature=0, seed=0)
    for prompt, completion in zip(prompts, found, strict=True):
        with torch.no_grad():
            ids = torch.tensor([prompt])
            wanted = theirs.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=24,
                do_sample=False,
                eos_token_id=None,
            )
        assert completion.ids == wanted[0, 11:].tolist()


def test_our_own_network_is_a_nanochat(tmp_path):
    from tests.core_ml.models import small_model

    model = small_model(VOCAB, n_layer=3, n_kv_head=1).eval()
    tmp_path.joinpath("model").mkdir()
    family, fields = families.write(model.config)
    (tmp_path / "model" / "config.json").write_text(json.dumps(fields))
    huggingface.save_weights(model, family, tmp_path / "model" / "model.safetensors")
    assert family.name == "nanochat"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    torch.testing.assert_close(logits(theirs), logits(model), atol=1e-4, rtol=0)
    again = huggingface.load(tmp_path / "model")
    state = model.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in again.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"value_head": True}, "nanochat, the nearest, is without value_head = True"),
        ({"window": 16}, "window = 16"),
        ({"gated": True, "activation": "silu"}, "gated = True"),
    ],
)
def test_a_network_of_no_family_is_told_what_stands_in_the_way(changes, named):
    with pytest.raises(UserError, match="no published family has this network") as error:
        families.write(GPTConfig(vocab_size=300, **changes))
    assert named in error.value.message


def test_a_width_that_llama_refuses_leaves_as_another_family():
    shared = {
        "qk_norm": None,
        "norm_weight": "plain",
        "embedding_norm": False,
        "gated": True,
        "activation": "silu",
    }
    fits = GPTConfig(vocab_size=64, d_model=40, n_head=4, n_kv_head=2, head_width=8, **shared)
    odd = fits.model_copy(update={"d_model": 42})
    assert families.write(fits)[0].name == "llama"
    family, fields = families.write(odd)
    assert family.name == "mistral"
    transformers.AutoConfig.for_model(**fields)  # which would raise ValueError for a Llama


def test_settings_that_do_nothing_stand_in_no_way():
    plain = GPTConfig(vocab_size=300)
    odd = plain.model_copy(update={"window_pattern": (True, False), "norm_bias": True, "head_width": 32})
    assert families.write(plain) == families.write(odd)


def test_shards_with_an_index_are_read(tmp_path):
    theirs = published.save("llama", tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    torch.testing.assert_close(logits(huggingface.load(tmp_path)), logits(theirs), atol=1e-4, rtol=0)


def test_smaller_types_are_read_and_written_without_loss(tmp_path):
    theirs = published.make("qwen3").to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "in")
    ours = huggingface.load(tmp_path / "in")
    family, _ = families.write(ours.config, preferred="qwen3")
    huggingface.save_weights(ours, family, tmp_path / "out.safetensors", "bfloat16")
    before = load_file(tmp_path / "in" / "model.safetensors")
    after = load_file(tmp_path / "out.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_number_too_large_for_the_type_is_told(tmp_path):
    ours = huggingface.load(saved("llama", tmp_path / "in"))
    with torch.no_grad():
        ours.norm.weight[0] = 1e6
    with pytest.raises(UserError, match="too large for float16"):
        huggingface.save_weights(ours, families.FAMILIES["llama"], tmp_path / "out.safetensors", "float16")


def test_a_folder_without_its_head_and_with_old_buffers_is_read(tmp_path):
    """The first release of GPT-2 is such a one."""
    theirs = published.save("gpt2", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 128, 128, dtype=torch.uint8).tril()
    save_file(bare, tmp_path / "model.safetensors")
    torch.testing.assert_close(logits(huggingface.load(tmp_path)), logits(theirs), atol=1e-4, rtol=0)


def saved(name: str, folder: Path) -> Path:
    published.save(name, folder)
    return folder


def change(folder: Path, **fields: object) -> Path:
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_type": "mamba"}, "'mamba' are not covered"),
        ({"model_type": ["llama"]}, "are not covered"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"auto_map": {"AutoModel": "evil.py"}}, "auto_map: code of its own"),
        ({"quantization_config": {"bits": 4}}, "quantized weights"),
        ({"hidden_act": "tanh"}, "'tanh' is not covered"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "'yarn' are not covered"),
        ({"rope_parameters": {"rope_type": "linear"}}, "lacks 'factor'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "kind of layer"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
        ),
        ({"rope_parameters": [4]}, "damaged"),
        ({"hidden_size": None}, "damaged: a setting is not of its kind"),
        ({"num_attention_heads": 0}, "damaged: a setting is not of its kind"),
        ({"num_attention_heads": 3}, "must be a multiple"),
        ({"head_dim": 7}, "head_width 7 even"),
        ({"num_hidden_layers": 10**9}, "n_layer"),
        ({"num_key_value_heads": 3}, "n_kv_head"),
        ({"vocab_size": 97}, "lm_head.weight is [96, 32] and must be [97, 32]"),
        ({"num_hidden_layers": 3}, "model.layers.3"),
        ({"num_hidden_layers": 5}, "lacks the tensor model.layers.4"),
    ],
)
def test_what_is_not_covered_is_refused_by_name(fields, named, tmp_path):
    with pytest.raises(UserError) as error:
        huggingface.load(change(saved("llama", tmp_path), **fields))
    assert named in error.value.message


def test_only_safetensors_are_read(tmp_path):
    theirs = published.save("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="only weights in safetensors are read"):
        huggingface.load(tmp_path)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", ".hidden.safetensors", 7])
def test_an_index_that_leads_elsewhere_is_refused(name, tmp_path):
    published.save("llama", tmp_path)
    index = {"weight_map": {"model.norm.weight": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="is damaged"):
        huggingface.load(tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    published.save("llama", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.norm\.weight holds numbers that are not finite"):
        huggingface.load(tmp_path)


# Settings as they stand in the folders on the hub, written by older and newer versions of the library, and the
# number of parameters that their authors state.
RELEASED = {
    "gpt2": (
        {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new",
         "layer_norm_epsilon": 1e-05, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
         "n_positions": 1024, "vocab_size": 50257},
        124_439_808,
    ),
    "Llama-3.2-1B": (
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "attention_bias": False, "head_dim": 64,
         "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072,
         "mlp_bias": False, "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
         "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": True,
         "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                          "original_max_position_embeddings": 8192, "rope_type": "llama3"},
         "vocab_size": 128256},
        1_235_814_400,
    ),
    "Qwen2.5-0.5B": (
        {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": 896,
         "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
         "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
         "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
         "use_sliding_window": False, "vocab_size": 151936},
        494_032_768,
    ),
    "Qwen3-0.6B": (
        {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128,
         "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
         "max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
         "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
         "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936},
        596_049_920,
    ),
    "gemma-2-2b": (
        {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "attention_bias": False,
         "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid", "final_logit_softcapping": 30.0,
         "head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
         "hidden_size": 2304, "intermediate_size": 9216, "max_position_embeddings": 8192,
         "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4,
         "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096,
         "vocab_size": 256000},
        2_614_341_888,
    ),
    "Mistral-7B-v0.1": (
        {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "hidden_act": "silu",
         "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
         "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
         "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False, "vocab_size": 32000},
        7_241_732_096,
    ),
    "SmolLM3-3B": (
        {"model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], "attention_bias": False,
         "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 11008,
         "layer_types": ["full_attention"] * 36, "max_position_embeddings": 65536, "max_window_layers": 28,
         "mlp_bias": False, "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9,
         "num_attention_heads": 16, "num_hidden_layers": 36, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
         "rope_scaling": None, "rope_theta": 5000000.0, "sliding_window": None, "use_sliding_window": False,
         "vocab_size": 128256},
        3_075_098_624,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_released_networks_have_the_size_that_their_authors_state(name):
    fields, n_parameters = RELEASED[name]
    family, config = families.read(fields)
    assert config.n_parameters == n_parameters
    pieces = [piece for parts in family.layout(config).values() for piece in parts]
    assert sum(math.prod(piece.shape) for piece in pieces) == n_parameters
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**fields))
    state = {name: list(tensor.shape) for name, tensor in theirs.state_dict().items()}
    if config.tie_embeddings:
        state.pop("lm_head.weight")
    assert {piece.name: piece.shape for piece in pieces} == state
    again, written = families.write(config, preferred=family.name)
    assert (again, families.read(written)[1]) == (family, config)
