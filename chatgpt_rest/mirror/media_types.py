# SPDX-License-Identifier: GPL-2.0-or-later
"""What a file is, by its bytes alone: exports since 2026 give no extensions, and a name proves nothing anyway. Pure.

What is not in here is `application/octet-stream`, and text of any kind plain text: a browser is never told that
something is HTML.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8, getincrementaldecoder
from typing import Final

HEAD_BYTES: Final = 8 * 1024
"""How much of a file's beginning is enough to tell."""
TAIL_BYTES: Final = 64 * 1024
"""And of its end: a ZIP names its members there."""
UNKNOWN: Final = "application/octet-stream"

_BEGINNINGS: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"%PDF-", "application/pdf"),
    (b"ID3", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
)
_RIFF: Final = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
# ISO base media, by its brand: whichever is not here is a video.
_BRANDS: Final = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heic",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"qt  ": "video/quicktime",
}
_OFFICE: Final = {
    b"word/": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    b"xl/": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    b"ppt/": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
}
# A comment's body may not hold its end: `.*?` would try every way to split a thousand comments.
_SVG: Final = re.compile(rb"\s*(<\?xml[^>]*>\s*|<!--((?!-->).)*-->\s*|<!DOCTYPE\s+svg[^>]*>\s*)*<svg[\s>]", re.DOTALL)
# Tab, line feed, form feed, carriage return and escape (of a terminal's colours) stand in text, others do not.
_BINARY: Final = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")


def media_type(head: bytes, tail: bytes = b"") -> str:
    """The media type of a file that begins and ends with these bytes."""
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    return _of_container(head, tail) or _of_text(head, tail) or UNKNOWN


def _of_container(head: bytes, tail: bytes) -> str | None:
    if head.startswith(b"RIFF") and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "video/mp4")
    if head.startswith(b"OggS"):
        return "video/ogg" if b"theora" in head[:512] else "audio/ogg"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "video/webm" if b"webm" in head[:64] else None
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _of_zip(head, tail)
    if head.startswith(b"BM") and head[6:10] == bytes(4):
        return "image/bmp"
    # A frame of MPEG audio, layer III: eleven bits set, no reserved version, bit rate or sampling rate.
    is_frame = len(head) > 3 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2 and head[1] & 0x18 != 0x08
    return "audio/mpeg" if is_frame and head[2] >> 4 != 15 and head[2] & 0x0C != 0x0C else None


def _of_zip(head: bytes, tail: bytes) -> str:
    if b"[Content_Types].xml" in head or b"[Content_Types].xml" in tail:
        for folder, kind in _OFFICE.items():
            if folder in head or folder in tail:
                return kind
    return "application/zip"


def _of_text(head: bytes, tail: bytes) -> str | None:
    words = head.removeprefix(BOM_UTF8)
    if not words or _BINARY.search(words) or not _is_utf8(words):
        return None
    if _SVG.match(words):
        return "image/svg+xml"
    ends = {b"{": b"}", b"[": b"]"}
    stripped = words.lstrip()
    is_json = stripped[:1] in ends and (tail or head).rstrip().endswith(ends[stripped[:1]])
    return "application/json" if is_json else "text/plain"


def _is_utf8(words: bytes) -> bool:
    try:
        getincrementaldecoder("utf-8")().decode(words)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return True
