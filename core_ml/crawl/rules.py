"""Every rule of the crawl, as a page needs it: what it measures, which threshold it has, which side it keeps.

The stages are FineWeb's, in FineWeb's order (Penedo et al. 2024, arXiv:2406.17557). A filter's file only
measures; the decision is made here, in one way for all: the first rule of a stage whose threshold the measure
violates drops the page, and rule, value and threshold are its reason. Imports nothing heavy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class CrawlStage:
    """One row of the funnel: its name, its title, and in a few words what it looks for."""

    name: str
    title: str
    looks_for: str


@dataclass(frozen=True)
class Rule:
    """A page is kept when `measure` is at least (side "min") or at most (side "max") the config's `field`.

    `fixed` is the threshold of a rule whose field is a list of words: the list is the setting, and one hit
    is too many; an empty list turns the rule off as None does a threshold.
    """

    stage: str
    field: str
    title: str
    measure: str
    side: Literal["min", "max"]
    unit: str
    explanation: str
    fixed: float | None = None

    def threshold(self, config: Any) -> float | None:
        """The threshold in a config (the object, or the JSON of one); None when the rule is off."""
        value = config.get(self.field) if isinstance(config, Mapping) else getattr(config, self.field)
        if self.fixed is not None:
            return self.fixed if value else None
        return value

    def keeps(self, value: float, threshold: float) -> bool:
        return value >= threshold if self.side == "min" else value <= threshold


@dataclass(frozen=True)
class Decision:
    """Why a page was dropped."""

    stage: str
    rule: str
    value: float
    threshold: float


def decide(stage: str, measures: Mapping[str, float], config: Any) -> Decision | None:
    """The first rule of a stage that a page violates, in the order of `RULES`; None when it stays."""
    for rule in _BY_STAGE[stage]:
        threshold = rule.threshold(config)
        value = measures.get(rule.measure)
        if threshold is not None and value is not None and not rule.keeps(value, threshold):
            return Decision(stage, rule.field, value, threshold)
    return None


STAGES = (
    CrawlStage("url", "URL filtering", "blocked domains and banned words in addresses"),
    CrawlStage("extraction", "Text extraction", "menus, scripts and empty pages"),
    CrawlStage("language", "Language filtering", "pages in other languages than those wanted"),
    CrawlStage("gopher", "Gopher", "repetition, then quality"),
    CrawlStage("minhash", "MinHash deduplication", "near-copies of a page that stays"),
    CrawlStage("c4", "C4 filters", "lorem ipsum, braces, lines that are no sentences"),
    CrawlStage("custom", "Custom filters", "lists, short lines, lines repeated across the corpus"),
    CrawlStage("pii", "PII removal", "e-mail and public network addresses, which are replaced"),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)

_URL = (
    Rule("url", "banned_domains", "Blocked domain", "banned_domain_hits", "max", "hits",
         "The page's host is one of the blocked domains or lies below one.", fixed=0),
    Rule("url", "banned_url_words", "Banned words in the address", "banned_word_hits", "max", "words",
         "The address contains a banned word, standing alone between punctuation.", fixed=0),
)  # fmt: skip

_EXTRACTION = (
    Rule("extraction", "max_html_bytes", "Size of the page", "html_bytes", "max", "bytes",
         "Very large pages are dumps or traps, and cost more than they give."),
    Rule("extraction", "max_nesting", "Depth of nesting", "nesting", "max", "elements",
         "Extraction takes time with the square of the depth, so absurdly nested pages are refused first."),
    Rule("extraction", "min_text_chars", "Extracted text", "text_chars", "min", "characters",
         "Nothing that could be read was left when menus, scripts and forms had gone."),
)  # fmt: skip

_LANGUAGE = (
    Rule("language", "min_language_score", "Language score", "language_score", "min", "probability",
         "How sure the language model (fastText lid.176) is that the page is in a wanted language."),
)  # fmt: skip


def _top(n: int) -> Rule:
    return Rule("gopher", f"max_top_{n}_gram_ratio", f"Most frequent {n}-gram", f"top_{n}_gram_ratio", "max", "share",
                f"Characters inside the most frequent sequence of {n} words, as a share of all: "
                "a high share is a chorus or a menu.")  # fmt: skip


def _dup(n: int) -> Rule:
    return Rule("gopher", f"max_dup_{n}_gram_ratio", f"Repeated {n}-grams", f"dup_{n}_gram_ratio", "max", "share",
                f"Characters inside sequences of {n} words that stood on the page before, as a share of all.")  # fmt: skip


_REPETITION = (
    Rule("gopher", "max_dup_line_ratio", "Repeated lines", "dup_line_ratio", "max", "share",
         "Lines that stood on the page before, as a share of its lines."),
    Rule("gopher", "max_dup_paragraph_ratio", "Repeated paragraphs", "dup_paragraph_ratio", "max", "share",
         "Paragraphs that stood on the page before, as a share of its paragraphs."),
    Rule("gopher", "max_dup_line_char_ratio", "Characters in repeated lines", "dup_line_char_ratio", "max", "share",
         "Characters in lines that stood on the page before, as a share of all."),
    Rule("gopher", "max_dup_paragraph_char_ratio", "Characters in repeated paragraphs", "dup_paragraph_char_ratio",
         "max", "share", "Characters in paragraphs that stood on the page before, as a share of all."),
    *(_top(n) for n in (2, 3, 4)),
    *(_dup(n) for n in range(5, 11)),
)  # fmt: skip

_QUALITY = (
    Rule("gopher", "min_words", "Words, at least", "words", "min", "words",
         "Shorter pages are captions, menus and stubs."),
    Rule("gopher", "max_words", "Words, at most", "words", "max", "words",
         "Longer pages are dumps and logs."),
    Rule("gopher", "min_mean_word_length", "Mean word length, at least", "mean_word_length", "min", "characters",
         "Shorter words on average are tables of symbols or letters spelled apart."),
    Rule("gopher", "max_mean_word_length", "Mean word length, at most", "mean_word_length", "max", "characters",
         "Longer words on average are addresses, code or words run together."),
    Rule("gopher", "max_symbol_ratio", "Symbols to words", "symbol_ratio", "max", "per word",
         "Number signs or ellipses, whichever are more, for each word: tag clouds and teasers."),
    Rule("gopher", "max_bullet_ratio", "Lines with a bullet", "bullet_ratio", "max", "share",
         "Lines that begin with a bullet, as a share of all: a page of nothing else is a list of links."),
    Rule("gopher", "max_ellipsis_ratio", "Lines that end in an ellipsis", "ellipsis_ratio", "max", "share",
         "Lines that break off, as a share of all: a page of teasers to other pages."),
    Rule("gopher", "min_alpha_ratio", "Words with a letter", "alpha_ratio", "min", "share",
         "Words with at least one letter, as a share of all words. A low share means tables, prices, code or noise."),
    Rule("gopher", "min_stop_words", "Common English words", "stop_words", "min", "different words",
         "How many of the, be, to, of, and, that, have and with occur: prose can hardly do without them."),
)  # fmt: skip

_MINHASH = (
    Rule("minhash", "max_similarity", "Similarity to an earlier page", "similarity", "max", "estimated Jaccard",
         "Shared five-word sequences with an earlier page that was kept, estimated from 112 hashes; pages that "
         "share no bucket of eight hashes with another are not compared and have no value."),
)  # fmt: skip

_C4 = (
    Rule("c4", "max_lorem_ipsum", "Lorem ipsum", "lorem_ipsum", "max", "times",
         "The page has placeholder text, so it was never finished."),
    Rule("c4", "max_curly_brackets", "Curly brackets", "curly_brackets", "max", "times",
         "Curly brackets are rare in prose and frequent in program code."),
    Rule("c4", "min_sentences", "Sentences", "sentences", "min", "sentences",
         "What is left after the line rules is too little to be a text."),
)  # fmt: skip

_CUSTOM = (
    Rule("custom", "min_line_punct_ratio", "Lines that end a sentence", "line_punct_ratio", "min", "share",
         "Lines that end in a full stop, a question mark or the like: a low share means lists and menus."),
    Rule("custom", "max_short_line_ratio", "Short lines", "short_line_ratio", "max", "share",
         "Lines of at most 30 characters, as a share of all: a high share means lists and menus."),
    Rule("custom", "max_dup_char_ratio", "Characters in repeated lines", "dup_char_ratio", "max", "share",
         "Characters in lines that stood on the page before: stricter than Gopher's rule, on the cleaned text."),
    Rule("custom", "max_newline_ratio", "Line breaks to words", "newline_ratio", "max", "per word",
         "Line breaks for each word: a high ratio means a list."),
    Rule("custom", "min_chars", "Characters left", "chars", "min", "characters",
         "What is left after all line rules is too little to learn from."),
)  # fmt: skip

RULES: tuple[Rule, ...] = (
    *_URL, *_EXTRACTION, *_LANGUAGE, *_REPETITION, *_QUALITY, *_MINHASH, *_C4, *_CUSTOM,
)  # fmt: skip
_BY_STAGE = {name: [rule for rule in RULES if rule.stage == name] for name in STAGE_NAMES}

COUNTED = {"emails": "pii", "ips": "pii"}
"""Measures that no rule looks at: what the last stage replaced on a page."""

MEASURES: tuple[str, ...] = tuple(dict.fromkeys([*(rule.measure for rule in RULES), *COUNTED]))
"""The measure columns of a crawl's decisions, each once, in the order of the stages."""

FAILURES = {
    "malformed_line": "a line that is not a JSON object with a text",
    "truncated": "a page whose record ends before its end",
    "bad_http": "a record that is not a readable HTTP response",
    "extraction_error": "a page on which the extraction gave up",
}
"""Reasons for which a page counts as failed: it could not be judged, which is no judgement on it."""

LINE_RULES = {
    "min_line_words": "lines of too few words",
    "max_line_word_length": "lines with an endless word",
    "drop_javascript_lines": "lines that ask for JavaScript",
    "drop_policy_lines": "lines on cookies and terms of use",
    "require_terminal_punctuation": "lines that do not end a sentence",
    "drop_path_lines": "lines that are only a file's path",
    "banned_lines": "lines that are on the list",
    "max_line_repeats": "lines kept often enough elsewhere in the corpus",
}
"""Rules that drop a line and not the page, by their field in the config; the funnel counts them as `lines`."""


BY_FIELD = {rule.field: rule for rule in RULES}
"""The rule behind a decision's `rule`, which is the name of its field in the config."""
