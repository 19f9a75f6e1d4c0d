# SPDX-License-Identifier: GPL-2.0-or-later
"""What files are, by their bytes: the kinds that exports hold, and nothing that a browser would run."""

from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest.mirror.media_types import HEAD_BYTES, TAIL_BYTES, UNKNOWN, media_type

OFFICE = "application/vnd.openxmlformats-officedocument"


def zipped(*names: str, size_bytes: int = 10) -> bytes:
    """A ZIP of files with these names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, bytes(size_bytes))
    return buffer.getvalue()


def told(content: bytes) -> str:
    """What a whole file is found to be."""
    return media_type(content[:HEAD_BYTES], content[-TAIL_BYTES:])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image/png"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg"),
        (b"GIF89a\x01\0", "image/gif"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "image/webp"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "image/avif"),
        (b"\0\0\0\x20ftypheic\0\0\0\0", "image/heic"),
        (b"BM\x36\0\0\0\0\0\0\0\x36\0\0\0", "image/bmp"),
        (b"II*\0\x08\0\0\0", "image/tiff"),
        (b"%PDF-1.7\n", "application/pdf"),
        (b"ID3\x04\0\0", "audio/mpeg"),
        (b"\xff\xfb\x90\x64\0\0", "audio/mpeg"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "audio/wav"),
        (b"OggS\0\x02" + bytes(22) + b"\x01\x13OpusHead", "audio/ogg"),
        (b"OggS\0\x02" + bytes(22) + b"\x80theora", "video/ogg"),
        (b"fLaC\0\0\0\x22", "audio/flac"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0", "audio/mp4"),
        (b"\0\0\0\x20ftypisom\0\0\0\0", "video/mp4"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\x82\x84webm", "video/webm"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\x82\x88matroska", UNKNOWN),
        (b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg">', "image/svg+xml"),
        (b"<svg>", "image/svg+xml"),
        (b"<!DOCTYPE html><html><svg><script>alert(1)</script>", "text/plain"),
        (b'<?xml version="1.0"?><svgfoo>', "text/plain"),
        (b'{"a": [1, 2]}\n', "application/json"),
        (b'\xef\xbb\xbf[{"a": 1}]', "application/json"),
        (b"[to be done] wash the cups", "text/plain"),
        ("Straße, 東京, 🫖\n\t\x1b[0m".encode(), "text/plain"),
        ("Straße".encode("latin-1"), UNKNOWN),
        (b"text and a \0", UNKNOWN),
        (b"\xff\xfeT\0e\0x\0t\0", UNKNOWN),
        (b"BMW is a car", "text/plain"),
        (b"", UNKNOWN),
    ],
)
def test_a_file_is_known_by_its_first_bytes(content: bytes, expected: str) -> None:
    """Pictures, sound, films and documents by their marks, text by being UTF-8, all else by nothing."""
    assert told(content) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["[Content_Types].xml", "word/document.xml"], f"{OFFICE}.wordprocessingml.document"),
        (["[Content_Types].xml", "xl/workbook.xml"], f"{OFFICE}.spreadsheetml.sheet"),
        (["ppt/presentation.xml", "[Content_Types].xml"], f"{OFFICE}.presentationml.presentation"),
        (["word/list.txt"], "application/zip"),
        ([], "application/zip"),
    ],
)
@pytest.mark.parametrize("size_bytes", [10, 200_000])
def test_an_office_document_is_known_by_its_members(names: list[str], expected: str, size_bytes: int) -> None:
    """However far into it they begin: a ZIP names them at its end."""
    assert told(zipped(*names, size_bytes=size_bytes)) == expected


def test_a_character_that_is_cut_is_no_fault_of_a_text() -> None:
    """The first bytes end where they end."""
    assert told("ü".encode() * HEAD_BYTES + b" and so on") == "text/plain"
    assert told(b"x" + "ü".encode() * HEAD_BYTES) == "text/plain"


def test_a_thousand_comments_cost_no_time() -> None:
    """Before a drawing that never begins."""
    assert told(b"<!-- -->" * 1_000 + b"<svgfoo>") == "text/plain"


@given(st.binary(max_size=200) | st.sampled_from([b"RIFF", b"\xff\xfb", b"PK\3\4", b"OggS", b"<svg", b"BM"]))
def test_any_bytes_are_something(content: bytes) -> None:
    """And nothing that begins like HTML is told to be."""
    assert "/" in told(content)
    assert "html" not in told(b"<html>" + content)
