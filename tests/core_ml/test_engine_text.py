"""Text as it comes: whole characters, and nothing that may yet become a stop string."""

from hypothesis import given
from hypothesis import strategies as st

from core_ml.engine.backend import Token
from core_ml.engine.text import TextStream, offsets


def streamed(parts: list[bytes], stop: list[str]) -> tuple[list[str], list[Token], bool]:
    stream = TextStream(stop)
    texts: list[str] = []
    tokens: list[Token] = []
    for id, part in enumerate(parts):
        text, given_out = stream.feed(Token(id, 0.0), part)
        texts.append(text)
        tokens += given_out
        if stream.stopped:
            return texts, tokens, True
    text, given_out = stream.finish()
    return [*texts, text], tokens + given_out, stream.stopped


def test_half_a_character_is_held_back_until_it_is_whole() -> None:
    # é is C3 A9; the second token also brings the x.
    assert streamed([b"a\xc3", b"\xa9x"], [])[0] == ["a", "éx", ""]


def test_half_a_character_at_the_end_becomes_one_replacement_character() -> None:
    assert streamed([b"a", b"\xf0\x9f\x98"], [])[0] == ["a", "", "\ufffd"]


def test_a_stop_string_across_tokens_is_never_given_out() -> None:
    texts, tokens, stopped = streamed([b"one\n", b"Q", b"uestion: two"], ["\nQuestion:"])
    assert texts == ["one", "", ""] and stopped
    # The first token has given out three of its characters; the others stand behind the stop.
    assert [token.id for token in tokens] == [0]


def test_what_looked_like_a_stop_string_comes_after_all() -> None:
    texts, tokens, stopped = streamed([b"x<", b"/", b"b>"], ["</a>"])
    assert texts == ["x", "", "</b>", ""] and not stopped
    assert [token.id for token in tokens] == [0, 1, 2]


def test_offsets_count_characters_and_a_half_character_begins_where_the_whole_does() -> None:
    # "é" begins at 1 and both its halves with it; the next token begins at 2.
    assert offsets([b"a", b"\xc3", b"\xa9", b"b"]) == [0, 1, 1, 2]
    tokens = streamed([b"a", b"\xc3", b"\xa9", b"b"], [])[1]
    assert [token.offset for token in tokens] == [0, 1, 1, 2]


def test_a_space_that_the_rules_wrote_is_no_part_of_a_text_and_moves_no_token() -> None:
    assert offsets([b"", b" ", b" a", b" b"], 1) == [0, 0, 0, 2]
    assert offsets([b"a", b" b"], 1) == [0, 1]
    for parts in ([b" a", b" b"], [b" ", b"a", b" b"]):
        stream = TextStream(offset=3, n_unsaid=1)
        given_out = [stream.feed(Token(id, 0.0), part) for id, part in enumerate(parts)]
        assert "".join(text for text, _ in given_out) == "a b"
        assert [token.offset for _, tokens in given_out for token in tokens] == [
            3,
            *[3] * (len(parts) - 2),
            4,
        ]
    kept = TextStream(n_unsaid=1)
    assert [kept.feed(Token(id, 0.0), part)[0] for id, part in enumerate([b"a", b" b"])] == ["a", " b"]


@given(st.lists(st.binary(max_size=4), max_size=12), st.lists(st.text(min_size=1, max_size=3), max_size=2))
def test_however_the_bytes_are_cut_the_text_is_that_of_the_whole(parts: list[bytes], stop: list[str]) -> None:
    texts, tokens, stopped = streamed(parts, stop)
    whole = b"".join(parts).decode("utf-8", "replace")
    text = "".join(texts)
    assert whole.startswith(text)
    assert not any(string in text for string in stop)
    assert stopped == any(string in whole for string in stop)
    if not stopped:
        assert text == whole and [token.id for token in tokens] == list(range(len(parts)))


@given(st.text(max_size=20), st.text(min_size=1, max_size=2))
def test_the_text_ends_where_the_first_stop_string_begins(text: str, stop: str) -> None:
    parts = [bytes([byte]) for byte in text.encode()]
    assert "".join(streamed(parts, [stop])[0]) == text.partition(stop)[0]
