"""Each filter's measures, with numbers worked out by hand or by an independent implementation."""

import random
from collections import Counter

import numpy as np
import pytest

from core_ml.crawl import c4, custom, extraction, language, minhash, pii, quality, repetition, url_filter
from core_ml.crawl.config import CrawlConfig
from tests.core_ml.crawled import OFF


def config(**fields: object) -> CrawlConfig:
    return CrawlConfig.model_validate({**OFF, **fields})


def test_a_banned_domain_covers_what_lies_below_it_and_nothing_beside_it():
    def hits(url: str) -> float:
        return url_filter.measure(url, ("Bad.example",), ())["banned_domain_hits"]

    assert hits("http://bad.example/") == hits("https://www.bad.example:8080/x") == 1
    assert hits("http://notbad.example/") == hits("http://bad.example.org/") == hits("http://[broken") == 0


def test_a_banned_word_counts_only_where_it_stands_alone():
    assert url_filter.measure("http://a.example/xxx-movies", (), ("xxx",))["banned_word_hits"] == 1
    assert url_filter.measure("http://essex.example/sussex", (), ("sex",))["banned_word_hits"] == 0


def test_nesting_counts_open_elements_and_not_those_that_html_closes_by_itself():
    assert extraction.nesting(b"<div><p>a<p>b<br></div><div><span>c</span></div>") == 2
    assert extraction.nesting(b"<div>" * 600 + b"x") == 600
    assert extraction.nesting(b"<li>" * 600) == 0


@pytest.mark.parametrize("declared", ["windows-1251", None])
def test_a_page_is_decoded_by_its_head_or_by_the_look_of_it(declared: str | None):
    text = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 20
    assert extraction.decode(f"<p>{text}</p>".encode("windows-1251"), declared) == f"<p>{text}</p>"


def test_a_charset_that_nobody_knows_is_sniffed():
    assert "naïve" in extraction.decode("<p>naïve café</p>".encode(), "x-unheard-of")


def test_extraction_leaves_scripts_and_menus_out_and_turns_hard_spaces_into_spaces():
    page = (
        "<html><head><script>var a;</script></head><body><nav><a href='/'>Home</a></nav>"
        "<article><h1>Title</h1><p>Two&nbsp;words &amp; more.</p></article></body></html>"
    )
    assert extraction.extract(page, main_content=True).split() == ["Title", "Two", "words", "&", "more."]


def test_language_gives_the_probability_of_a_wanted_one():
    english, german = (
        "This is a plain English sentence about the weather.",
        "Das ist ein deutscher Satz über das Wetter.",
    )
    assert language.detect(english, ("en",))[0] == "en" and language.detect(english, ("en",))[1] > 0.8
    assert language.detect(german, ("en",))[1] < 0.1
    assert language.detect(german, ("en", "de"))[0] == "de"
    assert language.detect(german, ())[0] == "de"
    assert language.detect("line\nbreaks are no trouble", ("en",))[0] == "en"


def test_repetition_of_lines_and_paragraphs_by_hand():
    # Lines: aa, bbb, aa, aa. Two of four stood before, with 4 of 9 characters.
    # Paragraphs: "aa\nbbb" and "aa\naa": none repeated.
    found = repetition.measure("aa\nbbb\n\naa\naa")
    assert found["dup_line_ratio"] == 0.5
    assert found["dup_line_char_ratio"] == pytest.approx(4 / 9)
    assert found["dup_paragraph_ratio"] == 0


def test_top_and_repeated_n_grams_by_hand():
    # "aa bb" stands twice and covers 4 of 5 words of two letters.
    assert repetition.n_grams(["aa", "bb", "aa", "bb", "cc"])["top_2_gram_ratio"] == pytest.approx(0.8)
    # Five words, then the same five: half of the characters stand in a 5-gram that stood before.
    words = ["one", "two", "six", "ten", "red"]
    assert repetition.n_grams(words + words)["dup_5_gram_ratio"] == pytest.approx(0.5)
    assert repetition.n_grams(words)["dup_5_gram_ratio"] == 0
    assert set(repetition.n_grams([]).values()) == {0.0}


def test_n_grams_agree_with_a_plain_implementation():
    generator = random.Random(3)
    for length in (1, 4, 11, 60, 300):
        words = [generator.choice(["a", "bb", "ccc", "dddd"]) for _ in range(length)]
        found = repetition.n_grams(words)
        total = sum(map(len, words))
        for n in (5, 7, 10):
            seen, inside = set(), set()
            for start in range(length - n + 1):
                gram = tuple(words[start : start + n])
                if gram in seen:
                    inside |= set(range(start, start + n))
                seen.add(gram)
            assert found[f"dup_{n}_gram_ratio"] == pytest.approx(sum(len(words[i]) for i in inside) / total)
        counts = Counter(tuple(words[start : start + 3]) for start in range(length - 2))
        if counts and max(counts.values()) > 1:
            top = next(gram for gram in counts if counts[gram] == max(counts.values()))
            inside = {i for s in range(length - 2) if tuple(words[s : s + 3]) == top for i in range(s, s + 3)}
            assert found["top_3_gram_ratio"] == pytest.approx(sum(len(words[i]) for i in inside) / total)


def test_quality_by_hand():
    found = quality.measure("The cat and 12 dogs ...\n- see # 7\n")
    # Words: The cat and 12 dogs ... - see # 7: ten, of 3+3+3+2+4+3+1+3+1+1 = 24 characters; five have a letter.
    assert found["words"] == 10
    assert found["mean_word_length"] == pytest.approx(2.4)
    assert found["alpha_ratio"] == 0.5
    assert found["symbol_ratio"] == 0.1
    assert found["bullet_ratio"] == found["ellipsis_ratio"] == 0.5
    assert found["stop_words"] == 2


def test_near_copies_resemble_the_first_page_and_others_have_no_value():
    words = [f"word{number}" for number in range(200)]
    texts = [
        " ".join(words),
        " ".join(f"other{number}" for number in range(200)),
        " ".join([*words[:-2], "new", "end"]),
    ]
    similarity, leader = minhash.cluster(minhash.signatures(texts), 0.75)
    assert leader.tolist() == [-1, -1, 0]
    # 196 five-word sequences each, 194 of them shared: 194 / 198.
    assert similarity[2] == pytest.approx(194 / 198, abs=0.05)
    assert np.isnan(similarity[:2]).all()
    assert minhash.cluster(minhash.signatures(texts), 0.999)[1].tolist() == [-1, -1, -1]


def test_the_estimate_agrees_with_the_exact_jaccard_similarity():
    generator = random.Random(1)
    base = [str(generator.randrange(10**6)) for _ in range(400)]
    for n_changed in (10, 40, 120):
        other = [*base[:-n_changed], *(str(generator.randrange(10**6)) for _ in range(n_changed))]
        one, two = (set(minhash.shingles(" ".join(words))) for words in (base, other))
        first, second = minhash.signatures([" ".join(base), " ".join(other)])
        # Standard error of 112 hashes is at most 0.05; three of them.
        assert (first == second).mean() == pytest.approx(len(one & two) / len(one | two), abs=0.15)


def test_a_document_signed_in_parts_has_the_signature_of_the_whole(monkeypatch: pytest.MonkeyPatch):
    texts = ["one two", " ".join(f"word{i % 97} w{i}" for i in range(400)), "", "a b c d e f g"]
    whole = minhash.signatures(texts)
    given = []
    real = minhash.RMinHash.digest_matrix_from_token_sets

    class Counted:
        @staticmethod
        def digest_matrix_from_token_sets(parts, *rest):
            given.append(sum(map(len, parts)))
            return real(parts, *rest)

    monkeypatch.setattr(minhash, "HASHED_TOGETHER", 50)
    monkeypatch.setattr(minhash, "BLOCK", 7)
    monkeypatch.setattr(minhash, "RMinHash", Counted)
    assert (minhash.signatures(texts) == whole).all()
    # 1 sequence, 800 words' 796, 1 of nothing, 3: no call holds more than fifty.
    assert sum(given) == 801 and max(given) == 50


def test_no_page_at_all_can_be_compared():
    similarity, leader = minhash.cluster(minhash.signatures([]), 0.75)
    assert len(similarity) == len(leader) == 0


def test_c4_drops_lines_by_rule_and_counts_them():
    rules = config(
        min_line_words=3, max_line_word_length=20, drop_javascript_lines=True, drop_policy_lines=True
    )
    text = f"Home\nThis line stays here.\nPlease enable JavaScript now.\nRead our privacy policy today.\na b {'x' * 21}"
    kept, dropped = c4.clean(text, rules)
    assert kept == "This line stays here."
    assert dropped == {
        "min_line_words": 1, "drop_javascript_lines": 1, "drop_policy_lines": 1, "max_line_word_length": 1,
    }  # fmt: skip
    assert (
        c4.clean("One two three\nOne two three.", config(require_terminal_punctuation=True))[0]
        == "One two three."
    )


def test_c4_measures_by_hand():
    found = c4.measure("One. Two! Is it three?\nA heading\nLorem ipsum {x}")
    assert found == {"lorem_ipsum": 1, "curly_brackets": 2, "sentences": 5}


def test_a_line_is_kept_as_often_as_the_corpus_may_have_it():
    rules, counts = config(max_line_repeats=2), custom.LineCounts()
    assert custom.clean("a\na\na\nb", rules, counts)[0] == "a\na\nb"
    assert custom.clean("a\na\na\nb", rules, counts)[0] == "a\na\nb", "only kept pages count"
    counts.count("a\na\nb")
    kept, dropped = custom.clean("a\n\nb\nc", rules, counts)
    assert (kept, dropped["max_line_repeats"]) == ("b\nc", 1)


def test_paths_and_banned_lines_go():
    rules = config(drop_path_lines=True, banned_lines=["index"])
    kept, dropped = custom.clean(
        "index\n/usr/lib/python3/json.py\nC:\\lib\nA / B\nindex of names", rules, custom.LineCounts()
    )
    assert kept == "A / B\nindex of names"
    assert dropped == {"drop_path_lines": 2, "banned_lines": 1}


def test_custom_measures_by_hand():
    # Two of three lines end a sentence; the short one is of 6 characters; 25 of 56 characters stand twice.
    line = "This line is long enough, is it not? Yes."
    found = custom.measure(f"{line}\n{line}\nShort!")
    assert found["line_punct_ratio"] == 1
    assert found["short_line_ratio"] == pytest.approx(1 / 3)
    assert found["dup_char_ratio"] == pytest.approx(41 / 88)
    assert found["newline_ratio"] == pytest.approx(2 / 19)
    assert found["chars"] == 90


def test_mail_and_public_addresses_are_replaced_and_reserved_ones_are_not():
    text = "Write to ann.b@mail.example.net or joe@corp.io, from 8.8.8.8 or 192.168.0.1; see 1.2.3.4.5 and 300.1.1.1."
    clean, found = pii.replace(text, emails=True, ips=True)
    assert clean == (
        "Write to ann.b@mail.example.net or email@example.com, from 192.0.2.1 or 192.168.0.1; see 1.2.3.4.5 and 300.1.1.1."
    )
    assert found == {"emails": 1, "ips": 1}
    assert pii.replace(clean, emails=True, ips=True) == (clean, {"emails": 0, "ips": 0})
    assert pii.replace(text, emails=False, ips=False)[0] == text
