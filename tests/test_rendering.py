# SPDX-License-Identifier: GPL-2.0-or-later
"""Markdown as safe HTML: what people write is shown, what could do harm is words."""

from __future__ import annotations

import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest import rendering
from chatgpt_rest.chatgpt_markers import Footnote
from tests.shapes import words

SAFE_LINKS = ("http://", "https://", "mailto:", "#fn")
HARMLESS = {"class", "id", "title", "rel", "href", "src", "alt", "start", "style", "data-language"}
PIECES = """
    [ ] ( ) ! < > ` ``` ~~~ $ $$ \\( \\) \\[ \\] * _ | |-| > # - 1. &lt; &#0; [^1] [^a]: \\ : / https://a.b javascript:x
    data:image/png;base64,A <script> \\frac \\text{ } &
"""


class Tags(HTMLParser):
    """Every tag of a page, with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words += data

    def links(self) -> list[str]:
        return [attributes["href"] for tag, attributes in self.found if tag == "a" and "href" in attributes]


def render(markdown: str, *footnotes: Footnote) -> str:
    """`markdown` as one passage of a page."""
    return rendering.render(markdown, footnotes=footnotes, key="m1")


# -------------------------------------------------------------------------------------------------------------- shown


@pytest.mark.parametrize(
    ("markdown", "expected"),
    [
        pytest.param("**a** ~~b~~ `c`", "<strong>a</strong> <s>b</s> <code>c</code>", id="words"),
        pytest.param("|a|b|\n|-|-:|\n|1|2|", '<td style="text-align:right">2</td>', id="table"),
        pytest.param("|a|\n|-|\n|1|", '<div class="table"><table>', id="table that scrolls"),
        pytest.param("3. a", '<ol start="3">', id="list"),
        pytest.param("```python\ndef f(): 1\n```", '<span class="k">def</span>', id="code in colours"),
        pytest.param("```Python x\n1\n```", '<pre class="code" data-language="python">', id="a language"),
        pytest.param("```nosuchlanguage\na<b\n```", "<code>a&lt;b\n</code>", id="a language nobody knows"),
        pytest.param("    a<b", "<code>a&lt;b", id="indented code"),
        pytest.param("$x^2$", '<math display="inline"><mrow><msup>', id="dollars"),
        pytest.param("$$\nx^2\n$$", '<div class="formula"><math display="block">', id="dollars on lines"),
        pytest.param("a $$x$$ b", '<span class="formula display"><math display="block">', id="dollars within"),
        pytest.param(r"a \(x\) b", '<span class="formula"><math display="inline"><mrow><mi>x</mi>', id="brackets"),
        pytest.param(r"a \[x\] b", '<span class="formula display"><math display="block">', id="square ones"),
        pytest.param("a\n\\[\nx\n+ y\n- z\n\\]\nb", '<div class="formula"><math display="block">', id="on lines"),
        pytest.param("- a\n  \\[ x \\]", '<div class="formula"><math display="block">', id="in a list"),
        pytest.param(r"\[\begin{aligned}a&=b\\c&=d\end{aligned}\]", "<mtable", id="aligned"),
        pytest.param(r"\(\text{<b>\&lt;}\)", "<mtext>&lt;b&gt;", id="words in a formula"),
        pytest.param(r"\(a^b^c\)", "<code>a^b^c</code>", id="a formula that is wrong"),
        pytest.param("$" + "{" * 3_000 + "$", "<code>{{{", id="a formula too deep"),
        pytest.param("It costs $5 or $10.", "<p>It costs $5 or $10.</p>", id="money"),
        pytest.param(r"\(never closed", "(never closed", id="a bracket alone"),
        pytest.param(
            "x[^n]\n\n[^n]: A note", '<li id="fn-m1-1" class="footnote-item"><p>A note', id="a note of its own"
        ),
        pytest.param(
            "![a](data:image/png;base64,AAAA)", '<img src="data:image/png;base64,AAAA" alt="a">', id="picture"
        ),
    ],
)
def test_what_chatgpt_writes_is_shown(markdown: str, expected: str) -> None:
    """Words, tables, code in colours, formulas in each of their spellings, notes."""
    assert expected in render(markdown)


def test_a_citation_leads_to_its_source() -> None:
    """`[^label]` of a given footnote is a link, in prose and not in code; without an address it only has a title."""
    html = render(
        "x[^1] y[^2] `[^1]` [^3]", Footnote("1", 'T"<', "https://a.example/?a&b"), Footnote("2", "File", None)
    )
    assert 'href="https://a.example/?a&amp;b" title="T&quot;&lt;"' in html
    assert '<sup class="citation" title="File">2</sup>' in html
    assert "<code>[^1]</code> [^3]" in html


@pytest.mark.parametrize(
    "text", ["[^a]: words", "x[^a]\n\n[^a]: words\n\n[^a]: twice", "> [^b]: words", "[^a]: " * 5_000 + "words"]
)
def test_a_note_that_nothing_refers_to_is_not_lost(text: str) -> None:
    """Where notes and references do not fit together, all of it is shown as it stands."""
    assert "words" in Tags(render(text)).words


def test_code_is_highlighted_by_itself() -> None:
    """A block of code that is no part of a text looks like one that is."""
    assert rendering.highlight("def f(): 1\n", "python") == render("```python\ndef f(): 1\n```")


def test_code_has_colours_for_light_and_dark() -> None:
    """The stylesheet has rules for the words of code, and none that could reach anything else."""
    light, dark = rendering.stylesheet().split("@media (prefers-color-scheme: dark)")
    assert "pre.code .k {" in light
    assert "pre.code .k {" in dark
    assert "url(" not in light + dark


# ----------------------------------------------------------------------------------------------------------- harmless


@pytest.mark.parametrize(
    "markdown",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<!-- <style>*{} -->",
        "<iframe src=https://a.example>",
        "a <b onclick=x>b</b>",
        "```html\n</code></pre><script>alert(1)</script>\n```",
        '```"><script>\nx\n```',
        "`</code><script>`",
        r"\(\text{</math><script>alert(1)</script>}\)",
        r"\(\href{javascript:alert(1)}{x}\)",
        r"$\text{<img src=x onerror=alert(1)>}$",
        "[a](javascript:alert(1))",
        "[a](JAVASCRIPT&colon;alert(1))",
        "[a](<java\nscript:alert(1)>)",
        "[a](vbscript:x)",
        "[a](data:text/html,<script>alert(1)</script>)",
        "[a](//a.example)",
        "[a](/etc/passwd)",
        "[a](file:///etc/passwd)",
        "<javascript:alert(1)>",
        "![a](https://a.example/pixel.png)",
        "![a](//a.example/pixel.png)",
        "![a](data:image/svg+xml;base64,AAAA)",
        "![a](data:text/html;base64,AAAA)",
        '![" onerror="alert(1)](data:image/png;base64,AAAA)',
        '[a](https://a.example "x\\" onclick=\\"y")',
        "[a]: javascript:alert(1)\n\n[a]",
        '[^"><script>]: x\n\nx[^"><script>]',
        '<a@b.c" onclick="x>',
        "|<script>|\n|-|\n|<img src=x>|",
    ],
)
def test_nothing_hostile_gets_through(markdown: str) -> None:
    """Markup in a text is words, and links and pictures are harmless."""
    _assert_harmless(render(markdown))


def test_a_picture_from_elsewhere_is_a_link() -> None:
    """Nobody learns that it was looked at."""
    tags = Tags(render("![A cat](https://a.example/cat.png)"))
    assert (tags.links(), tags.words.strip()) == (["https://a.example/cat.png"], "A cat")


def test_links_tell_nothing() -> None:
    """A page that is followed to learns neither where from, nor gets hold of the window."""
    ((_, attributes),) = [each for each in Tags(render("[a](https://a.example)")).found if each[0] == "a"]
    assert attributes["rel"] == "noopener noreferrer nofollow"


def test_a_citation_with_a_hostile_address_leads_nowhere() -> None:
    """Even a footnote that should not exist does no harm."""
    _assert_harmless(render("x[^1]", Footnote("1", "<script>", "javascript:alert(1)")))


@given(st.lists(words | st.sampled_from([*PIECES.split(), "\n", "\n\n", " ", "    ", "\x00"])).map("".join))
def test_any_text_is_harmless(text: str) -> None:
    """Whatever a text is made of, what comes out has no markup but ours, and is UTF-8."""
    html = render(text, Footnote("1", "T", "https://a.example"))
    html.encode()
    _assert_harmless(html)


def _assert_harmless(html: str) -> None:
    for tag, attributes in Tags(html).found:
        assert tag in rendering._TAGS.split() + rendering._MATH_TAGS.split()
        assert not [name for name in attributes if name.startswith("on")]
        assert tag.startswith("m") or HARMLESS.issuperset(attributes)
        if "href" in attributes:
            assert (tag, attributes["href"].lower().startswith(SAFE_LINKS)) == ("a", True)
        if "src" in attributes:
            assert (tag, attributes["src"].startswith("data:image/png;base64,")) == ("img", True)


# -------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(">" * 10_000 + "deep", id="quotes in quotes"),
        pytest.param("> - " * 5_000 + "deep", id="lists in quotes"),
        pytest.param("1. " * 5_000 + "deep", id="lists in lists"),
        pytest.param("[" * 20_001 + "deep", id="brackets"),
        pytest.param("word " * 200_001 + "deep", id="a megabyte"),
    ],
)
def test_what_cannot_be_laid_out_is_shown_as_it_is(text: str) -> None:
    """No word is lost where Markdown would give up, or take too long."""
    assert render(text) == rendering.plain(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[a](" * 5_000, id="links"),
        pytest.param("*a_ " * 5_000, id="emphasis"),
        pytest.param("".join("`" * length + " " for length in range(400)), id="backticks"),
        pytest.param("$a " * 10_000, id="dollars"),
        pytest.param("\\(" * 20_000, id="round brackets"),
        pytest.param("\\[\n" * 10_000, id="square brackets"),
        pytest.param("|a" * 400 + "|\n" + "|-" * 400 + "|\n" + "|b\n" * 400, id="a wide table"),
        pytest.param("<a " * 10_000, id="tags"),
    ],
)
def test_what_is_made_to_take_for_ever_does_not(text: str) -> None:
    """Tens of thousands of beginnings with no end are a matter of a moment."""
    started = time.process_time()
    render(text)
    assert time.process_time() - started < 20  # what goes with the square takes minutes


# -------------------------------------------------------------------------------------------------------- open fences


@pytest.mark.parametrize(
    ("markdown", "fence"),
    [
        ("a", ""),
        ("```\na\n```", ""),
        ("```python\na", "```"),
        ("````\n```\na\n```", "````"),
        ("~~~\na", "~~~"),
        ("~~~\na\n~~~", ""),
        ("- ```\n  a", ""),
        ("a ``` b", ""),
        ("```\na\n```\n```", "```"),
    ],
)
def test_an_open_fence_is_found(markdown: str, fence: str) -> None:
    """Only a block of code that would swallow what follows is reported; one in a list ends with its list."""
    assert rendering.open_fence(markdown) == fence
