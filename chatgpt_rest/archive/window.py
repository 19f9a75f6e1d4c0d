# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of a stream that is held in memory: a place to read at, and as much around it as is needed."""

from __future__ import annotations

import re
from typing import BinaryIO, Final

from chatgpt_rest.archive.zips import Damaged

CHUNK_BYTES: Final = 1024 * 1024


class Window:
    """Places are counted in bytes from the stream's beginning. What lies before `at` is forgotten when more is read,
    but for what `hold` keeps.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.data = bytearray()
        self.begin = 0
        """The place of the first byte in `data`."""
        self.at = 0
        self.hold: int | None = None
        """A place before `at`, from which on nothing is forgotten."""
        self.is_all = False
        """Nothing comes after what is held."""
        self.fault: Damaged | None = None
        """Why there is no more, where that is not the stream's own end."""

    @property
    def end(self) -> int:
        """The place after the last byte in `data`."""
        return self.begin + len(self.data)

    def more(self) -> None:
        """Read on, a chunk at the most. `is_all` says that there was nothing."""
        keep = self.at if self.hold is None else self.hold
        del self.data[: keep - self.begin]
        self.begin = keep
        try:
            chunk = b"" if self.is_all else self._stream.read(CHUNK_BYTES)
        except Damaged as fault:
            self.fault, chunk = fault, b""
        self.data += chunk
        self.is_all = not chunk

    def fill(self, size_bytes: int) -> None:
        """Hold so much from `at` on, or all that there is."""
        while self.end - self.at < size_bytes and not self.is_all:
            self.more()

    def byte(self, after: re.Pattern[bytes]) -> bytes | None:
        """The next byte that `after` does not take, with `at` moved to it; None where the end of `data` comes first."""
        passed = after.match(self.data, self.at - self.begin)
        if passed is not None:
            self.at = self.begin + passed.end()
        return self.cut(self.at, self.at + 1) or None

    def cut(self, begin: int, end: int) -> bytes:
        """The bytes between two places, as far as they are held."""
        with memoryview(self.data) as held:
            return bytes(held[max(begin - self.begin, 0) : max(end - self.begin, 0)])
