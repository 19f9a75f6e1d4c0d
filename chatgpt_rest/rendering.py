# SPDX-License-Identifier: GPL-2.0-or-later
"""Markdown as ChatGPT writes it, into HTML that is safe to show: tables, code in colours, formulas, footnotes.

Nothing of the text becomes markup by itself: HTML in it is shown as words, links lead to http, https and mail only,
pictures from elsewhere become links, and all of it passes a sanitizer in the end. The libraries are imported when
first used; a person who only syncs never waits for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping, Sequence
from functools import cache, lru_cache
from html import escape
from typing import TYPE_CHECKING, Any, Final

from chatgpt_rest.chatgpt_json import printable
from chatgpt_rest.chatgpt_markers import Footnote, http_url

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.renderer import RendererHTML
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token
    from markdown_it.utils import OptionsDict
    from pygments.formatters import HtmlFormatter
    from pygments.lexer import Lexer

MOST_MARKDOWN: Final = 1_000_000
"""Characters. A longer text is shown as it is: nobody reads it as prose, and a browser would take its time."""

_MOST_BRACKETS: Final = 20_000  # each may open a link and costs some 25 µs; whole books have fewer
_MOST_HIGHLIGHTED: Final = 100_000  # characters of code
_LONGEST_FORMULA: Final = 4_000  # characters
_LONGEST_FORMULA_LINES: Final = 100
_NESTING: Final = 50  # levels; markdown-it drops what is deeper, which is why such texts are shown as they are
_REFERENCE: Final = re.compile(r"\[\^([^\[\]\s]{1,20})\]")
_NOTE: Final = re.compile(r"^[ >]*\[\^([^\]\n]{1,200})\]:", re.MULTILINE)
_LANGUAGE: Final = re.compile(r"[A-Za-z0-9+#._-]{1,30}")
_PICTURE: Final = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,", re.IGNORECASE)
_LINK: Final = re.compile(r"https?://|mailto:|#fn", re.IGNORECASE)
_CONTROLS: Final = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127), "\ufffd")

# What the sanitizer lets through; nothing here can load or run anything by itself.
_TAGS: Final = """
    a blockquote br code del div em h1 h2 h3 h4 h5 h6 hr img li ol p pre s section span strong sup table tbody td th
    thead tr ul
"""
_MATH_TAGS: Final = """
    math menclose mfenced mfrac mi mmultiscripts mn mo mover mpadded mphantom mprescripts mroot mrow ms mspace msqrt
    mstyle msub msubsup msup mtable mtd mtext mtr munder munderover none
"""
_MATH_ATTRIBUTES: Final = """
    accent accentunder columnalign columnlines columnspacing depth display displaystyle fence form height
    linethickness lspace mathbackground mathcolor mathsize mathvariant maxsize minsize movablelimits notation rowlines
    rowspacing rspace scriptlevel separator stretchy voffset width
"""
_ATTRIBUTES: Final = {
    "*": "class id title",
    "a": "href",
    "img": "src alt",
    "ol": "start",
    "pre": "data-language",
    "td": "style",
    "th": "style",
}


def render(markdown: str, *, footnotes: Sequence[Footnote] = (), key: str = "") -> str:
    """`markdown` as HTML. `[^label]` of a footnote given here becomes a link to its source.

    `key`, one word, tells the notes that the text defines itself from those of other texts on the same page. Takes
    seconds for a megabyte, whatever it holds: what is longer, or nested to no end, is shown as it is.
    """
    text = displayable(markdown)
    if len(text) > MOST_MARKDOWN or text.count("[") > _MOST_BRACKETS:
        return plain(text)
    citations = {each.label: each for each in footnotes}
    try:
        return _laid_out(text, citations, key) or plain(text)
    except RecursionError:
        return plain(text)


def _laid_out(text: str, citations: Mapping[str, Footnote], key: str) -> str | None:
    """`text` as HTML, None where it is nested so deep that markdown-it would leave something out."""
    environment: dict[str, Any] = {"docId": key, "citations": citations}
    labels = _NOTE.findall(text)
    parser = _parser(has_notes=len(labels) == len(set(labels)))
    tokens = parser.parse(text, environment)
    if -1 in environment.get("footnotes", {}).get("refs", {}).values():
        # The plugin drops a note that nothing refers to, words and all.
        parser = _parser(has_notes=False)
        tokens = parser.parse(text, {"citations": citations})
    if max((token.level for token in tokens), default=0) >= _NESTING - 1:
        return None
    return _clean(parser.renderer.render(tokens, parser.options, environment))


def open_fence(markdown: str) -> str:
    """What would close the block of code that `markdown` ends in, `""` where it ends in none: an answer that broke off
    must not turn what follows it into code.
    """
    if markdown.count("```") % 2 == 0 and "````" not in markdown and "~~~" not in markdown:
        return ""
    mark = "\ue000"  # a word that no text ends in
    last = _blocks().parse(f"{markdown}\n\n{mark}")[-1]
    return last.markup if last.type == "fence" and last.level == 0 and mark in last.content else ""


def plain(text: str) -> str:
    """`text` as it is, line by line."""
    return f'<pre class="plain">{escape(displayable(text))}</pre>'


def highlight(code: str, language: str = "") -> str:
    """A block of code, in colours where the language is one that is known."""
    text = displayable(code)
    name = language.lower() if _LANGUAGE.fullmatch(language) else ""
    inside = (_coloured(text, name) if name and len(text) <= _MOST_HIGHLIGHTED else None) or escape(text)
    label = f' data-language="{escape(name)}"' if name else ""
    return f'<pre class="code"{label}><code>{inside}</code></pre>\n'


def displayable(text: str) -> str:
    """`text` without what HTML cannot hold: lone surrogates, control characters."""
    return (printable(text) or "").translate(_CONTROLS)


@cache
def stylesheet() -> str:
    """The colours of code, for light and for dark screens."""
    return f"{_colours('friendly')}\n@media (prefers-color-scheme: dark) {{\n{_colours('github-dark')}\n}}\n"


def _colours(style: str) -> str:
    """Only the rules for words: background and line numbers are the page's own business."""
    from pygments.formatters import HtmlFormatter

    definitions: str = HtmlFormatter(style=style).get_style_defs("pre.code")  # type: ignore[no-untyped-call]  # stubs
    return "\n".join(line for line in definitions.splitlines() if re.match(r"pre\.code \.", line))


def _coloured(text: str, language: str) -> str | None:
    lexer = _lexer(language)
    if lexer is None:
        return None
    import pygments

    return pygments.highlight(text, lexer, _formatter())


@lru_cache(maxsize=64)
def _lexer(language: str) -> Lexer | None:
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


@cache
def _formatter() -> HtmlFormatter[str]:
    from pygments.formatters import HtmlFormatter

    return HtmlFormatter(nowrap=True)


# ----------------------------------------------------------------------------------------------------------- sanitizing


def _clean(html: str) -> str:
    import nh3

    return nh3.clean(
        html,
        tags={*_TAGS.split(), *_MATH_TAGS.split()},
        attributes={
            **{tag: set(_MATH_ATTRIBUTES.split()) for tag in _MATH_TAGS.split()},
            **{tag: set(names.split()) for tag, names in _ATTRIBUTES.items()},
        },
        attribute_filter=_attribute,
        filter_style_properties={"text-align"},
        link_rel="noopener noreferrer nofollow",
        url_schemes={"http", "https", "mailto", "data"},
    )


def _attribute(tag: str, name: str, value: str) -> str | None:
    if name == "href":
        return value if tag == "a" and _LINK.match(value) else None
    if name == "src":
        return value if _PICTURE.match(value) else None
    return value


# ------------------------------------------------------------------------------------------------------------ Markdown


@cache
def _parser(*, has_notes: bool) -> MarkdownIt:
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin
    from mdit_py_plugins.footnote import footnote_plugin

    options = {"html": False, "linkify": False, "xhtmlOut": False, "maxNesting": _NESTING}
    parser = MarkdownIt("commonmark", options).enable(["table", "strikethrough"])
    if has_notes:
        parser.use(footnote_plugin, inline=False)
    else:
        parser.block.ruler.at("reference", _reference)
    # A dollar beside a digit or a space is money.
    parser.use(dollarmath_plugin, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True)
    # The plugin for \( \) and \[ \] searches the whole text anew for each of them: ours are written for this.
    parser.inline.ruler.before("escape", "bracket_math", _bracket_formula)
    interrupts = ["paragraph", "reference", "blockquote", "list"]
    parser.block.ruler.before("fence", "bracket_math_block", _bracket_formula_block, {"alt": interrupts})
    parser.inline.ruler.before("link", "citation", _citation)
    for name in ("math_inline", "math_inline_double", "math_block"):
        parser.add_render_rule(name, _render_formula)
    parser.add_render_rule("citation", _render_citation)
    parser.add_render_rule("fence", _render_code)
    parser.add_render_rule("code_block", _render_code)
    parser.add_render_rule("image", _render_image)
    parser.add_render_rule("table_open", _render_table_open)
    parser.add_render_rule("table_close", _render_table_close)
    return parser


@cache
def _blocks() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"maxNesting": _NESTING}).disable("inline")


def _reference(state: StateBlock, start: int, end: int, silent: bool) -> bool:  # noqa: FBT001
    """`[label]: address`, but no notes, which would disappear as addresses of nothing."""
    from markdown_it.rules_block import reference

    return not _line(state, start).startswith("[^") and reference(state, start, end, silent)


def _citation(state: StateInline, silent: bool) -> bool:  # noqa: FBT001 - the parser calls its rules like this
    """`[^label]` of a source that was given. Notes that the text defines itself are the plugin's."""
    if state.src[state.pos] != "[" or (match := _REFERENCE.match(state.src, state.pos)) is None:
        return False
    footnote = state.env["citations"].get(match[1])
    if footnote is None or match.end() > state.posMax:
        return False
    if not silent:
        state.push("citation", "", 0).meta = {"footnote": footnote}
    state.pos = match.end()
    return True


def _bracket_formula(state: StateInline, silent: bool) -> bool:  # noqa: FBT001
    r"""`\( … \)` and `\[ … \]` within a line."""
    if state.src[state.pos] != "\\":
        return False
    opening = state.src[state.pos : state.pos + 2]
    closing = {"\\(": "\\)", "\\[": "\\]"}.get(opening)
    if closing is None:
        return False
    end = state.src.find(closing, state.pos + 2, min(state.posMax, state.pos + _LONGEST_FORMULA))
    if end < 0:
        return False
    if not silent:
        token = state.push("math_inline" if opening == "\\(" else "math_inline_double", "math", 0)
        token.content = state.src[state.pos + 2 : end]
    state.pos = end + 2
    return True


def _bracket_formula_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:  # noqa: FBT001
    r"""`\[ … \]` on lines of its own, which no list or heading may take apart."""
    if state.sCount[start] - state.blkIndent >= 4 or not _line(state, start).startswith("\\["):
        return False
    for line in range(start, min(end, start + _LONGEST_FORMULA_LINES)):
        text = _line(state, line).rstrip()
        if not text or (line > start and (text.startswith("\\[") or state.sCount[line] < state.blkIndent)):
            return False
        if text.endswith("\\]"):
            break
        if "\\]" in text:
            return False
    else:
        return False
    if not silent:
        token = state.push("math_block", "math", 0)
        token.block = True
        token.content = "\n".join(_line(state, each) for each in range(start, line + 1)).strip()[2:-2]
        token.map = [start, line + 1]
    state.line = line + 1
    return True


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]


# ------------------------------------------------------------------------------------------------------------- writing

Environment = MutableMapping[str, Any]


def _render_citation(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, environment: Environment
) -> str:
    footnote: Footnote = tokens[index].meta["footnote"]
    label, title = escape(footnote.label), escape(displayable(footnote.title))
    if footnote.url is None:
        return f'<sup class="citation" title="{title}">{label}</sup>'
    return f'<sup class="citation"><a href="{escape(footnote.url)}" title="{title}">{label}</a></sup>'


def _render_formula(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, environment: Environment
) -> str:
    token = tokens[index]
    is_display = token.type != "math_inline"
    written = _mathml(token.content.strip(), is_display=is_display)
    inside = written or f"<code>{escape(token.content)}</code>"
    if token.block:
        return f'<div class="formula">{inside}</div>\n'
    return f'<span class="formula{" display" if is_display else ""}">{inside}</span>'


def _render_code(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, environment: Environment
) -> str:
    words = tokens[index].info.split(maxsplit=1)
    return highlight(tokens[index].content, words[0] if words else "")


def _render_image(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, environment: Environment
) -> str:
    """A picture where the text holds it itself; where it is elsewhere, nobody there shall learn that this was read."""
    token = tokens[index]
    source = str(token.attrs.get("src", ""))
    words = self.renderInlineAsText(token.children, options, environment)
    if _PICTURE.match(source):
        return f'<img src="{escape(source)}" alt="{escape(words)}">'
    url = http_url(source)
    return f'<a href="{escape(url)}">{escape(words or url)}</a>' if url else escape(words)


def _render_table_open(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, environment: Environment
) -> str:
    return '<div class="table"><table>\n'


def _render_table_close(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, environment: Environment
) -> str:
    return "</table></div>\n"


# ------------------------------------------------------------------------------------------------------------ formulas

_ENVIRONMENT: Final = re.compile(r"\\(begin|end)\{(aligned|align|gathered|gather\*?|multline\*?|equation\*?)\}")


def _mathml(tex: str, *, is_display: bool) -> str | None:
    """A formula as MathML, None where it is none that can be read."""
    if not tex or len(tex) > _LONGEST_FORMULA:
        return None
    from xml.etree.ElementTree import tostring

    from latex2mathml.converter import convert_to_element

    known = _ENVIRONMENT.sub(_environment, tex)
    try:
        written = tostring(convert_to_element(known, display="block" if is_display else "inline"), encoding="unicode")
    except _stumbles():
        return None
    # Its own way to write them turns `\text{<img>}` into markup; only its symbols are meant to be references.
    return re.sub(r"&amp;(#x[0-9A-Fa-f]{1,6};)", r"&\1", written)


@cache
def _stumbles() -> tuple[type[Exception], ...]:
    """What latex2mathml raises for formulas that are wrong: errors of its own, and whatever they make it run into."""
    from latex2mathml import exceptions

    own = [each for each in vars(exceptions).values() if isinstance(each, type)]
    return (*own, ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def _environment(match: re.Match[str]) -> str:
    """The environments that latex2mathml does not know, as others that come close."""
    edge, name = match[1], match[2]
    if name.startswith("equation"):
        return ""
    return f"\\{edge}{{{'align*' if name.startswith('align') else 'matrix'}}}"
