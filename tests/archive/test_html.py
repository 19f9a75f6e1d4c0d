# SPDX-License-Identifier: GPL-2.0-or-later
"""A conversation as one HTML file: it holds all it needs, asks nobody for anything, and runs nothing."""

from __future__ import annotations

import base64
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from chatgpt_rest import chatgpt_json
from chatgpt_rest.archive import html
from chatgpt_rest.chatgpt_text import AttachedFile
from chatgpt_rest.model import Conversation
from tests.rich import PNG, rich_conversation, rich_files
from tests.shapes import conversation, message, odd_conversations

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'"
)
FORBIDDEN = {"script", "iframe", "object", "embed", "link", "base", "form", "input", "svg", "frame", "applet"}
LOADING = {"src", "srcset", "poster", "data", "background", "action", "formaction", "manifest", "xlink:href"}


class Page(HTMLParser):
    """Every tag of a page with its attributes, its words, and its styles."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.styles = ""
        self._is_style = False
        self.feed(content.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._is_style = tag == "style"

    def handle_data(self, data: str) -> None:
        if self._is_style:
            self.styles += data
        else:
            self.words += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(tree: Conversation, attached: dict[str, AttachedFile] | None = None) -> Page:
    """The page of a conversation, parsed, and found harmless."""
    parsed = Page(html.render(tree, attached=attached or {}))
    _assert_harmless(parsed)
    return parsed


def _assert_harmless(parsed: Page) -> None:
    for tag, attributes in parsed.tags:
        assert tag not in FORBIDDEN
        assert not [name for name in attributes if name.startswith("on")]
        for name in LOADING & set(attributes):
            assert attributes[name].startswith("data:")
        if "href" in attributes:
            assert tag == "a"
            assert attributes["href"].startswith(
                ("https://", "http://", "mailto:", "#", "assets/", "data:application/octet-stream;")
            )
            assert "download" in attributes or "noopener noreferrer" in attributes["rel"]
    (policy,) = [each["content"] for each in parsed.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == POLICY
    assert not re.search(r"url\(|@import|expression\(", parsed.styles)


# -------------------------------------------------------------------------------------------------------------- shown


def test_a_page_shows_who_said_what(tmp_path: Path) -> None:
    """Title, speakers, models, times and words are there."""
    parsed = page(rich_conversation(), rich_files(tmp_path))
    assert 'Heat: "spread" 🔥\nand more' in parsed.words
    assert [each["class"] for each in parsed.all("article")] == [
        "user",
        "assistant",
        "tool",
        "user",
        "assistant",
        "assistant",
        "assistant",
    ]
    for expected in (
        "You",
        "ChatGPT",
        "gpt-5",
        "version 1 of 2",
        "Why does *heat* spread?",
        "Dear Ada",
        "Hm.",
        "1 < 2",
    ):
        assert expected in parsed.words
    assert parsed.all("time")[0] == {"datetime": "2023-05-28T17:13:08.233528+00:00"}


def test_formulas_tables_and_code_are_set(tmp_path: Path) -> None:
    """Nothing of an answer is left as source."""
    content = html.render(rich_conversation(), attached=rich_files(tmp_path)).decode()
    for expected in (
        "<math",
        "<table>",
        'data-language="python"',
        '<span class="k">def</span>',
        '<sup class="citation">',
    ):
        assert expected in content
    assert "<summary>Thought for 7s</summary>" in content


def test_what_a_person_typed_is_not_laid_out() -> None:
    """A prompt stands as it was typed: its stars are stars, its spaces spaces."""
    content = html.render(conversation(message("a  *b*\n    <c>", role="user")), attached={}).decode()
    assert '<div class="verbatim">a  *b*\n    &lt;c&gt;</div>' in content


def test_a_page_has_styles_for_light_dark_and_paper() -> None:
    """It follows the reader's screen, and can be printed."""
    content = html.render(conversation(message("x")), attached={}).decode()
    assert content.count("prefers-color-scheme: dark") == 2
    assert "@media print" in content
    assert '<meta name="color-scheme" content="light dark">' in content


def test_an_empty_conversation_says_so() -> None:
    """A page with nothing on it would look broken."""
    parsed = page(Conversation("c", " ", None, None, None, {}))
    assert "Nothing was said here." in parsed.words
    assert "New chat" in parsed.words


# --------------------------------------------------------------------------------------------------------------- files


def test_files_are_in_the_page(tmp_path: Path) -> None:
    """Pictures, recordings and documents are embedded byte for byte; what is not there is named."""
    parsed = page(rich_conversation(), rich_files(tmp_path))
    plot = "data:image/png;base64," + base64.b64encode(PNG + b"file_plot").decode()
    assert plot in [each["src"] for each in parsed.all("img")]
    (sound,) = parsed.all("audio")
    assert sound["src"].startswith("data:audio/wav;base64,")
    (paper,) = [each for each in parsed.all("a") if "download" in each]
    assert (paper["download"], paper["href"][:38]) == ("Paper (1).pdf", "data:application/octet-stream;base64,i")
    assert "File, not in this page: gone.xlsx" in parsed.words


def test_a_file_that_is_shown_often_takes_its_room_each_time(tmp_path: Path) -> None:
    """A page does not grow without end by showing one picture a thousand times."""
    pointer = {"content_type": "image_asset_pointer", "asset_pointer": "sediment://file_pic"}
    picture = message(content={"content_type": "multimodal_text", "parts": [pointer]})
    file = rich_files(tmp_path)["file_pic"]
    large = replace(file, size_bytes=html.LARGEST_EMBEDDED_BYTES)
    shown = page(conversation(*(picture for _ in range(9))), {"file_pic": large})
    assert shown.all("img") == shown.all("img")[:1] * (html.MOST_EMBEDDED_BYTES // html.LARGEST_EMBEDDED_BYTES)
    assert shown.words.count("Picture, not in this page") == 5


def test_what_there_is_no_room_for_is_linked(tmp_path: Path) -> None:
    """Where it can be found from the page."""
    files = {key: replace(each, link=f"https://here/assets/{key}") for key, each in rich_files(tmp_path).items()}
    content = html.render(rich_conversation(), attached=files, most_embedded_bytes=0)
    parsed = Page(content)
    _assert_harmless(parsed)
    assert b";base64," not in content
    assert "https://here/assets/file_plot" in [each.get("href") for each in parsed.all("a")]


def test_a_picture_is_not_taken_for_text(tmp_path: Path) -> None:
    """What makes text fit for a page does not go through pictures: they are most of a page, and it would take long."""
    path = tmp_path / "large"
    path.write_bytes(bytes(html.LARGEST_EMBEDDED_BYTES))
    large = {"file_pic": AttachedFile("file_pic", "a.png", "image/png", None, path, html.LARGEST_EMBEDDED_BYTES)}
    pointer = {"content_type": "image_asset_pointer", "asset_pointer": "sediment://file_pic"}
    tree = conversation(
        message("\x00 世界 🌍"), message(content={"content_type": "multimodal_text", "parts": [pointer]})
    )
    began = time.thread_time()
    content = html.render(tree, attached=large)
    assert time.thread_time() - began < 0.5
    assert "\ufffd 世界 🌍".encode() in content
    assert len(content) > html.LARGEST_EMBEDDED_BYTES * 4 // 3


def test_what_could_run_is_only_saved(tmp_path: Path) -> None:
    """A drawing or page among the files is offered to be saved, as bytes that no browser opens."""
    tree = conversation(
        message(metadata={"attachments": [{"id": "file-a", "name": "a.svg", "mime_type": "image/svg+xml"}]})
    )
    path = tmp_path / "a"
    path.write_bytes(b"<svg onload=alert(1)>")
    parsed = page(tree, {"file-a": AttachedFile("file-a", "a.svg", "image/svg+xml", None, path, 21)})
    assert [each["download"] for each in parsed.all("a") if "download" in each] == ["a.svg"]
    assert parsed.all("img") == []


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A picture that vanished from the disk does not cost the page."""
    files = {key: replace(each, path=tmp_path / "gone") for key, each in rich_files(tmp_path).items()}
    assert "Picture, not in this page: plot.png" in page(rich_conversation(), files).words


def test_what_is_too_large_is_named(tmp_path: Path) -> None:
    """A file beyond the limit, or beyond the room that is left, is not embedded."""
    files = rich_files(tmp_path)
    large = {"file_plot": html.LARGEST_EMBEDDED_BYTES + 1, "file_pic": html.MOST_EMBEDDED_BYTES + 1}
    files |= {key: replace(files[key], size_bytes=size) for key, size in large.items()}
    assert page(rich_conversation(), files).words.count("Picture, not in this page") == 2


# ------------------------------------------------------------------------------------------------------------ harmless


@pytest.mark.parametrize(
    "hostile", ["</title><script>alert(1)</script>", '" onload="alert(1)', "{{ 7*7 }}{% raw %}", "</style>"]
)
def test_no_text_becomes_markup(hostile: str, tmp_path: Path) -> None:
    """Titles, names, roles, models and words are shown as what they are."""
    path = tmp_path / "a"
    path.write_bytes(PNG)
    tree = conversation(
        message(hostile, role="user", metadata={"attachments": [{"id": "file-a", "name": hostile}]}),
        message(hostile, role=hostile, metadata={"model_slug": hostile}),
        message(
            author={"role": "tool", "name": hostile}, content={"content_type": "execution_output", "text": hostile}
        ),
        message(content={"content_type": "tether_quote", "title": hostile, "url": "javascript:x", "text": hostile}),
        message(content={"content_type": "thoughts", "thoughts": [{"summary": hostile, "content": hostile}]}),
        message(content={"content_type": "code", "language": hostile, "text": hostile}),
        message(content={"content_type": hostile, "x": hostile}),
        title=hostile,
        default_model_slug=hostile,
        conversation_template_id=hostile,
    )
    parsed = page(tree, {"file-a": AttachedFile("file-a", hostile, "image/png", None, path, len(PNG))})
    assert parsed.words.count(hostile) >= 10


@given(odd_conversations)
def test_any_conversation_becomes_a_page(value: dict[str, Any]) -> None:
    """Whatever passes for a conversation has a page, in UTF-8."""
    try:
        tree = chatgpt_json.conversation(value)
    except ValueError:
        return
    page(tree)


def test_the_same_conversation_gives_the_same_bytes(tmp_path: Path) -> None:
    """Nothing but the conversation and its files decides what is written."""
    files = rich_files(tmp_path)
    assert html.render(rich_conversation(), attached=files) == html.render(rich_conversation(), attached=files)
