# SPDX-License-Identifier: GPL-2.0-or-later
"""The events of a streamed completion: bytes in, each chunk's JSON out.

Not the reader of ChatGPT's streams: there an event repeats the text so far, and one that cannot be read does not
matter. Here each one is a piece that never comes again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from chatgpt_rest.chatgpt_json import is_too_deep
from chatgpt_rest.errors import UpstreamBroken
from chatgpt_rest.upstream.limits import LONGEST_LINE_BYTES, MIB

_LARGEST_BYTES: Final = 256 * MIB  # of a whole answer: a word of it may be an event of a few hundred bytes
_LARGEST_STRAY_BYTES: Final = MIB


class ChunkReader:
    """Cuts one stream into chunks. Raises UpstreamBroken for what is no JSON, and for sizes beyond reason."""

    def __init__(self) -> None:
        self.is_done = False
        """`[DONE]` has come; what follows it is not looked at."""
        self.stray = bytearray()
        """The beginning of what is no event at all: a page, or JSON, sent in a stream's place."""
        self._rest = bytearray()
        self._data: list[bytes] = []  # the lines of an event that is not whole yet
        self._size_bytes = 0

    def feed(self, received: bytes) -> Iterator[object]:
        """The chunks that these bytes complete."""
        self._size_bytes += len(received)
        if self._size_bytes > _LARGEST_BYTES:
            raise UpstreamBroken("upstream's answer is larger than any answer can be")
        start, searched = 0, len(self._rest)
        self._rest += received
        while not self.is_done and (end := self._rest.find(b"\n", searched)) >= 0:
            yield from self._line(bytes(self._rest[start:end]))
            start = searched = end + 1
        del self._rest[:start]
        if len(self._rest) > LONGEST_LINE_BYTES:
            raise UpstreamBroken("upstream's answer holds a line longer than any chunk can be")

    def end(self) -> Iterator[object]:
        """The chunks that the end of the stream completes: servers forget the last newline."""
        if not self.is_done:
            yield from self._line(bytes(self._rest))
            yield from self._event()

    def _line(self, line: bytes) -> Iterator[object]:
        line = line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r")
        if not line:
            yield from self._event()
        elif line.startswith(b"data:"):
            yield from self._datum(line[5:].strip())
        elif not line.startswith((b":", b"event:", b"id:", b"retry:")) and len(self.stray) < _LARGEST_STRAY_BYTES:
            self.stray += line + b"\n"

    def _datum(self, data: bytes) -> Iterator[object]:
        if data == b"[DONE]":
            yield from self._event()
            self.is_done = True
        elif self._data or not data:
            self._data.append(data)
        else:
            # Nearly every event is one line, and servers forget the empty line after it.
            try:
                chunk = _decoded(data)
            except (ValueError, RecursionError):
                self._data.append(data)
            else:
                yield chunk

    def _event(self) -> Iterator[object]:
        data = b"\n".join(self._data)
        self._data.clear()
        if not data:
            return
        try:
            yield _decoded(data)
        except (ValueError, RecursionError):
            raise UpstreamBroken("upstream's answer holds a chunk that cannot be read") from None


def _decoded(data: bytes) -> object:
    chunk: object = json.loads(data.decode("utf-8", "replace"))
    if is_too_deep(chunk):
        raise ValueError
    return chunk
