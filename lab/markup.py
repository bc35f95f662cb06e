"""Markdown, code and mathematics that models and people wrote, as HTML that can do nothing but be read.

Three walls. Markdown is read with HTML switched off, so that every tag is text. A formula is shown as MathML where
that is XML of MathML's own elements and nothing else. What comes of both passes a sanitizer that keeps the few tags
below and links to http, https and mailto; pictures are left out, since their address would tell its owner who reads.
The page's policy (lab/security.py) then allows no inline script anyway.
"""

import re
from functools import lru_cache
from html import escape
from xml.etree import ElementTree

import nh3
from django.utils.safestring import SafeString
from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.texmath import texmath_plugin

MAX_LETTERS = 60_000
"""Longer texts are shown as they are."""
MAX_FORMULA = 2000
MAX_FORMULAS = 200
MATH = frozenset(
    re.findall(
        r"\w+",
        "math mrow mi mn mo mtext mspace msup msub msubsup mfrac msqrt mroot mover munder munderover mtable mtr mtd "
        "mstyle mpadded mphantom menclose",
    )
)
TAGS = MATH | frozenset(
    re.findall(
        r"\w+", "p br strong em s code pre ul ol li blockquote hr a table thead tbody tr th td span div"
    )
)
MATH_ATTRIBUTES = frozenset(
    re.findall(
        r"\w+",
        "display mathvariant stretchy fence form separator lspace rspace minsize maxsize symmetric largeop "
        "movablelimits accent accentunder linethickness columnalign rowspacing columnspacing displaystyle "
        "scriptlevel width height depth notation",
    )
)
ATTRIBUTES = {
    **{tag: MATH_ATTRIBUTES for tag in MATH},
    "*": set(),
    "a": {"href"},
    "ol": {"start"},
    "div": {"class"},
    "p": {"class"},
    "code": {"class"},
}
CLASSES = {"div": {"formula"}, "p": {"heading"}, "code": {"formula"}}


@lru_cache(maxsize=2000)
def html(text: str) -> SafeString:
    """Safe HTML of one prompt or response. As a model's text it keeps its line ends."""
    if len(text) > MAX_LETTERS:
        return SafeString(f"<pre>{escape(text)}</pre>")
    rendered = _reader().render(text, {"formulas": 0})
    cleaned = nh3.clean(
        rendered,
        tags=set(TAGS),
        clean_content_tags={"script", "style"},
        attributes={tag: set(names) for tag, names in ATTRIBUTES.items() if tag not in CLASSES},
        allowed_classes=CLASSES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
        # Wide code and formulas scroll, and are reached by keys.
        set_tag_attribute_values={
            "a": {"target": "_blank"},
            "pre": {"tabindex": "0"},
            "div": {"tabindex": "0"},
        },
    )
    return SafeString(cleaned)  # nh3 let through what stands in TAGS and ATTRIBUTES, and nothing else


@lru_cache(maxsize=1)
def _reader() -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False, "breaks": True, "linkify": False})
    reader.enable(["table", "strikethrough"]).disable(["image", "html_block", "html_inline", "entity"])
    # An address within the lab is not a model's to link to.
    reader.validateLink = lambda url: url.startswith(("http://", "https://", "mailto:"))  # type: ignore[method-assign]
    dollarmath_plugin(reader, allow_space=False, allow_digits=False, double_inline=True)
    texmath_plugin(reader, delimiters="brackets")
    for name, is_block in (
        ("math_inline", False),
        ("math_inline_double", True),
        ("math_block", True),
        ("math_block_label", True),
        ("math_block_eqno", True),
        ("math_single", False),
    ):
        reader.add_render_rule(name, _formula_block if is_block else _formula_inline)
    # A page has one h1, and it is not a model's.
    reader.add_render_rule("heading_open", lambda *_: '<p class="heading">')
    reader.add_render_rule("heading_close", lambda *_: "</p>\n")
    return reader


def _formula_inline(self, tokens, index, options, env):  # type: ignore[no-untyped-def]
    return _formula(tokens[index].content, "inline", env)


def _formula_block(self, tokens, index, options, env):  # type: ignore[no-untyped-def]
    return f'<div class="formula">{_formula(tokens[index].content, "block", env)}</div>\n'


def _formula(source: str, display: str, env: dict[str, int]) -> str:
    """MathML, or the source itself where it is no formula that can be read."""
    env["formulas"] = env.get("formulas", 0) + 1
    plain = f'<code class="formula">{escape(source)}</code>'
    if len(source) > MAX_FORMULA or env["formulas"] > MAX_FORMULAS:
        return plain
    try:
        made = str(convert(source.strip(), display=display))
        # The converter passes on tags that stand in \\text.
        whole = all(one.tag.rpartition("}")[2] in MATH for one in ElementTree.fromstring(made).iter())
        return made if whole else plain
    except (
        Exception
    ):  # a parser of somebody else's over a model's text: whatever it stumbles on, the text is shown
        return plain


def of_group(prompt: str, completions: list[str]) -> dict[str, object]:
    """Prompt and completions of a rollout group as safe HTML."""
    return {"prompt": html(prompt), "completions": [html(text) for text in completions]}
