# SPDX-License-Identifier: GPL-2.0-or-later
"""Server-sent events as they really come: bytes in, each event's JSON out, decoded once.

Read here and not by revChatGPT and httpx, which drop `data:{…}` without a space, events of several `data:` lines, and
whatever holds a raw U+2028, U+2029 or U+0085 (httpx takes these for line ends; JSON does not).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Final

from chatgpt_rest.chatgpt_json import is_too_deep
from chatgpt_rest.errors import UpstreamBroken
from chatgpt_rest.upstream.limits import LARGEST_STREAM_BYTES, LONGEST_LINE_BYTES, MIB

_LARGEST_STRAY_BYTES: Final = MIB
_DEEPEST_UNCOUNTED: Final = 100  # brackets: an event with fewer cannot be nested deeper
_FIELDS: Final = (b"id:", b"retry:", b":")


class EventReader:
    """Cuts one stream into events. An event that is no JSON is passed over: the next one repeats its text.

    Raises UpstreamBroken for what makes the rest useless: a bare `Internal Server Error`, delta encoding, sizes beyond
    reason.
    """

    def __init__(self) -> None:
        self.is_done = False
        """`[DONE]` has come; what follows it is not looked at."""
        self.stray = bytearray()
        """The beginning of what is no event at all: a page, or JSON, sent in a stream's place."""
        self._rest = bytearray()
        self._pending = bytearray()  # the data lines of an event that is not whole yet
        self._size_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[object]:
        """The events that `chunk` completes."""
        self._size_bytes += len(chunk)
        if self._size_bytes > LARGEST_STREAM_BYTES:
            raise UpstreamBroken("upstream's answer is larger than any answer can be")
        start, searched = 0, len(self._rest)
        self._rest += chunk
        while (end := self._rest.find(b"\n", searched)) >= 0 and not self.is_done:
            yield from self._line(bytes(self._rest[start:end]))
            start = searched = end + 1
        del self._rest[:start]
        if len(self._rest) > LONGEST_LINE_BYTES:
            raise UpstreamBroken("upstream's answer holds a line longer than any event can be")

    def end(self) -> Iterator[object]:
        """The events that the end of the stream completes: servers forget the last newline."""
        if not self.is_done:
            yield from self._line(bytes(self._rest))
            yield from self._event()
        self._rest.clear()

    def _line(self, line: bytes) -> Iterator[object]:
        line = line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r")
        if not line:
            yield from self._event()
        elif line.startswith(b"data:"):
            yield from self._data(line[5:].strip())
        elif line.startswith(b"event:"):
            if line[6:].strip().startswith(b"delta"):
                raise delta_encoding()
        elif line.strip().lower() == b"internal server error":
            raise UpstreamBroken("upstream broke the answer off: Internal Server Error")
        elif not line.startswith(_FIELDS) and len(self.stray) < _LARGEST_STRAY_BYTES:
            self.stray += line + b"\n"

    def _data(self, data: bytes) -> Iterator[object]:
        if data == b"[DONE]":
            yield from self._event()
            self.is_done = True
        elif self._pending:
            self._pending += b"\n" + data
            if len(self._pending) > LONGEST_LINE_BYTES:
                raise UpstreamBroken("upstream's answer holds an event longer than any can be")
        else:
            # Most events are one line, and servers forget the empty line after it: decoded at once where that succeeds.
            try:
                event = _decoded(data)
            except (ValueError, RecursionError):
                self._pending += data
            else:
                yield event

    def _event(self) -> Iterator[object]:
        if not self._pending:
            return
        data = bytes(self._pending)
        self._pending.clear()
        try:
            event = _decoded(data)
        except (ValueError, RecursionError):
            return
        yield event


def delta_encoding() -> UpstreamBroken:
    """The error for the encoding that the 2026 web client asks for."""
    return UpstreamBroken(
        "upstream answers in delta encoding (patches instead of whole messages), which revChatGPT does not read",
        code="upstream_delta_encoding",
    )


def _finite(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


# What is not finite could not be written as JSON again.
_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=lambda _: None, strict=False)


def _decoded(data: bytes) -> object:
    # A byte that is no UTF-8 costs one character, not the event.
    event = _DECODER.decode(data.decode("utf-8", "replace"))
    if data.count(b"[") + data.count(b"{") > _DEEPEST_UNCOUNTED and is_too_deep(event):
        raise ValueError
    return event
