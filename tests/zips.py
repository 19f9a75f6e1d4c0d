# SPDX-License-Identifier: GPL-2.0-or-later
"""ZIPs put together by hand, because zipfile writes none that lies."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

STORED: Final = 0
DEFLATED: Final = 8


@dataclass(frozen=True)
class Entry:
    """A file of a ZIP. What is None is as it should be; anything else is written as it stands here."""

    name: bytes
    content: bytes = b""
    method: int = STORED
    flags: int = 0x800
    mode: int = 0
    size: int | None = None
    packed: bytes | None = None
    packed_size: int | None = None
    checksum: int | None = None
    offset: int | None = None
    local_name: bytes | None = None

    @property
    def bytes_packed(self) -> bytes:
        """What lies in the file."""
        if self.packed is not None:
            return self.packed
        if self.method != DEFLATED:
            return self.content
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return deflater.compress(self.content) + deflater.flush()


def pack(
    entries: Sequence[Entry],
    *,
    count: int | None = None,
    comment: bytes = b"",
    before: bytes = b"",
    disk: int = 0,
    directory_offset: int | None = None,
    zip64: bool = False,
) -> bytes:
    """A ZIP. `count` and `directory_offset` are what its end says; `before` stands at its beginning, unmentioned."""
    body, directory = bytearray(), bytearray()
    for entry in entries:
        packed = entry.bytes_packed
        told = struct.pack(
            "<4H3L",
            entry.flags,
            entry.method,
            0x6000,
            0x5C81,  # noon on 1 April 2026
            zlib.crc32(entry.content) if entry.checksum is None else entry.checksum,
            len(packed) if entry.packed_size is None else entry.packed_size,
            len(entry.content) if entry.size is None else entry.size,
        )
        local_name = entry.name if entry.local_name is None else entry.local_name
        offset = len(body) if entry.offset is None else entry.offset
        body += b"PK\3\4\x14\0" + told + struct.pack("<2H", len(local_name), 0) + local_name + packed
        directory += b"PK\1\2\x14\3\x14\0" + told
        directory += struct.pack("<5H2L", len(entry.name), 0, 0, disk, 0, entry.mode << 16, offset) + entry.name
    counted = len(entries) if count is None else count
    offset = len(body) if directory_offset is None else directory_offset
    end = b""
    if zip64:
        end += struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, counted, counted, len(directory), offset)
        end += struct.pack("<4sLQL", b"PK\6\7", 0, len(body) + len(directory), 1)
    short = (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF) if zip64 else (counted & 0xFFFF, len(directory), offset)
    end += struct.pack("<4s4H2LH", b"PK\5\6", disk, disk, short[0], *short, len(comment)) + comment
    return before + bytes(body) + bytes(directory) + end
