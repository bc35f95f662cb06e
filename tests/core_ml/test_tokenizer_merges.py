"""Merges are those of a plain reference, and ids those of the two libraries that read what we write."""

import base64
import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe

from core_ml.errors import UserError
from core_ml.tokenizer import described, merges, patterns
from core_ml.tokenizer.formats import from_json, from_ranks, to_ranks
from core_ml.tokenizer.tokenizer import MIN_VOCAB_SIZE, SPECIALS, Tokenizer
from tests.core_ml import small

Pair = tuple[bytes, bytes]
NAMES = ["digits", "gpt2", "gpt4"]
# Where the patterns differ, and where libraries could: contractions, case folding, digits, line ends, marks.
TRICKY = (
    st.text(st.sampled_from("aab éſK'sSdLlVvReE中\u0301\u00a0\u2028\x1c\x85 \n\r\t19٣½.,!-_😀ŉ")) | st.text()
)


def reference(words: list[str], n: int) -> list[Pair]:
    """Sennrich's algorithm as it is written: count all pairs anew for each merge; ties go to the smaller ids."""
    parts = {word: [bytes([byte]) for byte in word.encode()] for word in words}
    times = Counter(words)
    ids = {bytes([byte]): byte for byte in range(256)}
    learned: list[Pair] = []
    while len(learned) < n:
        counts: Counter[Pair] = Counter()
        for word, own in parts.items():
            for pair in pairwise(own):
                counts[pair] += times[word]
        if not counts:
            break
        left, right = min(counts, key=lambda pair: (-counts[pair], ids[pair[0]], ids[pair[1]]))
        ids[left + right] = 256 + len(learned)
        learned.append((left, right))
        parts = {word: merges.apply(own, left + right) for word, own in parts.items()}
    return learned


def in_bytes(tokenizer: Tokenizer) -> list[Pair]:
    return [
        (described.from_symbols(left), described.from_symbols(right)) for left, right in tokenizer.merge_ranks
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.sampled_from("abé"), min_size=1, max_size=9), min_size=1, max_size=40))
def test_merges_are_those_of_a_plain_reference(words: list[str]) -> None:
    tokenizer = Tokenizer.train(["1".join(words)], MIN_VOCAB_SIZE + 40)
    expected = reference([*words, *["1"] * (len(words) - 1)], 40)
    assert in_bytes(tokenizer) == expected


def test_merges_of_sentences_are_those_of_the_reference_for_each_pattern() -> None:
    text = " ".join(small.SENTENCES[:40]) + " It's 1234 stones, isn't it?\n\n  Yes!\n"
    for name in NAMES:
        split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(patterns.PATTERNS[name].regex), "isolated")
        words = [word for word, _ in split.pre_tokenize_str(text)]
        learned = in_bytes(Tokenizer.train([text], MIN_VOCAB_SIZE + 120, name))
        assert learned == reference(words, 120)


def test_pieces_do_not_change_what_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(small.SENTENCES), "It's  12 345\n\n\n  o'clock!!\n\n" * 9]
    for name in NAMES:
        whole = Tokenizer.train(texts, 340, name).inner.to_str()
        with monkeypatch.context() as patch:
            patch.setattr(merges, "PIECE_CHARS", 5)
            assert Tokenizer.train(texts, 340, name).inner.to_str() == whole


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=80, deadline=None)
@given(texts=st.lists(TRICKY, max_size=8))
def test_texts_that_are_joined_for_speed_teach_what_each_teaches_alone(name: str, texts: list[str]) -> None:
    regex = patterns.PATTERNS[name].regex
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(regex), "isolated")
    alone = [word for text in texts for word, _ in split.pre_tokenize_str(patterns.valid(text))]
    expected = [left + right for left, right in reference(alone, 30)]
    assert merges.learn(texts, 30, regex) == expected


def test_many_short_texts_and_few_long_ones_are_held_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merges, "BUFFER_CHARS", 100)
    monkeypatch.setattr(merges, "BUFFER_PIECES", 4)
    filled = list(merges._filled(["a" * 60] * 3 + ["b"] * 9))
    # Two long texts fill a part, and two empty ones its four places; what follows is counted anew.
    assert [len(piece) for piece in filled] == [60, 60, 0, 0, 60, *[1] * 9]
    monkeypatch.setattr(merges, "PIECE_CHARS", 4)
    assert list(merges._joined(["ab", "", "cd", "e", "f"], patterns.PATTERNS["digits"].regex)) == [
        "ab0cd",
        "e0f",
    ]
    assert list(merges._joined(["a", "b", "b ", "c", "1", "d"], patterns.PATTERNS["gpt2"].regex)) == ["a0b0b ", "c", "1", "d"]  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> dict[str, Tokenizer]:
    texts = [*small.SENTENCES, "It's I'LL don't\n\n  12345 ½ — naïve café!!\n\n é中é中 \t\tx\r\n"] * 3
    own = Tokenizer.train(texts, 340, "own", r"\p{L}+|\p{N}{2}")
    return {name: Tokenizer.train(texts, 340, name) for name in NAMES} | {"own": own}


@pytest.mark.parametrize("name", [*NAMES, "own"])
@settings(max_examples=150, deadline=None)
@given(text=TRICKY)
def test_our_export_gives_the_same_ids_in_tokenizers_and_in_tiktoken(
    trained: dict[str, Tokenizer], tmp_path_factory: pytest.TempPathFactory, name: str, text: str
) -> None:
    tokenizer = trained[name]
    folder = tmp_path_factory.getbasetemp() / name
    if not folder.exists():
        folder.mkdir()
        tokenizer.save(folder)
        (folder / "ranks.tiktoken").write_bytes(to_ranks(tokenizer))
    text = patterns.valid(text)
    ids = tokenizer.encode(text)
    assert tokenizer._quick is not None, "this pattern is one of those that the quick library applies"
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    assert theirs.encode(text, add_special_tokens=False).ids == ids
    ranks = load_tiktoken_bpe(str(folder / "ranks.tiktoken"))
    specials = {special: id for id, special in enumerate(SPECIALS)}
    quick = tiktoken.Encoding(
        "ours", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens=specials
    )
    assert quick.encode_ordinary(text) == ids
    assert quick.decode(ids) == tokenizer.decode(ids) == text


def test_the_libraries_see_the_same_letters_after_an_apostrophe() -> None:
    tokenizer = Tokenizer.train(["It's I'LL don't"], 280, "gpt4")
    letters = [f"x'{chr(code)}{chr(code)}" for code in range(0x2FFF) if chr(code).isprintable()]
    whole = tokenizer.inner.encode_batch_fast(letters, add_special_tokens=False)
    assert [tokenizer.encode(text) for text in letters] == [one.ids for one in whole]


def test_arrays_hold_the_ids_of_lists(trained: dict[str, Tokenizer]) -> None:
    texts = list(enumerate([*small.SENTENCES, "<|im_end|> is text", "", "é中"] * 30))
    for tokenizer in trained.values():
        lists = list(tokenizer.encode_pieces(texts))
        for n_threads in (1, 3):
            arrays = list(tokenizer.encode_arrays(texts, n_threads=n_threads))
            assert [(key, ids.tolist()) for key, ids in arrays] == lists
            assert all(ids.dtype == "uint32" for _, ids in arrays)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("char", [" ", "\n", "a", "1"])
def test_one_word_of_a_million_characters_is_read_back(
    trained: dict[str, Tokenizer], name: str, char: str
) -> None:
    text = f"so {char * 1_000_001}b"
    assert trained[name].decode(trained[name].encode(text)) == text
    assert Tokenizer.train([text], 280, name).vocab_size > 272


def test_a_token_that_merges_do_not_reach_leaves_the_ids_to_the_slower_library() -> None:
    content = json.loads(small.tokenizer().inner.to_str())
    content["model"]["vocab"] |= {"zq": 320, "xz": 321, "xzx": 322}
    content["model"]["merges"] += [["z", "q"], ["x", "z"], ["xz", "x"]]
    fine = Tokenizer.read(json.dumps(content))
    # "zq" is joined before "xz" can be, so these merges never make "xzq"; the quick library would see that it is one.
    content["model"]["vocab"]["xzq"] = 323
    content["model"]["merges"] += [["xz", "q"]]
    other = Tokenizer.read(json.dumps(content))
    assert fine._quick is not None and other._quick is None
    for text in ("xzq", "xzxzq", "zqxz qxzx"):
        assert other.encode(text) == other.inner.encode(text, add_special_tokens=False).ids
        assert fine.encode(text) == fine.inner.encode(text, add_special_tokens=False).ids


def test_ids_that_do_not_rise_with_the_merges_leave_them_to_the_slower_library() -> None:
    content = json.loads(small.tokenizer().inner.to_str())
    vocab = content["model"]["vocab"]
    a, b = ("".join(content["model"]["merges"][i]) for i in (0, 1))
    vocab[a], vocab[b] = vocab[b], vocab[a]
    swapped = Tokenizer.read(json.dumps(content))
    assert swapped._quick is None
    assert swapped.decode(swapped.encode("The cat sees a tree.")) == "The cat sees a tree."


def test_ranks_go_out_and_come_back_with_the_same_ids(trained: dict[str, Tokenizer]) -> None:
    for name in NAMES:
        back = from_ranks(to_ranks(trained[name]), trained[name].pattern or "")
        assert back.inner.to_str() == trained[name].inner.to_str()


def test_ranks_with_whole_words_put_in_are_merged_as_tiktoken_merges_them() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {
        b"ab": 256,
        b"hello": 257,
        b"bc": 258,
        b"abc": 259,
    }
    lines = b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())
    regex = patterns.PATTERNS["gpt2"].regex
    tokenizer = from_ranks(lines, regex)
    theirs = tiktoken.Encoding("x", pat_str=regex, mergeable_ranks=ranks, special_tokens={})
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(rng.choice(["ab", "c", "hello", " ", "bc", "a"]) for _ in range(6))
        ids = theirs.encode_ordinary(text)
        assert tokenizer.encode(text) == ids
        assert tokenizer.inner.encode(text, add_special_tokens=False).ids == ids
    assert tokenizer.encode("hello") == [257]
    assert tokenizer.special_ids == set(range(260, 276))


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (b"", "no ranks"),
        (b"YQ== 0 0\n", "line 1"),
        (b"!! 0\n", "line 1"),
        (b"YQ== -1\n", "line 1"),
        (b"YQ== 0\nYQ== 1\n", "twice"),
        (b"YQ== 0\nYg== 0\n", "twice"),
        (b"YQ== 0\n", "255 of the 256 bytes"),
    ],
)
def test_ranks_that_are_none_are_refused_in_one_sentence(lines: bytes, told: str) -> None:
    with pytest.raises(UserError, match=told):
        from_ranks(lines, patterns.PATTERNS["gpt2"].regex)


def gpt2_style() -> str:
    """As OpenAI's own: no special token but one at the end, words cut by the byte-level step itself."""
    content = json.loads(Tokenizer.train(small.SENTENCES, 330, "gpt2").inner.to_str())
    shift = len(SPECIALS)
    names = {name: id - shift for name, id in content["model"]["vocab"].items() if name not in SPECIALS}
    content["model"]["vocab"] = names | {"<|endoftext|>": len(names)}
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    content["added_tokens"] = [
        {**content["added_tokens"][0], "id": len(names), "content": "<|endoftext|>", "special": True}
    ]
    content["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return json.dumps(content)


def llama3_style() -> str:
    """Special tokens after the vocabulary, a pattern of its own, and every split of each token as a merge."""
    trained = Tokenizer.train(small.SENTENCES, 330, "gpt4")
    ranks = {token: id - 16 for token, id in (trained.ranks or {}).items()}
    specials = {name: 314 + i for i, name in enumerate(("<|begin_of_text|>", "<|eot_id|>"))}
    return described.write(
        ranks, merges.splits_of(ranks), specials, patterns._FAMILIES[0], ignore_merges=True
    )


@pytest.mark.parametrize(
    ("make", "bos"), [(gpt2_style, "<|endoftext|>"), (llama3_style, "<|begin_of_text|>")]
)
def test_a_tokenizer_of_others_keeps_its_ids_and_gets_the_chat_protocol(
    make, bos: str, tmp_path: Path
) -> None:
    theirs = tokenizers.Tokenizer.from_str(make())
    theirs.encode_special_tokens = True
    taken = from_json(make())
    text = "It's 1234 stones, isn't it?\n\n  The cat sees a tree.<|eot_id|>"
    ids = theirs.encode(text, add_special_tokens=False).ids
    assert taken._quick is not None and taken.encode(text) == ids
    assert taken.decode(ids) == text
    assert taken.name(taken.bos_id) == "<|bos|>" and taken.bos_id >= theirs.get_vocab_size()
    taken.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    asked = again.prompt([{"role": "user", "content": "cat"}])
    assert asked[0] == again.start_id and len(set(asked) & again.special_ids) == 3
    # As it came, without our marks, it reads texts and writes no conversations.
    plain = Tokenizer.read(make())
    assert plain.name(plain.bos_id) == bos and plain.encode(text) == ids
    with pytest.raises(UserError, match="no tokens for conversations"):
        plain.prompt([{"role": "user", "content": "cat"}])


def test_added_words_that_are_no_special_tokens_are_matched_and_read_back() -> None:
    content = json.loads(gpt2_style())
    n = len(content["model"]["vocab"])
    content["added_tokens"].append(
        {**content["added_tokens"][0], "id": n, "content": "<tool> é", "special": False}
    )
    taken = from_json(json.dumps(content))
    text = "The <tool> é cat"
    assert n in taken.encode(text) and taken._quick is None
    assert taken.decode(taken.encode(text)) == text
