# SPDX-License-Identifier: GPL-2.0-or-later
"""Markers and citations: every kind becomes words, a link or a footnote, or nothing."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest.chatgpt_markers import Citations, Footnote, Footnotes, Source, escaped, http_url, linked
from tests.shapes import json_values, words

A = {"title": "A", "url": "https://a.example/"}
B = {"title": "B", "url": "https://b.example/"}


def marker(*members: str) -> str:
    """A marker as ChatGPT writes them."""
    return "\ue200" + "\ue202".join(members) + "\ue201"


CITE = marker("cite", "turn0search0")


def resolved(text: str, *, is_verbatim: bool = False, **metadata: Any) -> tuple[str, tuple[Footnote, ...]]:
    """`text` resolved, and what it cites."""
    footnotes = Footnotes()
    citations = Citations(metadata, [text], footnotes)
    return citations.resolve(text, is_verbatim=is_verbatim), footnotes.end_message()


def rest(text: str, **metadata: Any) -> list[str]:
    """The titles of what no marker in `text` stands for."""
    citations = Citations(metadata, [text], Footnotes())
    citations.resolve(text)
    return [source.title for source in citations.rest()]


# ---------------------------------------------------------------------------------------------------------- references


def test_a_marker_is_found_by_its_exact_text() -> None:
    """The reference whose `matched_text` is the marker gives its footnotes, wherever it stands in the list."""
    references = [{"matched_text": "elsewhere", **B}, {"matched_text": CITE, "items": [A, B]}]
    text, footnotes = resolved(f"Paris {CITE}.", content_references=references)
    assert text == "Paris [^1][^2]."
    assert footnotes == (Footnote("1", "A", A["url"]), Footnote("2", "B", B["url"]))


def test_the_longest_text_wins() -> None:
    """A reference to two markers in a row is taken for both, not for the first of them alone."""
    both = CITE + " " + marker("cite", "turn0search1")
    references = [{"matched_text": CITE, **A}, {"matched_text": both, **B}]
    assert resolved(f"x {both} y", content_references=references) == ("x [^1] y", (Footnote("1", "B", B["url"]),))


def test_references_without_a_text_are_taken_in_order() -> None:
    """Where no text matches, the first marker gets the first reference, and so on."""
    text, footnotes = resolved(f"x{CITE} y{marker('cite', 'turn0search1')}", content_references=[A, B])
    assert text == "x[^1] y[^2]"
    assert [each.title for each in footnotes] == ["A", "B"]


def test_what_no_marker_stands_for_is_listed_at_the_end() -> None:
    """Sources with no place in the text are kept, once each, but not those that the text cites."""
    references = [{"matched_text": CITE, **A}, {"matched_text": "gone", **B}]
    footnote = {"type": "sources_footnote", "matched_text": " ", "sources": [A, B, {"title": "C", "url": "https://c/"}]}
    assert rest(f"x{CITE}", content_references=[*references, footnote]) == ["B", "C"]


def test_one_reference_serves_the_same_marker_twice() -> None:
    """A source cited twice is one footnote."""
    text, footnotes = resolved(f"x{CITE} y{CITE}", content_references=[{"matched_text": CITE, **A}])
    assert (text, len(footnotes)) == ("x[^1] y[^1]", 1)


def test_search_results_are_the_fallback() -> None:
    """With no reference at all, the id in the marker leads to the search result."""
    entry = {**A, "ref_id": {"turn_index": 0, "ref_type": "search", "ref_index": 0}}
    groups = [{"type": "search_result_group", "entries": [entry]}]
    assert resolved(f"x{CITE}", search_result_groups=groups) == ("x[^1]", (Footnote("1", "A", A["url"]),))


def test_a_hidden_reference_shows_nothing() -> None:
    """What ChatGPT hides of its own references has no footnote."""
    assert resolved(f"x {CITE}.", content_references=[{"matched_text": CITE, "type": "hidden", **A}]) == ("x.", ())


def test_the_words_of_a_reference_that_cites_nothing_are_shown() -> None:
    """`alt` stands in for a marker, without links to anything but the web, and with no marker in it."""
    alt = f"[1 kg](javascript:x) and [more](https://a.example){CITE[0]}"
    text, _ = resolved(f"x {CITE}.", content_references=[{"matched_text": CITE, "alt": alt}])
    assert text == "x 1 kg and [more](https://a.example)."


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "//a.example", "http://"]
)
def test_only_the_web_is_linked(url: str) -> None:
    """A source whose address is none of http or https is named, and leads nowhere."""
    _, footnotes = resolved(f"x{CITE}", content_references=[{"matched_text": CITE, "title": "T", "url": url}])
    assert footnotes == (Footnote("1", "T", None),)


def test_a_file_is_a_source_by_its_name() -> None:
    """What was cited from an upload has a name and no address."""
    file = marker("filecite", "turn0file0", "L1-L9")
    reference = {"matched_text": file, "type": "file", "name": "Notes.pdf", "id": "file-1"}
    assert resolved(f"x{file}", content_references=[reference]) == ("x[^1]", (Footnote("1", "Notes.pdf", None),))


# --------------------------------------------------------------------------------------------------------------- kinds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(marker("entity", '["city","Par*is","the capital"]'), "Par\\*is", id="entity"),
        pytest.param(marker("entity", "no JSON"), "", id="entity with no name"),
        pytest.param(
            marker("url", "the label", "https://a.example/(x)"), "[the label](https://a.example/%28x%29)", id="url"
        ),
        pytest.param(marker("url", "the label", "javascript:alert(1)"), "the label", id="url to a script"),
        pytest.param(marker("url", "the label"), "the label", id="url with no target"),
        pytest.param(
            marker("products", '{"selections": [["turn0product1", "A lamp"], ["x", "B"]]}'), "A lamp, B", id="products"
        ),
        pytest.param(marker("products", "["), "", id="products that are none"),
        pytest.param(marker("genui", '{"a": 1}'), "", id="genui"),
        pytest.param(marker("image_group", '{"query": ["x"]}'), "", id="image_group"),
        pytest.param(marker("navlist", "News", "turn0news1,turn0news2"), "", id="navlist"),
        pytest.param(marker("i", "turn0image0"), "", id="i"),
        pytest.param(marker("whatever", "x"), "", id="a kind nobody knows"),
        pytest.param(marker(""), "", id="nothing"),
        pytest.param("\ue200cite\ue202turn0search0", "", id="not closed, at the end"),
        pytest.param("\ue203bold\ue204", "bold", id="stray"),
        pytest.param("\ue201\ue202\ue20f", "", id="loose characters"),
        pytest.param("【11†source】", "", id="older"),
        pytest.param("【重要】", "【重要】", id="brackets that are Chinese"),
        pytest.param(":contentReference[oaicite:7]{index=7}", "", id="contentReference"),
        pytest.param("[Table](sandbox:/mnt/data/a%20b.csv)", "Table (`a b.csv`)", id="sandbox"),
        pytest.param("![](sandbox:/mnt/data/plot.png)", "`plot.png`", id="sandbox picture"),
        pytest.param("[plot.png](sandbox:/mnt/data/plot.png)", "plot.png", id="sandbox named in the label"),
        pytest.param("sandbox:/mnt/data/plot.png. ", "`plot.png`. ", id="bare sandbox"),
    ],
)
def test_every_kind_becomes_words(text: str, expected: str) -> None:
    """With no metadata each marker gives the words it holds, and else disappears."""
    assert resolved(f"a {text}z")[0] == (f"a {expected}z" if expected else "a z")


def test_a_marker_that_was_never_closed_ends_where_its_arguments_do() -> None:
    """What follows it is kept."""
    text, _ = resolved("a\ue200cite\ue202turn0search0\ue202turn1news2Then the end.", content_references=[A])
    assert text == "a[^1]Then the end."


def test_a_link_may_lead_to_a_search_result() -> None:
    """The target of a `url` can be the id of a source, and a reference to it changes nothing."""
    link = marker("url", "here", "turn0search0")
    entry = {**A, "ref_id": {"turn_index": 0, "ref_type": "search", "ref_index": 0}}
    groups = [{"entries": [entry]}]
    assert resolved(link, search_result_groups=groups)[0] == "[here](https://a.example/)"
    reference = {"matched_text": link, **A}
    assert (
        resolved(link, search_result_groups=groups, content_references=[reference])[0] == "[here](https://a.example/)"
    )


def test_a_list_of_links_keeps_its_title() -> None:
    """Above the footnotes of a `navlist` stands what it is called."""
    navlist = marker("navlist", "News", "turn0news1")
    text, _ = resolved(navlist, content_references=[{"matched_text": navlist, "items": [A]}])
    assert text == "News[^1]"


def test_older_citations_are_found_by_their_place() -> None:
    """`start_ix` says which marker a citation is of, whatever their order."""
    text = "One【1†source】 two【2†source】"
    citations = [
        {"start_ix": 18, "end_ix": 28, "metadata": B},
        {"start_ix": 3, "end_ix": 13, "metadata": A},
    ]
    assert resolved(text, citations=citations)[1] == (Footnote("1", "A", A["url"]), Footnote("2", "B", B["url"]))


def test_older_citations_are_taken_in_order_else() -> None:
    """A place that is wrong does not lose the source."""
    citations = [
        {"start_ix": 999, "end_ix": 1, "metadata": A},
        {"metadata": {"title": "B", "url": "https://b.example/"}},
    ]
    assert resolved("One【1†source】 two【2†source】", citations=citations)[0] == "One[^1] two[^2]"


def test_a_content_reference_is_an_index() -> None:
    """`oaicite:1` is the second reference."""
    assert resolved("x:contentReference[oaicite:1]{index=1}", content_references=[A, B])[1][0].title == "B"


# ------------------------------------------------------------------------------------------------------------ the rest


def test_what_a_person_typed_stays() -> None:
    """Of a prompt only whole markers go; brackets, links and strange characters were typed."""
    typed = "【1†source】 :contentReference[oaicite:0]{index=0} [x](sandbox:/y) \ue203 \ue200"
    assert (
        resolved(typed + CITE, is_verbatim=True, content_references=[{"matched_text": CITE, **A}])[0] == typed + "[^1]"
    )


def test_numbers_that_a_text_uses_itself_are_passed_over() -> None:
    """Footnotes are unique in a conversation, and from those that its texts define."""
    footnotes = Footnotes(taken=["1", "3", "note"])
    first = footnotes.cite(Source("A", None)) + footnotes.cite(Source("B", None)) + footnotes.cite(Source("A", None))
    footnotes.end_message()
    assert first + footnotes.cite(Source("A", None)) == "[^2][^4][^2][^5]"


def test_an_address_cannot_end_its_link() -> None:
    """Brackets, spaces and quotes in an address are percent-encoded, and a title means only itself."""
    url = http_url(' HTTPS://a.example/a b(c)<d>"\n`\\ü%20 ')
    assert url == "HTTPS://a.example/a%20b%28c%29%3Cd%3E%22%0A%60%5Cü%20"
    assert linked("a](b) *c*\n[d]", url).startswith("[a\\](b) \\*c\\* \\[d\\]](HTTPS://")
    assert escaped("&amp; $x$ ~y~") == "\\&amp; \\$x\\$ \\~y\\~"


@given(
    st.lists(
        words | st.sampled_from([CITE, "\ue200", "\ue201", "\ue202", "【1†s】", "sandbox:/x", "turn0search0"])
    ).map("".join),
    st.fixed_dictionaries({}, optional=dict.fromkeys(("content_references", "citations"), json_values)),
    st.booleans(),
)
def test_nothing_makes_it_fail(text: str, metadata: dict[str, Any], is_verbatim: bool) -> None:
    """Any text with any metadata is resolved, and no marker's character survives in what ChatGPT wrote."""
    told, _ = resolved(text, is_verbatim=is_verbatim, **metadata)
    assert is_verbatim or not any("\ue200" <= character <= "\ue20f" for character in told)


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "matched_text": st.sampled_from([CITE, CITE + CITE, "【1†s】", "x"]) | json_values,
                "type": st.sampled_from(["hidden", "file", "sources_footnote"]) | json_values,
                "items": st.lists(st.just(A) | json_values) | json_values,
                "url": st.just("https://a.example") | json_values,
                "alt": words | json_values,
            },
        )
    )
)
def test_references_of_any_shape_are_survived(references: list[dict[str, Any]]) -> None:
    """Whatever a reference is made of, its marker is resolved and what is left can be listed."""
    text = f"a{CITE}{CITE}b【1†s】:contentReference[oaicite:0]"
    told, _ = resolved(text, content_references=references)
    assert told.startswith("a")
    rest(text, content_references=references)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(CITE * 20_000, id="markers"),
        pytest.param("\ue200cite" * 40_000, id="never closed"),
        pytest.param("【" * 200_000, id="brackets"),
        pytest.param("[" * 200_000 + "sandbox:", id="links into the sandbox"),
        pytest.param(":contentReference[" * 20_000, id="content references"),
    ],
)
def test_many_markers_take_linear_time(text: str) -> None:
    """Hundreds of kilobytes of markers with thousands of references are a matter of a moment."""
    references = [{"matched_text": CITE + CITE * (index % 50), **A} for index in range(5_000)] + [B] * 5_000
    started = time.process_time()
    resolved(
        text, content_references=references, citations=[{"start_ix": index, "metadata": B} for index in range(5_000)]
    )
    assert time.process_time() - started < 20  # what goes with the square takes minutes
