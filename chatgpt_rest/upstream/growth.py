# SPDX-License-Identifier: GPL-2.0-or-later
"""How an event is known to be the one before with more text: by its bytes.

Upstream repeats the whole answer in each event, so that to decode them all takes time that grows with the square of the
answer's length. Nearly all of them are the bytes of the one before with a few more in the middle, at the end of the
text. Where that is proven, only these few are decoded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

_TEXT: Final = re.compile(rb'"parts"\s*+:\s*+\[\s*+"((?:[^"\\]++|\\.)*+)"', re.DOTALL)
_PLACES: Final = 4  # at which the text is looked for: each may cost decoding the event once more
_MARK: Final = "x"


@dataclass(frozen=True, slots=True)
class Grown:
    """The event before once more, but for `text`, which its message's text now has at its end as well."""

    text: str


class Growth:
    """What is known of the last event's line: where its text ends, and what follows there.

    `decode` gives the event that a line holds; it raises ValueError or RecursionError where there is none.
    """

    def __init__(self, decode: Callable[[bytes], object], decode_words: Callable[[bytes], str]) -> None:
        self._decode = decode
        self._decode_words = decode_words
        self._line = b""
        self._known = bytearray()  # that line up to the end of its text; empty where nothing is known
        self._tail = b""  # and from there on

    def words(self, lines: bytearray, start: int, end: int) -> str | None:
        """What the event of the line `lines[start:end]` adds to the one before, perhaps nothing; None where it has to
        be decoded.
        """
        known, tail = self._known, self._tail
        if not known or not lines.startswith(known, start, end) or not lines.endswith(tail, start, end):
            return None
        begin, stop = start + len(known), end - len(tail)
        if stop < begin:
            return None
        more = bytes(lines[begin:stop])
        try:
            words = self._decode_words(more)
        except ValueError:
            return None
        if _is_half(words):
            return None
        known += more
        return words

    def decoded(self, line: bytes, event: object) -> None:
        """The event before is `event` now, which was decoded from `line`."""
        before, self._line = self._line, line
        self._known.clear()
        text = _text(event)
        if text is None or _is_half(text):
            return
        for found in islice(_TEXT.finditer(line), _PLACES):
            begin, end = found.span(1)
            # Two in a row that differ in their text alone: the next one may be a third.
            if before.startswith(line[:begin]) and before.endswith(line[end:]) and self._ends(line, end, event, text):
                self._known += line[:end]
                self._tail = line[end:]
                return

    def forget(self) -> None:
        """The event before came in another form than that of one line."""
        self._line = b""
        self._known.clear()

    def _ends(self, line: bytes, place: int, event: Any, text: str) -> bool:
        """Whether the text of `event` ends at `place`: then a mark put there is found at its end, and nothing else has
        changed. Any other words would be found there, too: a decoder knows no more of what it has read than that it is
        inside of this string, but for half a character, which is looked for apart.
        """
        try:
            marked = self._decode(line[:place] + _MARK.encode() + line[place:])
        except (ValueError, RecursionError):
            return False
        return marked == {**event, "message": with_text(event["message"], text + _MARK)}


def with_text(message: Mapping[str, Any], text: str) -> dict[str, Any]:
    """`message`, which is plain text, with this text in place of its own."""
    return {**message, "content": {**message["content"], "parts": [text]}}


def _text(event: object) -> str | None:
    """The text of an event's message where it is plain text in one piece."""
    match event:
        case {"message": {"content": {"content_type": "text", "parts": [str(text)]}}}:
            return text
    return None


def _is_half(words: str) -> bool:
    """Whether the last character may be the first half of one that is written as two escapes."""
    return "\ud800" <= words[-1:] <= "\udbff"
