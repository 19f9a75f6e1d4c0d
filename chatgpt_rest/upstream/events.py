# SPDX-License-Identifier: GPL-2.0-or-later
"""Server-sent events as they really come: bytes in, each event's JSON out, decoded once, or not even that where it only
repeats the one before with more text.

Read here and not by revChatGPT and httpx, which drop `data:{…}` without a space, events of several `data:` lines, and
whatever holds a raw U+2028, U+2029 or U+0085 (httpx takes these for line ends; JSON does not).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from chatgpt_rest.errors import UpstreamBroken
from chatgpt_rest.upstream.event_json import decode, decode_words
from chatgpt_rest.upstream.growth import Grown, Growth
from chatgpt_rest.upstream.limits import LARGEST_STREAM_BYTES, LONGEST_LINE_BYTES, MIB

_LARGEST_STRAY_BYTES: Final = MIB
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_FIELDS: Final = (b"id:", b"retry:", b":")


class EventReader:
    """Cuts one stream into events. An event that is no JSON is passed over: the next one repeats its text. One that is
    the event before with more text comes as a `Grown`.

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
        self._growth = Growth(_decode_line, decode_words)

    def feed(self, chunk: bytes) -> Iterator[object]:
        """The events that `chunk` completes."""
        self._size_bytes += len(chunk)
        if self._size_bytes > LARGEST_STREAM_BYTES:
            raise UpstreamBroken("upstream's answer is larger than any answer can be")
        start, searched = 0, len(self._rest)
        self._rest += chunk
        words: list[str] = []  # that the last event has grown by
        while (end := self._rest.find(b"\n", searched)) >= 0 and not self.is_done:
            if end > start or self._pending:
                more = None if self._pending else self._growth.words(self._rest, start, end)
                if more is not None:
                    words.append(more)
                else:
                    if words:
                        yield Grown("".join(words))
                        words.clear()
                    yield from self._line(bytes(self._rest[start:end]))
            start = searched = end + 1
        if words:
            yield Grown("".join(words))
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
        whole, line = line, _without_form(line)
        if not line:
            yield from self._event()
        elif line.startswith(b"data:"):
            yield from self._data(line[5:].strip(), whole)
        elif line.startswith(b"event:"):
            if line[6:].strip().startswith(b"delta"):
                raise delta_encoding()
        elif line.strip().lower() == b"internal server error":
            raise UpstreamBroken("upstream broke the answer off: Internal Server Error")
        elif not line.startswith(_FIELDS) and len(self.stray) < _LARGEST_STRAY_BYTES:
            self.stray += line + b"\n"

    def _data(self, data: bytes, line: bytes) -> Iterator[object]:
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
                event = decode(data)
            except (ValueError, RecursionError):
                self._pending += data
            else:
                self._growth.decoded(line, event)
                yield event

    def _event(self) -> Iterator[object]:
        if not self._pending:
            return
        data = bytes(self._pending)
        self._pending.clear()
        try:
            event = decode(data)
        except (ValueError, RecursionError):
            return
        self._growth.forget()
        yield event


def delta_encoding() -> UpstreamBroken:
    """The error for the encoding that the 2026 web client asks for."""
    return UpstreamBroken(
        "upstream answers in delta encoding (patches instead of whole messages), which revChatGPT does not read",
        code="upstream_delta_encoding",
    )


def _without_form(line: bytes) -> bytes:
    return line.removeprefix(_BYTE_ORDER_MARK).rstrip(b"\r")


def _decode_line(line: bytes) -> object:
    """The event of a line that begins with `data:`."""
    return decode(_without_form(line)[5:].strip())
