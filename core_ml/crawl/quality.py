"""Stage 4, second half: Gopher's measures of quality (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1).

Words are what stands between spaces, so a page in a script without spaces is measured wrongly here; the
thresholds are for English anyway.
"""

import re

STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
BULLETS = ("•", "‣", "●", "○", "■", "▪", "–", "-", "*")
ELLIPSES = ("...", "…")
_ELLIPSIS = re.compile(r"\.\.\.|…")
_LETTER = re.compile(r"[^\W\d_]")
_EDGES = re.compile(r"^\W+|\W+$")


def measure(text: str) -> dict[str, float]:
    words = text.split()
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    n_words, n_lines = max(len(words), 1), max(len(lines), 1)
    plain = {_EDGES.sub("", word.lower()) for word in words}
    return {
        "words": float(len(words)),
        "mean_word_length": sum(map(len, words)) / n_words,
        "symbol_ratio": max(text.count("#"), len(_ELLIPSIS.findall(text))) / n_words,
        "bullet_ratio": sum(line.startswith(BULLETS) for line in lines) / n_lines,
        "ellipsis_ratio": sum(line.endswith(ELLIPSES) for line in lines) / n_lines,
        "alpha_ratio": sum(_LETTER.search(word) is not None for word in words) / n_words,
        "stop_words": float(len(STOP_WORDS & plain)),
    }
