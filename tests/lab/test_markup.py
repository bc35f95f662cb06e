"""Markdown and mathematics of models and people become HTML that can only be read."""

from html.parser import HTMLParser

import pytest

from lab import markup

ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    '"><iframe srcdoc="<script>alert(1)</script>"></iframe>',
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "<a href=javascript:alert(1)>x</a>",
    "[x](javascript:alert(1)) [y](JaVaScRiPt:alert(1)) [z](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](&#106;avascript:alert(1)) [y](java\tscript:alert(1)) [z]: vbscript:x",
    "<javascript:alert(1)> <http://a.b/?'onmouseover='alert(1)>",
    '[x](http://a.b "onmouseover=alert(1)") [y](http://a.b/"onmouseover="alert(1))',
    '![x](x"onerror="alert(1)) ![y](http://evil.example/pixel.png)',
    "```html'><script>alert(1)</script>\n<img src=x onerror=alert(1)>\n```",
    "`<script>alert(1)</script>`",
    r"$\text{<script>alert(1)</script>}$ $$\text{<img src=x onerror=alert(1)>}$$",
    r"$\href{javascript:alert(1)}{x}$ \(\class{x' onclick='alert(1)}{y}\)",
    r"$\style{background:url(javascript:alert(1))}{x}$ $\unicode{<svg/onload=alert(1)>}$",
    "&lt;script&gt;alert(1)&lt;/script&gt; &#60;img src=x onerror=alert(1)&#62;",
    "| <img src=x onerror=alert(1)> | b |\n|---|---|\n| <svg onload=alert(1)> | 2 |",
    "<style>*{display:none}</style><base href=//evil.example><meta http-equiv=refresh content=0>",
    "<form action=//evil.example><input name=q autofocus onfocus=alert(1)></form>",
    "</script><script>alert(1)</script>",
    "<details open ontoggle=alert(1)> <video><source onerror=alert(1)></video>",
)


class Elements(HTMLParser):
    """Names and attributes of all elements of a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_that_could_act_comes_out(attack):
    for tag, attributes in Elements(markup.html(attack)).found:
        assert tag in markup.TAGS
        assert not any(name.startswith("on") or name in ("style", "src", "id") for name in attributes)
        assert not attributes or set(attributes) <= markup.MATH_ATTRIBUTES | {
            "href",
            "target",
            "rel",
            "class",
            "start",
            "tabindex",
        }
        if "href" in attributes:
            assert attributes["href"].startswith(("http://", "https://", "mailto:"))


def test_tags_that_somebody_wrote_are_read_as_text():
    assert markup.html("a <b>bold</b> &lt;word") == "<p>a &lt;b&gt;bold&lt;/b&gt; &amp;lt;word</p>\n"
    assert r"\text{&lt;i&gt;}" in markup.html(r"$\text{<i>}$")


def test_markdown_code_and_formulas_are_rendered():
    assert markup.html("**a**\nb") == "<p><strong>a</strong><br>\nb</p>\n"
    assert '<pre tabindex="0"><code' in markup.html("```python\nprint(1)\n```")
    fraction = markup.html(r"$\frac{1}{2}$")
    assert "<mfrac><mrow><mn>1</mn></mrow><mrow><mn>2</mn></mrow></mfrac>" in fraction
    assert "<math" in markup.html(r"\(x^2\)") and 'display="block"' in markup.html("$$x$$")
    assert markup.html("$5 and $6") == "<p>$5 and $6</p>\n"


def test_what_is_no_formula_and_what_is_too_long_is_shown_as_it_is():
    assert markup.html("${{{{$") == '<p><code class="formula">{{{{</code></p>\n'
    assert markup.html("*" * (markup.MAX_LETTERS + 1)).startswith("<pre>***")
    # A heading of a model is no heading of the page.
    assert markup.html("# One") == '<p class="heading">One</p>\n'
