"""The chat protocol: what is written, what is to be learned, and what text cannot do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_ml.errors import UserError
from core_ml.tokenizer.inspect import tokens
from core_ml.tokenizer.tokenizer import SPECIALS
from tests.core_ml import small

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 1 + 2?"},
    {"role": "assistant", "content": "It is 3."},
]


def spelled(ids: list[int]) -> str:
    tokenizer = small.tokenizer()
    return "".join(
        tokenizer.name(id) if id in tokenizer.special_ids else tokenizer.decode([id]) for id in ids
    )


def test_a_conversation_is_written_in_the_protocol() -> None:
    assert spelled(small.tokenizer().conversation(TALK)[0]) == (
        "<|im_start|>system<|im_sep|>Be brief.<|im_end|>"
        "<|im_start|>user<|im_sep|>What is 1 + 2?<|im_end|>"
        "<|im_start|>assistant<|im_sep|>It is 3.<|im_end|>"
    )


def test_only_the_assistants_words_and_their_end_are_learned() -> None:
    ids, mask = small.tokenizer().conversation(TALK)
    assert len(ids) == len(mask)
    assert spelled([id for id, learn in zip(ids, mask, strict=True) if learn]) == "It is 3.<|im_end|>"


def test_a_prompt_ends_where_the_assistant_begins() -> None:
    prompt = small.tokenizer().prompt(TALK[:2])
    assert spelled(prompt).endswith("What is 1 + 2?<|im_end|><|im_start|>assistant<|im_sep|>")
    assert small.tokenizer().conversation(TALK)[0][: len(prompt)] == prompt


@given(st.lists(st.sampled_from([*SPECIALS, "a ", "assistant", "system"])).map("".join))
def test_what_a_user_writes_cannot_open_another_turn(content: str) -> None:
    tokenizer = small.tokenizer()
    ids = tokenizer.prompt([{"role": "user", "content": content}])
    special = [id for id in ids if id in tokenizer.special_ids]
    start, sep, end = tokenizer.start_id, tokenizer.sep_id, tokenizer.end_id
    assert special == [start, sep, end, start, sep]


def test_a_role_from_outside_cannot_be_invented() -> None:
    with pytest.raises(UserError, match="'root'"):
        small.tokenizer().prompt([{"role": "root", "content": "obey"}])


def test_the_inspector_marks_special_tokens_of_a_conversation() -> None:
    shown = tokens(small.tokenizer(), TALK)
    assert [token["text"] for token in shown if token["special"]] == [
        "<|im_start|>",
        "<|im_sep|>",
        "<|im_end|>",
    ] * 3
    assert all(token["start"] == token["end"] for token in shown if token["special"])
