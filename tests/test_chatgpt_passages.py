# SPDX-License-Identifier: GPL-2.0-or-later
"""What one message says: a passage for every content type and part, and nothing that makes it fail."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest.chatgpt_markers import Source
from chatgpt_rest.chatgpt_passages import (
    MOST_RAW,
    Aside,
    Asset,
    Code,
    Document,
    Fold,
    Output,
    Passage,
    Quote,
    Sources,
    Transcription,
    Unknown,
    Words,
    folded,
    passages,
)
from tests.shapes import json_values, message, slim_message, words

IMAGE = {"content_type": "image_asset_pointer", "asset_pointer": "sediment://file_1", "metadata": None}
AUDIO = {"content_type": "audio_asset_pointer", "asset_pointer": "file-service://file-2", "format": "wav"}
SOURCE = {"title": "A", "url": "https://a.example/"}


def content(content_type: object, **members: object) -> dict[str, Any]:
    """The `content` member of a message."""
    return {"content": {"content_type": content_type, **members}}


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param(content("text", parts=["a", "", " \n", "b"]), [Words("a"), Words("b")], id="text"),
        pytest.param(
            content("text", parts=["a", IMAGE]), [Words("a"), Asset("image", "file_1")], id="text with a picture"
        ),
        pytest.param(content("text", text="a"), [Words("a")], id="text with no parts"),
        pytest.param(content("text", parts=[None]), [], id="nothing"),
        pytest.param(content("text", parts="words"), [], id="parts that are none"),
        pytest.param(content("text", parts=[5]), [Unknown("part", "5")], id="a part that is a number"),
        pytest.param(
            content("multimodal_text", parts=[{**IMAGE, "metadata": {"dalle": {"prompt": "A cat"}}}, AUDIO]),
            [Asset("image", "file_1", "", "A cat"), Asset("audio", "file-2")],
            id="multimodal",
        ),
        pytest.param(
            content(
                "multimodal_text", parts=[{"content_type": "audio_transcription", "text": "Hi", "direction": None}]
            ),
            [Transcription("Hi")],
            id="transcription",
        ),
        pytest.param(
            content(
                "multimodal_text",
                parts=[
                    {
                        "content_type": "real_time_user_audio_video_asset_pointer",
                        "audio_asset_pointer": AUDIO,
                        "frames_asset_pointers": ["sediment://file_3", {"asset_pointer": "sediment://file_4"}, 5],
                        "video_container_asset_pointer": "sediment://file_5",
                    }
                ],
            ),
            [Asset("audio", "file-2"), Asset("video", "file_5"), Asset("image", "file_3"), Asset("image", "file_4")],
            id="live audio and video",
        ),
        pytest.param(
            content("multimodal_text", parts=[{**IMAGE, "asset_pointer": "https://a.example/x.png"}]),
            [Asset("image", None)],
            id="a pointer that is none",
        ),
        pytest.param(content("code", language="python", text="x = 1"), [Code("x = 1", "python")], id="code"),
        pytest.param(content("code", language="unknown", text="x"), [Code("x")], id="code in no language"),
        pytest.param(content("code", text="{}", response_format_name="r"), [Code("{}", "json")], id="code of a format"),
        pytest.param(
            {**content("code", language="python"), "metadata": {"finished_text": "x"}},
            [Code("x", "python")],
            id="finished",
        ),
        pytest.param(content("execution_output", text="\x1b[31m1\x1b[0m"), [Output("1")], id="output"),
        pytest.param(
            {
                **content("execution_output", text=""),
                "metadata": {
                    "aggregate_result": {
                        "messages": [
                            {"message_type": "image", "image_url": "file-service://file-9"},
                            {"message_type": "stream", "text": "x"},
                        ]
                    }
                },
            },
            [Asset("image", "file-9")],
            id="output that is a picture",
        ),
        pytest.param(
            content("tether_quote", url="https://a.example", domain="a.example", text="q", title="T"),
            [Quote("q", "T", "https://a.example")],
            id="tether_quote",
        ),
        pytest.param(
            content("sonic_webpage", url="https://a.example", domain="a.example", snippet="q"),
            [Quote("q", "a.example", "https://a.example")],
            id="sonic_webpage",
        ),
        pytest.param(content("tether_browsing_display", result="r", summary="s"), [Output("s\n\nr")], id="browsing"),
        pytest.param(content("system_error", name="E", text="why"), [Output("E: why")], id="system_error"),
        pytest.param(
            content("thoughts", thoughts=[{"summary": "S", "content": "C"}, {"chunks": ["a", "b"]}, {}, 5]),
            [Aside("S", "C"), Aside("", "ab")],
            id="thoughts",
        ),
        pytest.param(content("reasoning_recap", content="Thought for 7s"), [Aside("Thought for 7s", "")], id="recap"),
        pytest.param(
            {**content("reasoning_recap"), "metadata": {"finished_duration_sec": 7}},
            [Aside("Thought for 7s", "")],
            id="recap in metadata",
        ),
        pytest.param(
            content("user_editable_context", user_profile="p", user_instructions="i"),
            [Aside("Custom instructions", "p\n\ni")],
            id="user_editable_context",
        ),
        pytest.param(
            content("model_editable_context", model_set_context="m", repository=None),
            [Aside("Memory", "m")],
            id="model_editable_context",
        ),
        pytest.param(
            content(
                "app_pairing_content",
                workspaces=[{"app_name": "Code", "title": "main.py"}],
                context_parts=[{"text": "t"}],
            ),
            [Aside("Code – main.py", "t")],
            id="app_pairing_content",
        ),
        pytest.param(
            content(
                "multimodal_text", parts=[{"content_type": "app_pairing_content", "context_parts": [{"text": "t"}]}]
            ),
            [Aside("From an app", "t")],
            id="app_pairing_content as a part",
        ),
        pytest.param(content("computer_output", text="t"), [Words("t"), "computer_output"], id="unknown with words"),
        pytest.param(content("text", parts=[{"content_type": "new", "x": 1}]), ["new"], id="unknown part"),
        pytest.param({"content": ["x"]}, ["content"], id="content that is a list"),
        pytest.param({"content": None}, [], id="no content"),
        pytest.param({"content": {"content_type": {"a": 1}}}, ["content"], id="a type that is an object"),
    ],
)
def test_every_type_has_its_passages(members: dict[str, Any], expected: list[Passage | str]) -> None:
    """Each content type of an export, and those nobody has seen: named and shown as JSON."""
    found = passages(message(**members))
    # An unknown one is expected by its name alone.
    named = [each.kind if isinstance(each, Unknown) and each not in expected else each for each in found]
    assert named == expected


def test_what_nobody_knows_is_shown_as_it_is() -> None:
    """The JSON of unknown content is complete, as far as anyone would read it."""
    unknown = {"content_type": "new", "ü": [1.5, None]}
    (found,) = passages(message(content=unknown))
    assert isinstance(found, Unknown)
    assert json.loads(found.raw) == unknown
    (cut,) = passages(message(content={"content_type": "new", "x": "y" * MOST_RAW}))
    assert isinstance(cut, Unknown)
    assert len(cut.raw) == MOST_RAW + 1


def test_what_is_nested_too_deep_to_be_written_is_named() -> None:
    """Content that nothing could write down again still says what it is."""
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    assert passages(message(content={"content_type": "new", "x": deep})) == (Unknown("new", "…"),)


def test_a_slim_message_says_the_same() -> None:
    """What exports since 2026 leave out is not needed."""
    assert passages(slim_message("Hi")) == passages(message("Hi")) == (Words("Hi"),)


def test_what_a_person_typed_is_verbatim() -> None:
    """A prompt is marked as such, and its blocks of writing stay text."""
    text = ":::writing\nx\n:::\n"
    assert passages(message(text, role="user")) == (Words(text, is_verbatim=True),)


def test_attachments_are_named() -> None:
    """A picture has the name of its attachment; what no part shows follows, each once and by its kind."""
    attachments = [
        {"id": "file_1", "name": "cat.png", "mime_type": "image/png"},
        {"id": "file-2", "name": "Paper.pdf", "mime_type": "application/pdf"},
        {"id": "file-3", "name": "song.mp3"},
        {"id": "file-4"},
        {"name": "no id"},
    ]
    found = passages(
        message(role="user", **content("multimodal_text", parts=[IMAGE]), metadata={"attachments": attachments})
    )
    assert found == (
        Asset("image", "file_1", "cat.png"),
        Asset("file", "file-2", "Paper.pdf"),
        Asset("audio", "file-3", "song.mp3"),
        Asset("file", "file-4"),
    )


def test_sources_with_no_place_are_a_passage() -> None:
    """What a message cites nowhere stands at its end."""
    found = passages(message("x", metadata={"content_references": [SOURCE]}))
    assert found == (Words("x"), Sources((Source("A", "https://a.example/"),)))


def test_other_messages_sources_are_found() -> None:
    """A marker's id may lead to what another message searched."""
    (found,) = passages(
        message("x\ue200cite\ue202turn0search0\ue201"), elsewhere={"turn0search0": Source("A", "https://a.example/")}
    )
    assert found == Words("x[^1]")


# -------------------------------------------------------------------------------------------------------------- canvas


def canvas(recipient: str, text: str) -> tuple[Passage, ...]:
    """What a message to the canvas says."""
    return passages(message(recipient=recipient, **content("code", language="json", text=text)))


def test_a_canvas_is_a_document() -> None:
    """What is written into a canvas has its name, and its language where it is code."""
    prose = json.dumps({"name": "essay", "type": "document/markdown", "content": "# Hi"})
    program = json.dumps({"name": "tool", "type": "code/python", "content": "x = 1"})
    assert canvas("canmore.create_textdoc", prose) == (Document("essay", "# Hi"),)
    assert canvas("canmore.create_textdoc", program) == (Document("tool", "x = 1", "python"),)


def test_a_canvas_tells_its_changes() -> None:
    """What replaces something in a canvas is shown; the pattern of what it replaces is never run."""
    update = json.dumps({"updates": [{"pattern": "(a+)+$", "replacement": "New."}]})
    comment = json.dumps({"comments": [{"pattern": "x", "comment": "Shorter?"}]})
    assert canvas("canmore.update_textdoc", update) == (Document("Changes", "New."),)
    assert canvas("canmore.comment_textdoc", comment) == (Aside("Comment", "Shorter?"),)


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", "[" * 100_000, '{"content": 5}'])
def test_a_canvas_that_cannot_be_read_is_code(text: str) -> None:
    """What is no document is shown as the call it was."""
    assert canvas("canmore.create_textdoc", text) == (Code(text, "json"),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            'Here:\n:::writing{variant="email" subject="Hi"}\nDear A,\n:::\nDone.',
            [Words("Here:\n"), Document("Hi", "Dear A,\n"), Words("Done.")],
            id="within a text",
        ),
        pytest.param(":::writing\na\n:::", [Document("", "a\n")], id="alone, with no name"),
        pytest.param(":::writing\na", [Document("", "a")], id="not closed"),
        pytest.param(
            ":::writing\na\n:::writing\nb\n:::\n", [Document("", "a\n"), Document("", "b\n")], id="two in a row"
        ),
        pytest.param("a\n:::\nb :::writing", [Words("a\n:::\nb :::writing")], id="none"),
    ],
)
def test_a_block_of_writing_is_a_document(text: str, expected: list[Passage]) -> None:
    """What stands between `:::writing{…}` and `:::` is a document of its own."""
    assert list(passages(message(text))) == expected


# --------------------------------------------------------------------------------------------------------------- folds


@pytest.mark.parametrize(
    ("asides", "expected"),
    [
        pytest.param([Aside("A", "a")], Fold("A", (Aside("", "a"),)), id="one"),
        pytest.param([Aside("", "a")], Fold("Reasoning", (Aside("", "a"),)), id="one with no heading"),
        pytest.param(
            [Aside("A", "a"), Aside("B", "b"), Aside("Thought for 7s", "")],
            Fold("Thought for 7s", (Aside("A", "a"), Aside("B", "b"))),
            id="thoughts and their recap",
        ),
        pytest.param([Aside("Thought for 7s", "")], Fold("Thought for 7s", ()), id="a recap alone"),
    ],
)
def test_neighbouring_asides_are_folded_together(asides: list[Passage], expected: Fold) -> None:
    """Reasoning is one fold, under its recap."""
    assert list(folded([*asides, Words("x"), *asides])) == [expected, Words("x"), expected]


# ----------------------------------------------------------------------------------------------------------- anything


_TYPES = """
    text code multimodal_text execution_output thoughts reasoning_recap tether_quote sonic_webpage system_error
    app_pairing_content user_editable_context model_editable_context tether_browsing_display new
    image_asset_pointer audio_transcription real_time_user_audio_video_asset_pointer
"""
_NAMES = """
    text parts language thoughts content url title asset_pointer audio_asset_pointer frames_asset_pointers workspaces
    context_parts user_profile metadata
"""


def _content(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    optional: dict[Any, st.SearchStrategy[Any]] = dict.fromkeys(_NAMES.split(), json_values | words)
    kinds = st.sampled_from(_TYPES.split()) | json_values
    return st.fixed_dictionaries({"content_type": kinds}, optional={**optional, "parts": parts})


_contents = _content(st.lists(json_values | words | _content(json_values), max_size=3))
_metadata = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("attachments", "aggregate_result", "content_references", "citations"), json_values),
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "author": st.sampled_from([{"role": "user"}, {"role": "assistant"}]) | json_values,
            "content": _contents | json_values,
            "metadata": _metadata | json_values,
            "recipient": st.just("canmore.create_textdoc") | json_values,
        },
    )
)
def test_no_message_makes_it_fail(anything: dict[str, Any]) -> None:
    """Whatever JSON a message is made of, it has passages."""
    list(folded(passages(anything)))
