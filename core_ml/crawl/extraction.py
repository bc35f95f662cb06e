"""Stage 2, text extraction: bytes of a page to the text that a reader would read.

The extraction is resiliparse's, which is some ten times as fast as the trafilatura that FineWeb used. It takes
time with the square of the depth of nesting, so the depth is measured first, in one pass over the tags.
"""

import re

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

_TAG = re.compile(rb"<(/?)([a-zA-Z][a-zA-Z0-9-]*)[^<>]*?(/?)>")
# Elements that hold nothing, and those that HTML lets end without a closing tag: neither deepens the tree for sure.
_FLAT = frozenset(
    b"area base br col embed hr img input link meta param source track wbr "
    b"p li dt dd tr td th thead tbody tfoot option optgroup colgroup rb rt rp body html head".split()
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SPACES = re.compile(r"[ \t\u00a0\u2000-\u200a\u202f\u3000]+")
_BLANK_LINES = re.compile(r"\n{3,}")


def decode(html: bytes, declared: str | None) -> str:
    """The page as text, in the charset of its HTTP head, else of its own <meta>, else the one that it looks like."""
    encoding = declared or detect_encoding(html, from_html_meta=True) or "utf-8"
    try:
        return bytes_to_str(html, encoding)
    except LookupError:  # a charset that nobody knows
        return bytes_to_str(html, detect_encoding(html) or "utf-8")


def nesting(html: bytes) -> int:
    """The greatest depth of open elements; an upper bound, since tags inside scripts count as well."""
    depth = deepest = 0
    for closing, name, empty in _TAG.findall(html):
        if empty or name.lower() in _FLAT:
            continue
        if closing:
            depth = max(depth - 1, 0)
        else:
            depth += 1
            deepest = max(deepest, depth)
    return deepest


def extract(html: str, main_content: bool) -> str:
    return tidy(extract_plain_text(html, main_content=main_content, alt_texts=False, links=False))


def tidy(text: str) -> str:
    """Single spaces inside lines, indentation kept, no control characters, at most one blank line in a row."""
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    lines = []
    for line in text.split("\n"):
        body = line.strip()
        indent = len(line) - len(line.lstrip())
        lines.append(" " * min(indent, 40) + _SPACES.sub(" ", body) if body else "")
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip("\n")
