"""Stage 6, C4: rules for lines, then rules for what they leave (Raffel et al. 2020, arXiv:1910.10683, section 2.2).

As FineWeb uses them: the rule that a line must end a sentence is off by default.
"""

import re
from collections import Counter

from core_ml.crawl.config import CrawlConfig

END_MARKS = (".", "?", "!", '"', "'", "”", "’", "。", "！", "？")
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s|$)|[。！？]")


def clean(text: str, config: CrawlConfig) -> tuple[str, Counter[str]]:
    """The text without the lines that a rule drops, and how many each rule dropped. Blank lines stay."""
    kept: list[str] = []
    dropped: Counter[str] = Counter()
    for line in text.split("\n"):
        line = line.strip()
        reason = why_not(line, config) if line else None
        if reason is None:
            kept.append(line)
        else:
            dropped[reason] += 1
    return join(kept), dropped


def why_not(line: str, config: CrawlConfig) -> str | None:
    """The field of the rule that drops a line; None when it stays."""
    words = line.split()
    if config.min_line_words is not None and len(words) < config.min_line_words:
        return "min_line_words"
    if config.max_line_word_length is not None and max(map(len, words)) > config.max_line_word_length:
        return "max_line_word_length"
    if config.require_terminal_punctuation and (not line.endswith(END_MARKS) or line.endswith("...")):
        return "require_terminal_punctuation"
    lower = line.lower()
    if config.drop_javascript_lines and "javascript" in lower:
        return "drop_javascript_lines"
    if config.drop_policy_lines and any(phrase in lower for phrase in POLICY):
        return "drop_policy_lines"
    return None


def join(lines: list[str]) -> str:
    """Lines as a text, with at most one blank line between two and none at the ends."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def measure(text: str) -> dict[str, float]:
    """Of the text that the line rules left. A line without an end of a sentence counts as one, as in FineWeb's code."""
    lines = [line for line in text.split("\n") if line]
    return {
        "lorem_ipsum": float(text.lower().count("lorem ipsum")),
        "curly_brackets": float(text.count("{") + text.count("}")),
        "sentences": float(sum(max(1, len(_SENTENCE_END.findall(line))) for line in lines)),
    }
