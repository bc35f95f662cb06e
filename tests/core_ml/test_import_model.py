"""Models that others have published, brought in from folders and from a hub."""

import json
from pathlib import Path

import openai
import pytest
import torch
import transformers

from core_ml import artifact
from core_ml.errors import UserError
from core_ml.events import Sample
from core_ml.exchange import huggingface
from core_ml.execute import read_config
from core_ml.model import checkpoint
from core_ml.recipes import sft
from core_ml.recipes.import_model import ImportModelConfig, run
from core_ml.sampling.generate import generate
from tests.core_ml import foreign, published, small, test_templates
from tests.core_ml.imported import bring, folder
from tests.core_ml.models import workspace, write_checkpoint
from tests.core_ml.test_protocol import CHATML_TEMPLATE, FOREIGN, WITH_SYSTEM
from tests.core_ml.test_sft import SMALL
from tests.engines import KEY, running

MESSAGES = [{"role": "user", "content": "What is 1 + 2?"}]


pytestmark = pytest.mark.usefixtures("in_float32")


def test_a_base_model_completes_as_it_does_elsewhere(tmp_path):
    wanted = folder(tmp_path / "in", None)
    made = bring(tmp_path, path=str(tmp_path / "in"))
    assert (made.manifest.role, made.manifest.name) == ("base", "in")
    assert made.manifest.summary["family"] == "qwen2"
    model, tokenizer = checkpoint.load(made.path, "cpu")
    assert not tokenizer.has_chat and tokenizer.vocab_size == FOREIGN.vocab_size
    with pytest.raises(UserError, match="no tokens for conversations"):
        tokenizer.prompt(MESSAGES)
    ids = [tokenizer.bos_id, *tokenizer.encode("Count from 1")]
    spoken = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    assert spoken("Count from 1").input_ids == ids[1:]
    found = generate(model, [ids], max_new_tokens=12, temperature=0, seed=0)[0].ids
    prompt = torch.tensor([ids])
    theirs_ids = wanted.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, eos_token_id=None
    )
    assert found == theirs_ids[0, len(ids) :].tolist()
    assert tokenizer.decode([tokenizer.vocab_size + 3, *tokenizer.encode("a")]) == "a"


@pytest.mark.parametrize("template", [CHATML_TEMPLATE, WITH_SYSTEM])
def test_a_chat_model_is_asked_in_its_own_protocol_and_leaves_as_it_came(template, tmp_path):
    wanted = folder(tmp_path / "in", template)
    made = bring(tmp_path, path=str(tmp_path / "in"), role="chat")
    assert made.manifest.role == "chat"
    assert "It talks in ChatML" in made.manifest.summary["findings"][0]
    _, tokenizer = checkpoint.load(made.path, "cpu")
    spoken = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    ids = spoken.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert tokenizer.prompt(MESSAGES) == ids

    (tmp_path / "again").mkdir()
    assert huggingface.save(tmp_path / "again", made) == "qwen2"
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in wanted.state_dict().items())
    spoken = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert spoken.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False) == ids
    assert spoken.eos_token == "<|im_end|>"


def test_a_base_model_may_be_given_the_tokens_of_our_protocol(tmp_path):
    wanted = folder(tmp_path / "in", None, "llama", vocab_size=FOREIGN.vocab_size)
    made = bring(tmp_path, path=str(tmp_path / "in"), chat_tokens=True)
    model, tokenizer = checkpoint.load(made.path, "cpu")
    n_old = FOREIGN.vocab_size  # two of our marks are ChatML's too, and <|bos|> and <|im_sep|> are new
    assert tokenizer.has_chat and tokenizer.vocab_size == model.config.vocab_size == n_old + 2
    prompt = torch.tensor([tokenizer.prompt(MESSAGES)])
    assert prompt.max() >= n_old
    old = prompt.clamp(max=n_old - 1)
    with torch.no_grad():
        torch.testing.assert_close(model(old)[..., :n_old], wanted(old).logits, atol=1e-4, rtol=0)
    rows = wanted.get_input_embeddings().weight
    torch.testing.assert_close(model.embedding.weight[n_old:], rows.mean(0).expand(2, -1))


def test_what_left_the_lab_comes_back(tmp_path):
    made = write_checkpoint(tmp_path, "chat")
    (tmp_path / "folder").mkdir()
    huggingface.save(tmp_path / "folder", made)
    again = bring(tmp_path, path=str(tmp_path / "folder"), role="chat")
    assert again.manifest.summary["findings"] == ["It talks in the lab's own chat protocol."]
    (one, first), (other, second) = (checkpoint.load(each.path, "cpu") for each in (made, again))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert first.prompt(MESSAGES) == second.prompt(MESSAGES)


@pytest.mark.parametrize(
    ("template", "told"),
    [(None, "carries no chat template: import it as a base model"), ("{{ messages }}", "not covered")],
)
def test_a_model_that_cannot_be_talked_to_is_told_plainly(template, told, tmp_path):
    folder(tmp_path / "in", template)
    with pytest.raises(UserError, match=told) as error:
        bring(tmp_path, path=str(tmp_path / "in"), role="chat")
    assert error.value.field == "role"
    assert not list((tmp_path / "out").iterdir())  # nothing half made is left


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    folder(tmp_path / "in", None)
    (tmp_path / "in" / "tokenizer.json").rename(tmp_path / "elsewhere.json")
    (tmp_path / "in" / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(UserError, match=r"tokenizer\.json is a link out of in"):
        bring(tmp_path, path=str(tmp_path / "in"))


def test_the_cache_of_the_hub_is_read_through_its_links(tmp_path):
    kept = tmp_path / "models--a--b"
    folder(kept / "snapshots" / "abc", None)
    (kept / "blobs").mkdir()
    (kept / "snapshots" / "abc" / "tokenizer.json").rename(kept / "blobs" / "123")
    (kept / "snapshots" / "abc" / "tokenizer.json").symlink_to("../../blobs/123")
    assert bring(tmp_path, path=str(kept / "snapshots" / "abc")).manifest.role == "base"


def test_a_damaged_tokenizer_and_a_missing_one_are_told(tmp_path):
    folder(tmp_path / "in", None)
    file = tmp_path / "in" / "tokenizer.json"
    file.write_text(json.dumps({"model": {"type": "WordPiece"}}))
    with pytest.raises(UserError, match="damaged"):
        bring(tmp_path, path=str(tmp_path / "in"))
    file.unlink()
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        bring(tmp_path, path=str(tmp_path / "in"))


def test_a_tokenizer_of_another_network_is_told(tmp_path):
    folder(tmp_path / "in", None, vocab_size=100)
    with pytest.raises(UserError, match="do not belong together"):
        bring(tmp_path, path=str(tmp_path / "in"))


def test_neither_source_nor_both_will_do(tmp_path):
    with pytest.raises(UserError, match="name a folder") as error:
        list(run(ImportModelConfig(), workspace(tmp_path, {})))
    assert error.value.field == "path"
    with pytest.raises(ValueError, match="both given"):
        ImportModelConfig(path="/x", hub="a/b")


@pytest.mark.parametrize("id", ["gpt2", "../../etc/passwd", "a/b/c", "a/b\n", "https://huggingface.co/a/b"])
def test_only_ids_with_an_owner_are_sent_to_the_hub(id):
    with pytest.raises(ValueError, match="hub"):
        ImportModelConfig(hub=id)


def test_without_a_network_one_sentence_says_so(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match="cannot be reached from this machine") as error:
        list(run(ImportModelConfig(hub="somebody/model"), workspace(tmp_path, {})))
    assert error.value.field == "hub" and "\n" not in error.value.message


@pytest.mark.parametrize(
    ("name", "template", "options"),
    [
        ("llama", None, {"chat_tokens": True}),
        ("qwen2", CHATML_TEMPLATE, {"role": "chat"}),
        ("gpt2", None, {"chat_tokens": True}),
        ("gemma2", None, {"chat_tokens": True}),
    ],
)
def test_an_imported_model_is_fine_tuned_here_and_leaves_again(name, template, options, tmp_path):
    folder(tmp_path / "in", template, name)
    made = bring(tmp_path, path=str(tmp_path / "in"), **options)
    workspace_of = small.workspace(
        sft.RECIPE,
        tmp_path / "tuned",
        checkpoint=made.path,
        conversations=small.conversations(tmp_path / "conversations"),
    )
    events = list(sft.RECIPE.run(read_config(sft.RECIPE, {**SMALL, "muon_lr": 0.005}), workspace_of))
    curve = [value for _, value in small.curves(events)["val_loss"]]
    assert curve[-1] < 0.9 * curve[0]
    tuned = artifact.Folder(tmp_path / "tuned" / "checkpoint")
    _, tokenizer = checkpoint.load(tuned.path, "cpu")
    assert tokenizer.protocol == checkpoint.load(made.path, "cpu")[1].protocol
    (tmp_path / "again").mkdir()
    assert huggingface.save(tmp_path / "again", tuned) == name
    spoken = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    found = spoken.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert found == tokenizer.prompt(MESSAGES)


ANEW = {
    "llama": (foreign.llama2, test_templates.LLAMA2, "<s>", "</s>"),
    "mistral": (foreign.llama2, test_templates.MISTRAL_1, "<s>", "</s>"),
    "gemma2": (foreign.gemma, test_templates.GEMMA_2, "<bos>", "<end_of_turn>"),
}


def released(path: Path, name: str) -> transformers.PreTrainedModel:
    """A model with a tokenizer whose tokens are SentencePiece's, as Llama 2, Mistral and Gemma 2 were released."""
    make, template, bos, eos = ANEW[name]
    inner = make()
    model = published.make(name, vocab_size=inner.get_vocab_size() + 3)
    model.save_pretrained(path)
    spoken = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token=eos)
    spoken.chat_template = template
    spoken.save_pretrained(path)
    return model


@pytest.mark.parametrize("name", ANEW)
@pytest.mark.parametrize("role", ["base", "chat"])
def test_models_with_tokenizers_of_characters_go_on_as_elsewhere_and_leave_as_they_came(name, role, tmp_path):
    wanted = released(tmp_path / "in", name)
    made = bring(tmp_path, path=str(tmp_path / "in"), role=role)
    model, tokenizer = checkpoint.load(made.path, "cpu")
    spoken = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    text = "the cat, 日本語 says"
    assert tokenizer.bos_id == spoken.bos_token_id and not tokenizer.is_of_bytes
    if role == "base":
        ids = spoken(text).input_ids
        assert [tokenizer.bos_id, *tokenizer.encode(text)] == (
            ids if ids[0] == tokenizer.bos_id else [tokenizer.bos_id, *ids]
        )
        ids = [tokenizer.bos_id, *tokenizer.encode(text)]
    else:
        messages = [{"role": "user", "content": text}]
        ids = spoken.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert tokenizer.prompt(messages) == ids
        assert f"It talks in {tokenizer.protocol.name}" in made.manifest.summary["findings"][0]
    found = generate(model, [ids], max_new_tokens=12, temperature=0, seed=0)[0].ids
    prompt = torch.tensor([ids])
    theirs_ids = wanted.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, eos_token_id=None
    )
    assert found == theirs_ids[0, len(ids) :].tolist()
    (tmp_path / "again").mkdir()
    assert huggingface.save(tmp_path / "again", made) == name
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again(text).input_ids == spoken(text).input_ids
    if role == "chat":
        assert again.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) == ids


@pytest.mark.parametrize(
    ("name", "options"),
    [("llama", {"role": "chat"}), ("gemma2", {"role": "chat"}), ("mistral", {"chat_tokens": True})],
)
def test_such_a_model_is_fine_tuned_here(name, options, tmp_path):
    released(tmp_path / "in", name)
    made = bring(tmp_path, path=str(tmp_path / "in"), **options)
    workspace_of = small.workspace(
        sft.RECIPE,
        tmp_path / "tuned",
        checkpoint=made.path,
        conversations=small.conversations(tmp_path / "conversations"),
    )
    config = read_config(sft.RECIPE, {**SMALL, "muon_lr": 0.005})
    events = list(sft.RECIPE.run(config, workspace_of))
    curve = [value for _, value in small.curves(events)["val_loss"]]
    assert curve[-1] < 0.9 * curve[0]
    samples = [event for event in events if isinstance(event, Sample)]
    assert samples and all(sample.prompt and "<" not in sample.prompt for sample in samples)


def test_the_engine_serves_imported_models(tmp_path):
    """Chat in the model's own protocol, completion without one, and a sentence where there is none to chat in."""
    wanted = folder(tmp_path / "in", WITH_SYSTEM)
    for role in ("chat", "base"):
        made = bring(tmp_path / role, path=str(tmp_path / "in"), role=role)
        (tmp_path / "root").mkdir(exist_ok=True)
        (tmp_path / role / "out").rename(tmp_path / "root" / role)
        # Ids of artifacts are the run's; here both would be "r1".
        manifest = tmp_path / "root" / role / "checkpoint" / "manifest.json"
        changed = made.manifest.model_copy(update={"id": f"{role}-checkpoint", "name": role})
        manifest.write_text(changed.model_dump_json())
    spoken = transformers.AutoTokenizer.from_pretrained(tmp_path / "in")
    ids = spoken.apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = wanted.generate(**ids, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    answer = answer[0, ids["input_ids"].size(1) :].tolist()
    with running(tmp_path / "root") as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        said = client.chat.completions.create(model="chat", messages=MESSAGES, max_tokens=8, temperature=0)
        assert said.choices[0].model_extra["token_ids"] == answer
        assert said.usage.prompt_tokens == ids["input_ids"].size(1)
        told = client.completions.create(model="base", prompt="Count", max_tokens=4, temperature=0)
        assert told.usage.completion_tokens == 4
        with pytest.raises(openai.BadRequestError, match="no tokens for conversations"):
            client.chat.completions.create(model="base", messages=MESSAGES, max_tokens=8)
