"""How a text is cut into words before anything is merged: no token crosses the end of a word.

A pattern is a regular expression whose matches, from left to right, are the words. Three libraries read it, in two
dialects (Rust's fancy-regex in rustbpe and tiktoken, Oniguruma in tokenizers); one of a person's own is therefore
tried in both before it is used.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import regex
import rustbpe
import tokenizers
from tokenizers import pre_tokenizers

from core_ml.errors import UserError

Name = Literal["digits", "gpt2", "gpt4", "own"]
MAX_CHARS = 1000
UNBROKEN_CHARS = 200_000
"""A piece without a border for so long is no language. Patterns that look ahead keep a state for each of its
characters, and the quick library gives up at a million."""
ANY = r"|[\s\S]"
TIMEOUT = 1.0  # seconds for one attempt of a person's own pattern


@dataclass(frozen=True)
class Pattern:
    """`border` finds places where no word goes on, whatever stands around them; None where none is known.

    ASCII only, so that it is no matter which edition of Unicode a library follows.
    """

    title: str
    regex: str
    border: re.Pattern[str] | None


# Between what is no white space and a space; and a line end after a letter, since signs may keep theirs.
_BEFORE_SPACE = re.compile(r"(?<=\S)(?=[ \t])|(?<=[A-Za-z0-9])(?=[\r\n])")
PATTERNS: dict[Name, Pattern] = {
    # A word is letters with at most one sign before them, one digit, signs with at most one space, or white space.
    "digits": Pattern(
        "each digit alone",
        r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+",
        re.compile(r"(?<=\S)(?=[ \t\n\r])|(?=[0-9])|(?<=[0-9])"),
    ),
    "gpt2": Pattern(
        "GPT-2's",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        re.compile(r"(?<=\S)(?=[ \t\n\r])"),
    ),
    "gpt4": Pattern(
        "GPT-4's",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+",
        _BEFORE_SPACE,
    ),
}
"""Sources: Radford et al. 2019 (GPT-2) and the encodings that OpenAI publishes with tiktoken."""
_FAMILIES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",  # Llama 3
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",  # Qwen 2 and 3
)
_BORDERS = {one.regex: one.border for one in PATTERNS.values()} | dict.fromkeys(_FAMILIES, _BEFORE_SPACE)
PROBE = (
    "It's 1,234.5 o'clock; I'LL wait -- don't!\n\n  if x == 10:\n\t\treturn y[0]  # done\r\nZürich, καλημέρα, "
    "привет мир, 日本語の文、한국어, עברית, हिन्दी, ٣٤٥, x²+½, e\u0301, 👩‍👩‍👧 🇫🇮, <|im_end|> \u00a0\u2003 \x00\x1c\x85 end   "
)


LONG_WORDS = ("a" * 2000 + "!", " " * 2000 + "a", "1" * 2000 + "a")


def named(pattern: str) -> Name:
    """The name of a pattern that is one of ours, else "own"."""
    return next((name for name, one in PATTERNS.items() if one.regex == pattern), "own")


def is_total(pattern: str) -> bool:
    """Whether every character is known to fall into some word, so that all libraries see the same words."""
    return pattern in _BORDERS or pattern.endswith(ANY)


def has_border(pattern: str) -> bool:
    return _BORDERS.get(pattern) is not None


def resolve(name: Name, own: str = "") -> str:
    """The regular expression of a named pattern, or a person's own with a last resort for what it leaves out.

    Raises: UserError, naming the field `own_pattern`.
    """
    if name != "own":
        return PATTERNS[name].regex
    check(own)
    return own if own.endswith(ANY) else own + ANY


def check(own: str) -> None:
    """Raises UserError for a pattern that is none, that matches nothing at all, or that takes for ever."""
    if not own or len(own) > MAX_CHARS:
        raise _wrong(f"a pattern of its own has 1 to {MAX_CHARS:,} characters, and this one {len(own):,}")
    try:
        compiled = regex.compile(own)
        # Where a word may be empty, one library stands still and another leaves it out.
        for start in range(len(PROBE) + 1):
            match = compiled.match(PROBE, start, timeout=TIMEOUT)
            if match is not None and match.end() == match.start():
                raise _wrong("it matches an empty word: write + for *, so that a word has a character")
        if not any(compiled.finditer(PROBE, timeout=TIMEOUT)):
            raise _wrong("it finds no word in a text with letters, digits and signs")
        for long in LONG_WORDS:
            list(compiled.finditer(long, timeout=TIMEOUT))
    except regex.error as error:
        raise _wrong(f"it is no regular expression: {error}") from None
    except TimeoutError:
        raise _wrong("it needs more than a second for one word: it tries too many ways to match") from None
    _try_in_libraries(own + ANY)


def _try_in_libraries(pattern: str) -> None:
    try:
        rustbpe.Tokenizer().train_from_iterator(iter([PROBE, *LONG_WORDS]), 256, pattern=pattern)
        split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        for text in (PROBE, *LONG_WORDS):
            split.pre_tokenize_str(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    except (
        BaseException
    ) as error:  # each raises its own kinds, and for too many attempts a panic, no Exception
        raise _wrong(f"a library cannot read it: {str(error)[:200]}") from None


def _wrong(reason: str) -> UserError:
    return UserError(f"the pattern will not do: {reason}", field="own_pattern")


def cut(text: str, pattern: str, size: int) -> Iterator[str]:
    """Pieces of `size` characters and what it takes to the next border of words; a word is never cut."""
    border = _BORDERS.get(pattern)
    begin = 0
    while border and len(text) - begin > size and (found := border.search(text, begin + size)):
        yield text[begin : found.start()]
        begin = found.start()
    yield text[begin:]


def valid(text: str) -> str:
    """The text without lone surrogates, which JSON can carry and UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
