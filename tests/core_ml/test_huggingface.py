"""Checkpoints as Hugging Face folders, read by `transformers` as anyone would read them."""

import json

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from core_ml import artifact
from core_ml.engine import tools
from core_ml.errors import UserError
from core_ml.exchange import huggingface
from core_ml.exchange.card import escape, model_card
from core_ml.model import checkpoint
from core_ml.sampling.generate import generate
from core_ml.tokenizer.tokenizer import ROLES, SPECIALS
from tests.core_ml.models import small_tokenizer, write_checkpoint

LLAMA = {
    "qk_norm": None,
    "norm_weight": "plain",
    "embedding_norm": False,
    "gated": True,
    "activation": "silu",
    "tie_embeddings": True,
}


pytestmark = pytest.mark.usefixtures("in_float32")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A chat checkpoint and the folder that it leaves as."""
    path = tmp_path_factory.mktemp("exported")
    made = write_checkpoint(path, "chat")
    folder = path / "folder"
    folder.mkdir()
    assert huggingface.save(folder, made) == "nanochat"
    return made, folder


@pytest.mark.parametrize(("changes", "family"), [({}, "nanochat"), (LLAMA, "llama")])
def test_an_exported_checkpoint_answers_as_it_does_here(changes, family, tmp_path):
    made = write_checkpoint(tmp_path, "chat", **changes)
    folder = tmp_path / "folder"
    folder.mkdir()
    assert huggingface.family(made.path) == huggingface.save(folder, made) == family
    ours, tokenizer = checkpoint.load(made.path, "cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    spoken = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "What is 1 + 2?"}]
    prompt = tokenizer.prompt(messages)
    ids = spoken.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert ids["input_ids"][0].tolist() == prompt
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(ids["input_ids"]).logits, ours(torch.tensor([prompt])), atol=1e-4, rtol=0
        )
        # The folder's own settings say how: greedily, up to the end of the turn.
        answer = theirs.generate(**ids, max_new_tokens=20)[0, len(prompt) :]
    stops = (tokenizer.end_id, tokenizer.bos_id, tokenizer.start_id)
    wanted = generate(ours, [prompt], max_new_tokens=20, temperature=0, stop_ids=stops, seed=0)[0]
    assert answer.tolist() == wanted.ids


spoken_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(
    lambda text: not any(name in text for name in SPECIALS)
)
conversations = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": spoken_text}), min_size=1, max_size=4
)


@pytest.fixture(scope="module")
def spoken(exported):
    return transformers.AutoTokenizer.from_pretrained(exported[1])


OURS = small_tokenizer()


@settings(max_examples=200, deadline=None)
@given(messages=conversations)
def test_the_chat_template_writes_the_ids_that_our_engine_writes(spoken, messages):
    found = spoken.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert found == OURS.prompt(tools.said(messages, []))


def test_thoughts_and_calls_of_tools_stand_between_their_marks(spoken):
    parts = [
        {"type": "thinking", "text": "hm"},
        {"type": "tool_call", "text": "1+2"},
        {"type": "tool_result", "text": "3"},
        {"type": "text", "text": "It is 3."},
    ]
    messages = [{"role": "assistant", "content": "", "parts": parts}]
    found = spoken.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert found == OURS.prompt(messages)
    assert len(found) > len(OURS.encode("hm1+23It is 3.")) + 6  # the marks are there


WEATHER = {
    "name": "weather",
    "description": "Tells „the“ weather.",
    "parameters": {"type": "object", "properties": {}},
}
CALL = {"name": "weather", "arguments": '{"where": "Köln", "days": [1, 2]}'}


@pytest.mark.parametrize("begins", [[], [{"role": "system", "content": "Be brief."}]])
def test_tools_are_described_called_and_answered_as_in_our_engine(spoken, begins):
    asked = {"role": "user", "content": "Rain?"}
    called = {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [{"type": "function", "function": CALL}],
    }
    messages = [*begins, asked, called, {"role": "tool", "content": "sun"}]
    definitions = [{"type": "function", "function": WEATHER}]
    found = spoken.apply_chat_template(
        messages, tools=definitions, add_generation_prompt=True, return_dict=False
    )
    assert found == OURS.prompt(tools.said(messages, definitions))
    assert OURS.part_ids["tool_call"][0] in found and OURS.part_ids["tool_result"][0] in found
    # transformers' own users give arguments as an object, and call without definitions.
    called["tool_calls"][0]["function"] = {**CALL, "arguments": json.loads(CALL["arguments"])}
    again = spoken.apply_chat_template(
        messages, tools=definitions, add_generation_prompt=True, return_dict=False
    )
    assert again == found


@settings(max_examples=200, deadline=None)
@given(text=spoken_text)
def test_a_text_by_itself_begins_as_our_completions_do(spoken, text):
    assert spoken(text).input_ids == [OURS.bos_id, *OURS.encode(text)]
    assert spoken.decode(spoken(text).input_ids, skip_special_tokens=True) == text


def test_a_base_model_ends_where_a_document_ends(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    huggingface.save(folder, write_checkpoint(tmp_path, "base"))
    spoken = transformers.AutoTokenizer.from_pretrained(folder)
    assert (spoken.bos_token, spoken.eos_token) == ("<|bos|>", "<|bos|>")
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == spoken.bos_token_id


def test_smaller_types_halve_the_file(exported, tmp_path):
    made, folder = exported
    tmp_path.joinpath("half").mkdir()
    huggingface.save(tmp_path / "half", made, dtype="bfloat16")
    sizes = [(one / "model.safetensors").stat().st_size for one in (folder, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]
    half = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert half.dtype == torch.bfloat16


def test_a_checkpoint_of_no_family_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(UserError, match="window = 16"):
        huggingface.save(folder, write_checkpoint(tmp_path, "chat", window=16))
    assert not list(folder.iterdir())


HOSTILE = (
    "![x](http://e.vil/a.png) <img src=x onerror=alert(1)> | `code` ~~no~~ www.evil.com\n\n# Title\n---\n@me"
)


def test_a_model_card_tells_lineage_settings_and_figures_and_escapes_them(exported):
    made = exported[0].manifest
    origin = artifact.Origin(
        run=7,
        recipe="sft",
        config={"lr": 3e-4, "note": HOSTILE},
        inputs={"conversations": ["41-rows", HOSTILE]},
    )
    summary = {
        "val_loss": 1.25,
        "by_task": {"sums": 0.5},
        "findings": ["It counts.", HOSTILE],
        "nothing": None,
    }
    manifest = made.model_copy(update={"origin": origin, "summary": summary, "name": HOSTILE})
    data = made.model_copy(
        update={"id": "41-rows", "kind": "dataset", "form": "conversations", "name": "talks"}
    )
    config = checkpoint.read_config(exported[0].path)
    card = model_card(manifest, [data], "nanochat", config, chats=True)
    lines = card.splitlines()
    assert "| lr | 0.0003 |" in lines
    assert "| val\\_loss | 1.25 |" in lines
    assert "| by\\_task / sums | 0.5 |" in lines
    assert "| findings | It counts. |" in lines
    assert "- conversations **talks** by test, 41-rows" in lines
    assert any("by sft (run 7)" in line for line in lines)
    body = card.replace(escape(HOSTILE), "")
    assert "evil" not in body and "e.vil" not in body and "onerror" not in body
    shown = escape(HOSTILE)
    assert "\n" not in shown and "<" not in shown.replace("\\<", "") and "|" not in shown.replace("\\|", "")
    assert (
        "http://" not in shown
        and "www.evil" not in shown
        and "](" not in shown
        and "`" not in shown.replace("\\`", "")
    )
    assert [line[:2] for line in lines].count("# ") == 1
