"""The tokenizers' pages: text as tokens, the chat protocol, side by side, merges, the vocabulary."""

import json
import re

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from core_ml.tokenizer.tokenizer import Tokenizer
from lab.models import Artifact
from lab.pages import tokenizers
from lab.services import artifacts
from tests.core_ml import foreign
from tests.core_ml.test_tokenizer_merges import gpt2_style
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


REPORT = {
    "languages": [
        {"name": "en", "bytes": 900, "bytes_per_token": 3.5, "tokens_per_word": 1.5},
        {"name": "zh", "bytes": 90, "bytes_per_token": 1.25, "tokens_per_word": None},
    ],
    "domains": [{"name": ATTACK, "bytes": 990, "bytes_per_token": 3.0, "tokens_per_word": 1.75}],
    "patterns": [
        {"name": "each digit alone", "chosen": True, "bytes_per_token": 3.0, "tokens_per_word": 1.5},
        {"name": "GPT-4's", "chosen": False, "bytes_per_token": 3.25, "tokens_per_word": 1.25},
    ],
    "counted_bytes": 5_000_000,
    "seldom": [[274, 0], [275, 3]],
}
SUMMARY = {"vocab_size": 280, "bytes_per_token": 3.0, "tokens_per_word": 1.5, "n_merges": 8, "dead_tokens": 1, "rare_tokens": 1, "measured_on_bytes": 990}  # fmt: skip


def test_the_report_shows_languages_domains_patterns_and_tokens_that_do_nothing(browser, letters):
    assert "view=report" not in browser().get(f"/tokenizers/{letters.pk}").content.decode()
    letters.summary = {**SUMMARY, "report": REPORT}
    letters.save()
    page = browser().get(f"/tokenizers/{letters.pk}?view=report").content.decode()
    assert "A token reaches 3 bytes" in page and "1 dead token, 1 rare" in page
    assert ATTACK not in page and "&lt;b onclick=x&gt;" in page
    # The longest reach of the patterns stands out, and a language without spaces has no tokens a word.
    assert re.search(r"GPT-4&#x27;s</th><td class=\"num best\">3.25", page)
    assert re.search(r"zh</th><td class=\"num\">1.25</td><td class=\"num\"><span class=\"dim\">–", page)
    tokenizer = Tokenizer.load(artifacts.local_path(letters))
    assert f'<span class="tok" title="id 274, {tokenizer.token_bytes[274].hex(" ")}">' in page


def test_a_report_that_was_not_measured_says_so(browser, letters):
    page = browser().get(f"/tokenizers/{letters.pk}?view=report").content.decode()
    assert "this tokenizer was brought in" in page


def test_a_tokenizer_is_brought_in_by_the_form_and_opens(browser, tmp_home):
    file = SimpleUploadedFile("gpt-small.json", gpt2_style().encode())
    answer = browser().post("/tokenizers", {"file": file, "name": "", "pattern": "gpt4"}, follow=True)
    page = answer.content.decode()
    assert answer.status_code == 200 and "gpt-small is here." in page
    made = Artifact.objects.get()
    assert made.name == "gpt-small" and f"/api/v1/tokenizers/{made.pk}/ranks" in page
    assert "gpt-small" in browser().get("/tokenizers").content.decode()
    for view in ("vocabulary", "text"):
        assert browser().get(f"/tokenizers/{made.pk}?view={view}&word=The+cat%27s").status_code == 200


def test_what_cannot_be_brought_in_is_told_at_its_field(browser, tmp_home):
    for fields, field, told in (
        ({}, "file", "no file was chosen"),
        ({"file": SimpleUploadedFile("a.json", b"{}")}, "file", "a.json is damaged"),
        ({"url": "http://127.0.0.1/t.json"}, "url", "not a public address"),
        ({"file": SimpleUploadedFile("r", b"YQ== 0"), "pattern": "own", "own_pattern": "("}, "own_pattern", "no regular"),
    ):  # fmt: skip
        answer = browser().post("/tokenizers", fields)
        page = answer.content.decode()
        assert answer.status_code == 422 and told in page
        assert re.search(rf'name="{field}"[^>]*aria-invalid="true"', page)
    assert not Artifact.objects.exists()
    assert browser(None).post("/tokenizers", {}).status_code == 302
    assert browser("labeler").post("/tokenizers", {}).status_code == 403


def test_a_tokenizer_that_changes_letters_first_is_shown_too(browser, tmp_home):
    content = json.loads(gpt2_style())
    content |= {"normalizer": {"type": "NFC"}, "pre_tokenizer": None}
    # Bytes are made by nothing here, so only what is written as itself has tokens.
    file = SimpleUploadedFile("odd.json", json.dumps(content).encode())
    answer = browser().post("/tokenizers", {"file": file}, follow=True)
    assert answer.status_code == 200
    made = Artifact.objects.get()
    assert made.summary["lossless"] is False and made.summary["writes_ranks"] is False
    assert "/ranks" not in browser().get(f"/tokenizers/{made.pk}?word=é").content.decode()


@pytest.mark.parametrize("kind", ["llama 2", "gemma", "unigram", "wordpiece"])
def test_tokenizers_of_other_kinds_are_shown_too(browser, tmp_home, kind):
    file = SimpleUploadedFile("other.json", foreign.KINDS[kind]().to_str().encode())
    assert browser().post("/tokenizers", {"file": file}).status_code == 302
    made = Artifact.objects.get()
    for view in ("text", "vocabulary", "report"):
        answer = browser().get(
            f"/tokenizers/{made.pk}", {"view": view, "text": "the tree, été", "word": "the été"}
        )
        assert answer.status_code == 200
    found = browser().get(f"/tokenizers/{made.pk}", {"view": "vocabulary", "q": "e"})
    assert found.context["n_found"] > 1
