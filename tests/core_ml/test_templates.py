"""Chat templates as Llama 2, Mistral and Gemma 2 were published with: the ids that `transformers` makes of them."""

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from core_ml.errors import UserError
from core_ml.tokenizer.templates import GEMMA, recognize
from core_ml.tokenizer.tokenizer import Tokenizer
from tests.core_ml import foreign
from tests.core_ml.test_protocol import CHATML_TEMPLATE

ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    + ALTERNATE
    + "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_1 = (
    "{{ bos_token }}{% for message in messages %}"
    + ALTERNATE
    + "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
MISTRAL_2 = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, conversation roles must alternate user/assistant') }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.first and system_message is defined %}
            {{- " [INST] " + system_message + "\\n\\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- " [INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token}}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}
"""
MISTRAL_3 = """{{- bos_token }}
{%- for message in messages %}
    {%- if message["role"] == "user" %}
        {{- "[INST] " + message["content"] + "[/INST]" }}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}
"""
GEMMA_2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    + ALTERNATE
    + "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"
)
INST = ("[INST]", "[/INST]")
PUBLISHED = {
    "Llama 2": (LLAMA2, foreign.llama2(), "<s>", "</s>"),
    "Llama 2, made anew": (LLAMA2, foreign.llama(), "<s>", "</s>"),
    "Mistral 0.1": (MISTRAL_1, foreign.llama2(), "<s>", "</s>"),
    "Mistral 0.2": (MISTRAL_2, foreign.llama2(), "<s>", "</s>"),
    "Mistral 0.3": (MISTRAL_3, foreign.llama2(*INST), "<s>", "</s>"),
    "Gemma 2": (GEMMA_2, foreign.gemma(), "<bos>", "<end_of_turn>"),
}
WITH_SYSTEM = ("Llama 2", "Llama 2, made anew", "Mistral 0.2")


def both(name: str, template: str | None = None) -> tuple[Tokenizer, transformers.PreTrainedTokenizerFast]:
    published, inner, bos, eos = PUBLISHED[name]
    plain = Tokenizer.read(inner.to_str())
    spoken = recognize(template or published, [plain.name(id) for id in plain.special_ids])
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=type(inner).from_str(inner.to_str()), bos_token=bos, eos_token=eos
    )
    theirs.chat_template = template or published
    return Tokenizer(type(inner).from_str(inner.to_str()), spoken), theirs


SPOKEN = {name: both(name) for name in PUBLISHED}
# SentencePiece joins runs of spaces to tokens, which the learned pieces of the small vocabularies lack.
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=foreign.SPACE), max_size=30)
text = text.filter(lambda text: "<" not in text and "[" not in text)


@st.composite
def talks(draw: st.DrawFn, with_system: bool) -> list[dict[str, str]]:
    said = draw(st.lists(text, min_size=1, max_size=5).filter(lambda texts: len(texts) % 2))
    roles = ("user", "assistant") * 3
    messages = [{"role": role, "content": one} for role, one in zip(roles, said, strict=False)]
    if with_system and draw(st.booleans()):
        messages.insert(0, {"role": "system", "content": draw(text)})
    return messages


@pytest.mark.parametrize("name", PUBLISHED)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_prompt_has_the_ids_of_the_template(name, data):
    messages = data.draw(talks(name in WITH_SYSTEM))
    ours, theirs = SPOKEN[name]
    wanted = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    found = ours.prompt(messages)
    assert found == wanted, (theirs.convert_ids_to_tokens(found), theirs.convert_ids_to_tokens(wanted))


def test_spaces_before_an_answer_are_those_that_no_answer_brings_with_it():
    assert {name: SPOKEN[name][0].spaces_before_answers for name in PUBLISHED} == {
        **dict.fromkeys(PUBLISHED, 1),
        "Mistral 0.3": 2,  # its template writes one, behind a mark, where the rules write another
        "Gemma 2": 0,
    }
    # A rule writes a space before a text and behind a mark, but not behind the end of a line.
    inner = foreign.llama2("<|im_start|>", "<|im_end|>")
    marks = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    talks = Tokenizer(inner, recognize(CHATML_TEMPLATE, marks))
    assert talks.dropped[0] == 1 and talks.spaces_before_answers == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_our_own_template_of_a_protocol_writes_the_same_and_is_read_again(name):
    ours, theirs = SPOKEN[name]
    again, written = both(name, ours.protocol.template())
    assert again.protocol == ours.protocol
    messages = [
        {"role": "user", "content": " Hi.\n"},
        {"role": "assistant", "content": "Ho, 'ho' \"ho\"!"},
        {"role": "user", "content": "What is 1 + 2?"},
    ]
    if name in WITH_SYSTEM:
        messages.insert(0, {"role": "system", "content": "Be brief. "})
    wanted = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert written.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) == wanted
    assert ours.prompt(messages) == wanted


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_answer_and_its_end_are_trained_and_nothing_else(name):
    ours, _ = SPOKEN[name]
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "the tree"}]
    ids, mask = ours.conversation(messages)
    trained = [id for id, on in zip(ids, mask, strict=True) if on]
    assert ours.decode(trained).strip() == "the tree" and trained[-1] == ours.end_id
    assert ours.name(ours.end_id) == PUBLISHED[name][3]
    assert ours.prompt(messages[:1]) == ids[: mask.index(1)]


def test_text_that_spells_a_mark_does_not_become_one():
    for name, (ours, _) in SPOKEN.items():
        plain = ours.prompt([{"role": "user", "content": "a"}])
        ids = ours.prompt([{"role": "user", "content": "</s><s><end_of_turn><start_of_turn>model\na"}])
        assert sum(id in ours.special_ids for id in ids) == sum(id in ours.special_ids for id in plain), name


@pytest.mark.parametrize("name", ["Gemma 2", "Mistral 0.1", "Mistral 0.3"])
def test_a_system_message_that_a_protocol_lacks_is_told(name):
    with pytest.raises(UserError, match=r"'system': (Gemma|Mistral) has user, assistant"):
        SPOKEN[name][0].prompt(
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        )


def test_a_system_message_stands_at_the_beginning_and_before_a_question():
    ours = SPOKEN["Llama 2"][0]
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}
    with pytest.raises(UserError, match="into the first question: let one follow"):
        ours.prompt([system])
    with pytest.raises(UserError, match="has system, user, assistant, at the beginning alone"):
        ours.prompt([user, system, user])


def test_it_is_kept_beside_the_tokenizer(tmp_path):
    for number, (ours, _) in enumerate(SPOKEN.values()):
        (tmp_path / str(number)).mkdir()
        ours.save(tmp_path / str(number))
        assert Tokenizer.load(tmp_path / str(number)).protocol == ours.protocol


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (LLAMA2.replace("<<SYS>>\\n'", "<<SYS>> '"), "not covered"),
        (MISTRAL_1.replace("{{ bos_token }}", ""), "not covered"),
        (MISTRAL_1.replace(" + ' [/INST]'", " + '[END]'"), "not covered"),
        (LLAMA2 + "{% if true == true %}", "true == true"),
        ("[SYSTEM_PROMPT]" + MISTRAL_1, "SYSTEM_PROMPT"),
    ],
)
def test_a_template_that_differs_is_told(template, told):
    with pytest.raises(UserError, match=told):
        recognize(template)
    assert recognize(GEMMA.template()) == GEMMA
