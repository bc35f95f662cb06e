"""Which part of a dropped page is at fault: the stretches of its text that a rule's measure counts.

The measures themselves stand in core_ml.crawl; this only shows a reader where to look.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator

Span = tuple[int, int]
_SENTENCE_END = re.compile(r"[.!?…\"'”’)\]]\s*$")
_WORD = re.compile(r"\S+")


def passage(measure: str, text: str) -> tuple[list[tuple[str, bool]], int]:
    """The text in pieces, each with whether it is at fault, and the number of faulty stretches."""
    spans = faults(measure, text)
    pieces, at = [], 0
    for start, end in spans:
        pieces += [(text[at:start], False), (text[start:end], True)]
        at = end
    pieces.append((text[at:], False))
    return [piece for piece in pieces if piece[0]], len(spans)


def faults(measure: str, text: str) -> list[Span]:
    """Start and end of each stretch at fault, in characters."""
    find = _FINDERS.get(measure)
    return _joined(find(text)) if find else []


def _joined(spans: Iterator[Span]) -> list[Span]:
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        elif end > start:
            joined.append((start, end))
    return joined


def _lines(keep: Callable[[str], bool]) -> Callable[[str], Iterator[Span]]:
    def find(text: str) -> Iterator[Span]:
        for match in re.finditer(r"[^\n]+", text):
            if match[0].strip() and keep(match[0]):
                yield match.span()

    return find


def _words(keep: Callable[[str], bool]) -> Callable[[str], Iterator[Span]]:
    return lambda text: (match.span() for match in _WORD.finditer(text) if keep(match[0]))


def _pattern(expression: str) -> Callable[[str], Iterator[Span]]:
    return lambda text: (match.span() for match in re.finditer(expression, text, re.IGNORECASE))


def _repeated_lines(text: str) -> Iterator[Span]:
    seen: set[str] = set()
    for match in re.finditer(r"[^\n]+", text):
        line = match[0].strip()
        if line and line in seen:
            yield match.span()
        seen.add(line)


def _top_gram(n: int) -> Callable[[str], Iterator[Span]]:
    def find(text: str) -> Iterator[Span]:
        words = list(_WORD.finditer(text))
        grams = [tuple(word[0].lower() for word in words[i : i + n]) for i in range(len(words) - n + 1)]
        if not grams:
            return
        top, times = Counter(grams).most_common(1)[0]
        for i, gram in enumerate(grams):
            if gram == top and times > 1:
                yield words[i].start(), words[i + n - 1].end()

    return find


def _dup_gram(n: int) -> Callable[[str], Iterator[Span]]:
    def find(text: str) -> Iterator[Span]:
        words = list(_WORD.finditer(text))
        seen: set[tuple[str, ...]] = set()
        for i in range(len(words) - n + 1):
            gram = tuple(word[0].lower() for word in words[i : i + n])
            if gram in seen:
                yield words[i].start(), words[i + n - 1].end()
            seen.add(gram)

    return find


_FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "alpha_ratio": _words(lambda word: not any(char.isalpha() for char in word)),
    "symbol_ratio": _pattern(r"#|\.\.\.|…"),
    "bullet_ratio": _lines(lambda line: line.lstrip()[0] in "•‣▶◀◦■□▪▫–-*"),
    "ellipsis_ratio": _lines(lambda line: line.rstrip().endswith(("...", "…"))),
    "curly_brackets": _pattern(r"[{}]"),
    "lorem_ipsum": _pattern(r"lorem ipsum"),
    "line_punct_ratio": _lines(lambda line: not _SENTENCE_END.search(line)),
    "short_line_ratio": _lines(lambda line: len(line) <= 30),
    "mean_word_length": _words(lambda word: len(word) > 10),
    **dict.fromkeys(
        (
            "dup_line_ratio",
            "dup_line_char_ratio",
            "dup_paragraph_ratio",
            "dup_paragraph_char_ratio",
            "dup_char_ratio",
        ),
        _repeated_lines,
    ),
    **{f"top_{n}_gram_ratio": _top_gram(n) for n in (2, 3, 4)},
    **{f"dup_{n}_gram_ratio": _dup_gram(n) for n in range(5, 11)},
}
