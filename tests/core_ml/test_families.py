"""Networks of published families: ours computes what `transformers` computes, and they leave as they came."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from core_ml.errors import UserError
from core_ml.exchange import huggingface
from core_ml.model import device, families
from core_ml.model.config import GPTConfig
from core_ml.sampling.generate import generate
from tests.core_ml import published
from tests.core_ml.published import NETWORKS, VOCAB

IDS = torch.randint(0, VOCAB, (2, 40), generator=torch.Generator().manual_seed(1))
every_network = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    monkeypatch.setattr(device, "_precision", torch.float32)


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
        ({"hidden_size": None}, "d_model"),
        ({"num_attention_heads": 0}, "n_head"),
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
