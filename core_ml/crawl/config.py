"""The config of a crawl: where pages come from, and every threshold, grouped by stage, None for off.

The defaults are FineWeb's published thresholds (Penedo et al. 2024, arXiv:2406.17557, and its code), which are
Gopher's (Rae et al. 2021, arXiv:2112.11446, table A1) and C4's (Raffel et al. 2020, arXiv:1910.10683).
"""

from typing import Literal

from core_ml.config import RecipeConfig, setting

Share = float | None
Count = int | None


def share(default: float, description: str, group: str) -> Share:
    return setting(default, description + " Empty turns the rule off.", group=group, ge=0, le=1)


def count(
    default: int | None, description: str, group: str, unit: str, ge: int = 0, le: int | None = None
) -> Count:
    return setting(default, description + " Empty turns the rule off.", group=group, unit=unit, ge=ge, le=le)


class CrawlConfig(RecipeConfig):
    source: Literal["python-docs", "warc", "documents"] = setting(
        "python-docs",
        "This machine's own Python documentation, web pages in WARC files, or texts in JSONL or Parquet files. "
        "A dataset given as input takes the place of the source.",
    )
    path: str | None = setting(
        None,
        "A file, or a folder with files: WARC and WET (.warc, .warc.gz), JSONL (.jsonl, .jsonl.gz) or Parquet.",
        max_length=4096,
    )
    text_field: str = setting(
        "text",
        "The field or column that holds a document's text.",
        group="Reading",
        min_length=1,
        max_length=200,
    )
    modules: tuple[str, ...] = setting(
        (),
        "Top-level modules of the Python documentation; none means the whole standard library and all topics.",
        group="Reading",
        max_length=1000,
    )

    banned_domains: tuple[str, ...] = setting(
        (),
        "Hosts that are left out, with all that lies below them.",
        group="URL filtering",
        max_length=100_000,
    )
    banned_url_words: tuple[str, ...] = setting(
        ("casino", "escort", "porn", "porno", "sex", "viagra", "xxx"),
        "Words that an address must not contain between punctuation.",
        group="URL filtering",
        max_length=10_000,
    )

    main_content: bool = setting(
        True, "Leave out menus, sidebars and footers, or take all text of a page.", group="Text extraction"
    )
    max_html_bytes: Count = count(5_000_000, "Largest page that is read.", "Text extraction", "bytes", ge=1)
    max_nesting: int = setting(
        512,
        "Deepest nesting of elements that is read.",
        group="Text extraction",
        unit="elements",
        ge=1,
        le=512,
    )
    min_text_chars: int = setting(
        1, "Shortest text that counts as one.", group="Text extraction", unit="characters", ge=1
    )

    languages: tuple[str, ...] = setting(
        ("en",),
        "Wanted languages by their ISO 639-1 codes; none means any.",
        group="Language filtering",
        max_length=200,
    )
    min_language_score: Share = share(0.65, "Least probability of a wanted language.", "Language filtering")

    max_dup_line_ratio: Share = share(0.30, "Largest share of repeated lines.", "Gopher repetition")
    max_dup_paragraph_ratio: Share = share(0.30, "Largest share of repeated paragraphs.", "Gopher repetition")
    max_dup_line_char_ratio: Share = share(0.20, "Largest share of characters in them.", "Gopher repetition")
    max_dup_paragraph_char_ratio: Share = share(
        0.20, "Largest share of characters in them.", "Gopher repetition"
    )
    max_top_2_gram_ratio: Share = share(0.20, "Largest share of the top word pair.", "Gopher repetition")
    max_top_3_gram_ratio: Share = share(0.18, "Largest share of the top 3-gram.", "Gopher repetition")
    max_top_4_gram_ratio: Share = share(0.16, "Largest share of the top 4-gram.", "Gopher repetition")
    max_dup_5_gram_ratio: Share = share(0.15, "Largest share of repeated 5-grams.", "Gopher repetition")
    max_dup_6_gram_ratio: Share = share(0.14, "Largest share of repeated 6-grams.", "Gopher repetition")
    max_dup_7_gram_ratio: Share = share(0.13, "Largest share of repeated 7-grams.", "Gopher repetition")
    max_dup_8_gram_ratio: Share = share(0.12, "Largest share of repeated 8-grams.", "Gopher repetition")
    max_dup_9_gram_ratio: Share = share(0.11, "Largest share of repeated 9-grams.", "Gopher repetition")
    max_dup_10_gram_ratio: Share = share(0.10, "Largest share of repeated 10-grams.", "Gopher repetition")

    min_words: Count = count(50, "Fewest words.", "Gopher quality", "words")
    max_words: Count = count(100_000, "Most words.", "Gopher quality", "words")
    min_mean_word_length: float | None = setting(
        3.0, "Shortest mean word. Empty turns the rule off.", group="Gopher quality", unit="characters", ge=0
    )
    max_mean_word_length: float | None = setting(
        10.0, "Longest mean word. Empty turns the rule off.", group="Gopher quality", unit="characters", ge=0
    )
    max_symbol_ratio: float | None = setting(
        0.1, "Most number signs or ellipses a word. Empty turns the rule off.", group="Gopher quality", ge=0
    )
    max_bullet_ratio: Share = share(0.9, "Largest share of lines with a bullet.", "Gopher quality")
    max_ellipsis_ratio: Share = share(0.3, "Largest share of lines that break off.", "Gopher quality")
    min_alpha_ratio: Share = share(0.8, "Least share of words with a letter.", "Gopher quality")
    min_stop_words: Count = count(2, "Fewest of eight common English words.", "Gopher quality", "words", le=8)

    max_similarity: Share = share(0.75, "Most alike that two kept pages may be.", "MinHash deduplication")

    min_line_words: Count = count(3, "Fewest words of a line that stays.", "C4 filters", "words")
    max_line_word_length: Count = count(
        1000, "Longest word of a line that stays.", "C4 filters", "characters"
    )
    drop_javascript_lines: bool = setting(True, "Drop lines that ask for JavaScript.", group="C4 filters")
    drop_policy_lines: bool = setting(True, "Drop lines on cookies and terms of use.", group="C4 filters")
    require_terminal_punctuation: bool = setting(
        False,
        "Drop lines that do not end a sentence. C4 does; FineWeb does not, since it costs 30 % of the text.",
        group="C4 filters",
    )
    max_lorem_ipsum: Count = count(0, "Most occurrences of lorem ipsum.", "C4 filters", "times")
    max_curly_brackets: Count = count(0, "Most curly brackets.", "C4 filters", "times")
    min_sentences: Count = count(5, "Fewest sentences.", "C4 filters", "sentences")

    drop_path_lines: bool = setting(False, "Drop lines that are only a file's path.", group="Custom filters")
    banned_lines: tuple[str, ...] = setting(
        (), "Lines that are dropped wherever they stand.", group="Custom filters", max_length=1000
    )
    max_line_repeats: Count = count(
        None,
        "Keep the first so many copies of a line in the whole corpus, in the order of the files. The pages are "
        "then cleaned one after the other, with some 100 bytes of memory for each different line.",
        "Custom filters",
        "copies",
        ge=1,
    )
    min_line_punct_ratio: Share = share(0.12, "Least share of lines that end a sentence.", "Custom filters")
    max_short_line_ratio: Share = share(0.67, "Largest share of lines up to 30 characters.", "Custom filters")
    max_dup_char_ratio: Share = share(0.1, "Largest share of characters in repeated lines.", "Custom filters")
    max_newline_ratio: float | None = setting(
        0.3, "Most line breaks a word. Empty turns the rule off.", group="Custom filters", ge=0
    )
    min_chars: Count = count(None, "Fewest characters that are left.", "Custom filters", "characters")

    replace_emails: bool = setting(True, "Replace e-mail addresses.", group="PII removal")
    replace_ips: bool = setting(True, "Replace public network addresses.", group="PII removal")
