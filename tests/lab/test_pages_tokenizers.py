"""The tokenizers' pages: text as tokens, the chat protocol, side by side, merges, the vocabulary."""

import re

import pytest

from core_ml.tokenizer.tokenizer import Tokenizer
from lab.pages import tokenizers
from lab.services import artifacts
from tests.lab import making

pytestmark = pytest.mark.django_db
ATTACK = "<b onclick=x>"


@pytest.fixture
def letters(tmp_home):
    return making.tokenizer()


def tokens(page: str) -> list[str]:
    box = re.search(r'data-toks.*?role="group" aria-label="Tokens">(.*?)</div>', page, re.DOTALL)
    return re.findall(r'<span class="tok[^>]*>(.*?)</span>', box[1], re.DOTALL)


def test_a_text_becomes_the_tokens_that_the_tokenizer_makes(browser, letters):
    page = browser().get(f"/tokenizers/{letters.pk}", {"text": "the cat"}).content.decode()
    expected = Tokenizer.load(artifacts.local_path(letters) / "tokenizer.json").encode("the cat")
    assert [int(id) for id in re.findall(r'data-id="(\d+)"', page)[: len(expected)]] == expected
    assert "".join(tokens(page)) == "the cat"


def test_line_ends_are_seen_and_half_a_character_is_its_bytes(browser, letters):
    page = browser().get(f"/tokenizers/{letters.pk}", {"text": "a\r\né"}).content.decode()
    assert tokens(page) == ["a", "↵\n", "‹c3›", "‹a9›"]


def test_markup_and_special_names_in_a_text_are_text(browser, letters):
    page = browser().get(f"/tokenizers/{letters.pk}", {"text": f"{ATTACK}<|im_end|>", "user": ATTACK, "word": ATTACK}).content.decode()  # fmt: skip
    assert "<b onclick" not in page
    assert not re.search(
        r'data-toks.*?class="tok special".*?</div>\n <div class="row spread"><dl', page, re.DOTALL
    )


def test_the_assistants_words_and_their_end_are_trained_and_nothing_else(letters):
    tokenizer = tokenizers.load(letters)
    told = tokenizers.chat(tokenizer, "hi", "sea")
    trained = [token["text"] for line in told["lines"] for token in line if token["trained"]]
    assert "".join(trained) == "sea<|im_end|>"
    assert len(told["lines"]) == 2


def test_merges_stand_above_each_other_in_the_order_they_were_learned(letters):
    told = tokenizers.merged(tokenizers.load(letters), "the")
    rows = told["merge_rows"]
    assert [piece["text"] for piece in rows[0]["pieces"]] == ["t", "h", "e"]
    assert "".join(piece["text"] for piece in rows[-1]["pieces"]) == "the"
    assert all(sum(piece["width"] for piece in row["pieces"]) == 3 for row in rows)
    assert all(sum(piece["new"] for piece in row["pieces"]) == 1 for row in rows[1:])
    assert len(rows[-1]["pieces"]) == told["n_word_tokens"]


def test_two_tokenizers_stand_side_by_side(browser, letters):
    other = making.tokenizer(uid="0000dddd")
    page = browser().get(f"/tokenizers/{letters.pk}", {"with": other.pk, "text": "sea"}).content.decode()
    assert f'value="{other.pk}" selected' in page


def test_the_vocabulary_is_searched_by_piece_and_by_id(browser, letters):
    page = browser().get(f"/tokenizers/{letters.pk}?view=vocabulary&q=im_sep").content.decode()
    assert "&lt;|im_sep|&gt;" in page
    assert "1 to 1 of 1 tokens" in page
    assert browser().get(f"/tokenizers/{letters.pk}?view=vocabulary&offset=9999999").status_code == 200


def test_a_long_text_is_cut_and_an_empty_one_is_fine(browser, letters):
    assert browser().get(f"/tokenizers/{letters.pk}", {"text": ""}).status_code == 200
    page = browser().get(f"/tokenizers/{letters.pk}", {"text": "a" * 9000}).content.decode()
    assert "4,000</span> bytes" in page


def test_a_damaged_tokenizer_is_told(browser, tmp_home):
    made = making.tokenizer(uid="0000eeee")
    (artifacts.local_path(made) / "tokenizer.json").write_text("{}")
    answer = browser().get(f"/tokenizers/{made.pk}")
    assert answer.status_code == 200
    assert 'class="note fail' in answer.content.decode()


def test_the_list_strangers_and_unknown_ids(browser, letters):
    assert "letters" in browser().get("/tokenizers").content.decode()
    assert browser(None).get("/tokenizers")["Location"].startswith("/sign-in")
    assert browser("labeler").get(f"/tokenizers/{letters.pk}").status_code == 403
    assert browser().get("/tokenizers/nothing").status_code == 404
