# SPDX-License-Identifier: GPL-2.0-or-later
"""Which files a message points to, wherever it says so."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from chatgpt_rest.chatgpt_assets import asset_id, asset_pointers
from tests.shapes import json_values, message, odd_conversations


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("sediment://file_00000000a1b2", "file_00000000a1b2"),
        ("file-service://file-AbC123", "file-AbC123"),
        ("sediment://file_0a#p_1.png", "file_0a"),
        ("sediment://file_0a?shared=1", "file_0a"),
        ("sediment://5f0c#file_0a#p_12.1234.jpg", "file_0a"),
        ("file-service://Old0Id", "Old0Id"),
        ("file-service://Old0Id?x", "Old0Id"),
        *(
            (no_pointer, None)
            for no_pointer in ("", "file_0a", "https://x.example/file_0a", "sediment://", "sediment://?")
        ),
        ("sediment://../../etc/passwd", None),
    ],
)
def test_a_pointer_names_its_file(pointer: str, expected: str | None) -> None:
    """Both schemes, with whatever stands behind the id; nothing that could lead elsewhere."""
    assert asset_id(pointer) == expected


IMAGE: dict[str, Any] = {"content_type": "image_asset_pointer", "asset_pointer": "sediment://file_1", "metadata": None}
AUDIO: dict[str, Any] = {"content_type": "audio_asset_pointer", "asset_pointer": "sediment://file_2", "format": "wav"}
VIDEO: dict[str, Any] = {
    "content_type": "real_time_user_audio_video_asset_pointer",
    "audio_asset_pointer": AUDIO,
    "video_container_asset_pointer": None,
    "frames_asset_pointers": [{"asset_pointer": "sediment://file_3"}, "sediment://file_4"],
}
PAIRING: dict[str, Any] = {"content_type": "app_pairing_content", "context_parts": [{"text": "x"}, IMAGE]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param({"content_type": "multimodal_text", "parts": [IMAGE, "words"]}, ["file_1"], id="an image"),
        pytest.param({"content_type": "multimodal_text", "parts": [AUDIO, IMAGE]}, ["file_2", "file_1"], id="in order"),
        pytest.param({"content_type": "multimodal_text", "parts": [IMAGE, IMAGE]}, ["file_1"], id="each once"),
        pytest.param(
            {"content_type": "multimodal_text", "parts": [VIDEO]}, ["file_2", "file_3", "file_4"], id="a video"
        ),
        pytest.param({"content_type": "multimodal_text", "parts": [PAIRING]}, ["file_1"], id="parts in a part"),
        pytest.param(PAIRING, ["file_1"], id="parts in a content"),
        pytest.param({"content_type": "computer_output", "screenshot": IMAGE}, ["file_1"], id="a screenshot"),
        pytest.param({"content_type": "new", "some": {"deep": [[{"thing": IMAGE}]]}}, ["file_1"], id="an unknown type"),
        pytest.param({"content_type": "text", "parts": ["sediment://file_9"]}, [], id="words about one"),
        pytest.param({"content_type": "text", "parts": []}, [], id="nothing"),
    ],
)
def test_pointers_are_found_in_every_content(content: dict[str, Any], expected: list[str]) -> None:
    """Known types and unknown ones."""
    assert asset_pointers(message(content=content)) == [(identifier, None, None) for identifier in expected]


def test_attachments_tell_name_and_type() -> None:
    """Of what only they point to, and of what the content shows as well; ids that are none are left out."""
    attachments = [
        {"id": "file-P", "name": "paper.pdf", "mime_type": "application/pdf"},
        {"id": "file_1", "name": "cat.png", "mimeType": "image/png"},
        {"id": "file-P", "name": None},
        *({"id": bad} for bad in (None, 7, "../x", "")),
        "file-Q",
    ]
    found = asset_pointers(
        message(content={"content_type": "multimodal_text", "parts": [IMAGE]}, metadata={"attachments": attachments})
    )
    assert found == [("file_1", "cat.png", "image/png"), ("file-P", "paper.pdf", "application/pdf")]


def test_pictures_that_code_drew_are_found() -> None:
    """They are in its result and not in its content."""
    drawn = [
        {"message_type": "image", "image_url": "file-service://file-D"},
        {"message_type": "image", "image_url": "data:image/png;base64,"},
        {"message_type": "stream", "text": "1"},
        7,
    ]
    assert asset_pointers(message(metadata={"aggregate_result": {"messages": drawn}})) == [("file-D", None, None)]


@given(odd_conversations | json_values)
def test_no_message_stops_it(value: Any) -> None:
    """Whatever stands where a message's parts should."""
    asset_pointers({"content": value, "metadata": {"attachments": value, "aggregate_result": value}})
    asset_pointers({"content": {"parts": [value]}, "metadata": value})
