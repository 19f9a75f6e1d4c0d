# SPDX-License-Identifier: GPL-2.0-or-later
"""The directory of a ZIP, checked before anything of it is believed; the bytes of its files, checked as they come.

A directory that lies is refused as a whole: what else it says is worth nothing. A file whose bytes are damaged gives
what can be read of it, and then `Damaged`.
"""

from __future__ import annotations

import calendar
import os
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from chatgpt_rest.clock import SECOND
from chatgpt_rest.errors import BadRequest

BLOCK_BYTES: Final = 1024 * 1024
"""The most that is handed out at a time, whatever a file is packed like."""

_END: Final = struct.Struct("<4s4H2LH")  # signature, this disk, the directory's, entries here, entries, size, offset
_LOCATOR: Final = struct.Struct("<4sLQL")  # signature, disk, offset, disks
_END_64: Final = struct.Struct("<4sQ2H2L4Q")  # signature, its size, versions, disks, entries here, …, size, offset
_LOCAL: Final = struct.Struct("<4s22x2H")  # signature, lengths of the name and of the extra field
_LENGTHS: Final = struct.Struct("<3H")  # of the name, the extra field and the comment, in the directory
_ENTRY_BYTES: Final = 46  # of the directory for a file, besides those three
_LONGEST_COMMENT: Final = 65_535
_DIRECTORY_BYTES: Final = 1_024  # for each file that is allowed, on average; names are rarely longer than a tenth
_FIRST_BLOCK_BYTES: Final = (
    64 * 1024
)  # of what is unpacked, then twice as much each time: a look at its beginning is cheap
_SMALLEST_BOMB_BYTES: Final = 64 * 1024 * 1024  # less harms nobody; silence and repeated words pack a thousandfold
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000
_PATCHED: Final = 0x20
_NO_TIME: Final = (1980, 1, 1, 0, 0, 0)  # where a ZIP's calendar begins: what is written when the time is not known
_LONGEST_SHOWN: Final = 200  # characters
_LONGEST_NAME: Final = 1_024  # bytes, as in UTF-8; Unicode takes quadratic time to compare names that are made for that
_DAMAGED: Final = "its directory is damaged; download it again, or unpack it and import the folder"
_DRIVE: Final = re.compile(r"[A-Za-z]:")


class Damaged(Exception):
    """What was handed out so far is all that can be read. The text says why, beginning with "it"."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a ZIP. Its bytes begin at `offset`; `modified_at` is a wall clock's time (µs), in any zone."""

    name: str
    offset: int
    packed_bytes: int
    size_bytes: int
    checksum: int
    is_deflated: bool
    modified_at: int | None


def shown(text: str) -> str:
    """A name for people's eyes: what cannot be printed as escapes, the middle of a long one left out."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    half = _LONGEST_SHOWN // 2
    return safe if len(safe) <= _LONGEST_SHOWN else f"{safe[:half]}…{safe[-half:]}"


def refusal(place: str, what: str) -> BadRequest:
    """Nothing of an import is taken: `what` is wrong with what lies at `place`, and what to do about it."""
    return BadRequest(f"{shown(place)}: {what}", code="export_refused")


def too_many(place: str) -> BadRequest:
    """There are more files than an import may have."""
    return refusal(place, "with it come more files than are allowed; [archive] max_entries sets the limit")


def read_directory(file: BinaryIO, place: str, *, max_entries: int, max_ratio: int) -> list[Entry]:
    """The files of a ZIP, in the order in which it lists them; folders are left out.

    Raises BadRequest with code `export_refused` for everything that no honest ZIP has. Entries are counted before
    anything is made of them: a directory of millions costs neither memory nor time.
    """
    start, size, count = _find_directory(file, place)
    if count > max_entries or size > _DIRECTORY_BYTES * (max_entries + 1):
        raise too_many(place)
    if _count(os.pread(file.fileno(), size, start), place, max_entries) != count:
        raise refusal(place, f"its directory does not hold the {count} files that it says it has; download it again")
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, IndexError, OverflowError, EOFError, struct.error):
        infos = []
    if len(infos) != count:
        raise refusal(place, _DAMAGED)
    _check_names(infos, place)
    for info in infos:
        _check_kind(info, place, max_ratio)
    return _locate(file.fileno(), infos, place, start)


def unpacked(descriptor: int, entry: Entry) -> Iterator[bytes]:
    """The bytes of a file, never more than its directory declares. Raises Damaged, having given all there is."""
    blocks = _inflated(descriptor, entry) if entry.is_deflated else _stored(descriptor, entry)
    checksum, left = 0, entry.size_bytes
    for block in blocks:
        if len(block) > left:
            yield block[:left]
            raise Damaged("it holds more than its archive says")
        checksum = zlib.crc32(block, checksum)
        left -= len(block)
        yield block
    if left:
        raise Damaged(f"it ends early, {left} bytes short")
    if checksum != entry.checksum:
        raise Damaged("its checksum is wrong: some of it is damaged")


def _find_directory(file: BinaryIO, place: str) -> tuple[int, int, int]:
    """Where the directory starts, its size, and how many files it says it has."""
    length = file.seek(0, os.SEEK_END)
    tail_start = max(0, length - _END.size - _LONGEST_COMMENT)
    tail = os.pread(file.fileno(), length - tail_start, tail_start)
    found = tail.rfind(b"PK\5\6")
    if found < 0 or len(tail) - found < _END.size:
        raise refusal(place, "this is no whole ZIP: its end is missing; download it again")
    _, disk, first_disk, here, count, size, offset, comment = _END.unpack_from(tail, found)
    if found + _END.size + comment != len(tail):
        raise refusal(place, "this is no whole ZIP: it was cut off, or other data follows its end; download it again")
    end = tail_start + found
    is_split = bool(disk or first_disk or here != count)
    located = _zip64(file.fileno(), end)
    if located is not None:
        end, is_split, count, size, offset = located
    if is_split:
        raise refusal(place, "it is one of several pieces of a split ZIP; join them first")
    start = end - size
    if start < offset:
        raise refusal(place, "this is no whole ZIP: its beginning or its middle is missing; download it again")
    if start > offset:  # also what some programs write that know no ZIP of more than 4 GiB
        raise refusal(place, "its directory does not fit the file; unpack it and import the folder")
    return start, size, count


def _zip64(descriptor: int, end: int) -> tuple[int, bool, int, int, int] | None:
    """What the records for large ZIPs say, where they stand before the ordinary one: the directory's end, whether it
    is split, entries, size and offset. They are looked for where zipfile looks for them.
    """
    if end < _LOCATOR.size + _END_64.size:
        return None
    records = os.pread(descriptor, _LOCATOR.size + _END_64.size, end - _LOCATOR.size - _END_64.size)
    signature, disk, _, disks = _LOCATOR.unpack_from(records, _END_64.size)
    if signature != b"PK\6\7" or records[:4] != b"PK\6\6":
        return None
    _, _, _, _, this_disk, first_disk, here, count, size, offset = _END_64.unpack_from(records)
    is_split = bool(disk or disks > 1 or this_disk or first_disk or here != count)
    return end - len(records), is_split, count, size, offset


def _count(directory: bytes, place: str, max_entries: int) -> int:
    """How many entries there really are."""
    count = position = 0
    while position < len(directory):
        if directory[position : position + 4] != b"PK\1\2" or position + _ENTRY_BYTES > len(directory):
            raise refusal(place, _DAMAGED)
        count += 1
        if count > max_entries:
            raise too_many(place)
        position += _ENTRY_BYTES + sum(_LENGTHS.unpack_from(directory, position + 28))
    return count


def _check_names(infos: list[zipfile.ZipInfo], place: str) -> None:
    """No name leads out of the archive, and no two are the same to a file system that is lenient about letters."""
    seen: set[str] = set()
    for info in infos:
        for name in {info.filename, info.orig_filename}:
            fault = _fault_of_name(name)
            if fault:
                raise refusal(f"{place}/{name}", f"its name {fault}; no export of ChatGPT has such a file")
        parts = [part for part in info.filename.split("/") if part not in ("", ".")]
        plain = unicodedata.normalize("NFC", unicodedata.normalize("NFC", "/".join(parts)).casefold())
        if plain in seen:
            raise refusal(
                f"{place}/{info.filename}", "the ZIP holds two files of this name; unpack it, keep the right one"
            )
        seen.add(plain)


def _fault_of_name(name: str) -> str | None:
    if not name or name.startswith("/") or _DRIVE.match(name):
        return "is that of a place on a disk"
    if len(name.encode()) > _LONGEST_NAME:
        return "is longer than any file's"
    if "\\" in name:
        return "holds a backslash"
    if ".." in name.split("/"):
        return "leads out of the archive"
    if any(unicodedata.category(c) == "Cc" for c in name):
        return "holds control characters"
    return None


def _check_kind(info: zipfile.ZipInfo, place: str, max_ratio: int) -> None:
    """It is a file that can be read, and no larger than its packed size allows."""
    inside = f"{place}/{info.filename}"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise refusal(inside, "it is a link or a device, no file; unpack the ZIP and import the folder")
    if info.flag_bits & _ENCRYPTED:
        raise refusal(inside, "it is encrypted; unpack the ZIP with its password and import the folder")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & _PATCHED:
        raise refusal(inside, "it is packed in a way that is not understood here; unpack the ZIP and import the folder")
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        raise refusal(inside, "its two sizes in the directory contradict each other; pack it again")
    if info.file_size > max(_SMALLEST_BOMB_BYTES, max_ratio * info.compress_size):
        raise refusal(
            inside,
            f"it would unpack to {info.file_size} bytes, more than {max_ratio} times its size, as a bomb does; if it is"
            " none, unpack the ZIP and import the folder, or raise [archive] max_ratio",
        )


def _locate(descriptor: int, infos: list[zipfile.ZipInfo], place: str, directory_start: int) -> list[Entry]:
    """Where the bytes of each file begin. No two share any, and all lie before the directory."""
    offsets: dict[str, int] = {}
    begin = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        inside = f"{place}/{info.filename}"
        if info.header_offset < begin:
            raise refusal(inside, "it overlaps with another file of the ZIP, as in a bomb")
        local = os.pread(descriptor, _LOCAL.size, info.header_offset)
        if len(local) < _LOCAL.size or local[:4] != b"PK\3\4":
            raise refusal(inside, "the directory says that it lies where it does not; download the ZIP again")
        _, name_length, extra_length = _LOCAL.unpack(local)
        name = os.pread(descriptor, name_length, info.header_offset + _LOCAL.size)
        if name.decode("utf-8" if info.flag_bits & 0x800 else "cp437", "replace") != info.orig_filename:
            raise refusal(inside, "another name stands where the directory says that it lies; download the ZIP again")
        offsets[info.filename] = info.header_offset + _LOCAL.size + name_length + extra_length
        begin = offsets[info.filename] + info.compress_size
        if begin > directory_start:
            raise refusal(inside, "it reaches into the ZIP's directory; download the ZIP again")
    return [
        Entry(
            name=info.filename,
            offset=offsets[info.filename],
            packed_bytes=info.compress_size,
            size_bytes=info.file_size,
            checksum=info.CRC,
            is_deflated=info.compress_type == zipfile.ZIP_DEFLATED,
            modified_at=_wall_time(info.date_time),
        )
        for info in infos
        if not info.is_dir()
    ]


def _wall_time(date_time: tuple[int, int, int, int, int, int]) -> int | None:
    if date_time <= _NO_TIME:
        return None
    return calendar.timegm(date_time) * SECOND if 1 <= date_time[1] <= 12 else None


def _stored(descriptor: int, entry: Entry) -> Iterator[bytes]:
    offset, left = entry.offset, entry.packed_bytes
    while left:
        block = read_at(descriptor, min(left, BLOCK_BYTES), offset)
        if not block:
            return
        offset += len(block)
        left -= len(block)
        yield block


def _inflated(descriptor: int, entry: Entry) -> Iterator[bytes]:
    offset, left = entry.offset, entry.packed_bytes
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    block_bytes = _FIRST_BLOCK_BYTES
    while not inflater.eof:
        packed = inflater.unconsumed_tail
        if not packed and left:
            packed = read_at(descriptor, min(left, block_bytes // 4), offset)
            offset += len(packed)
            left -= len(packed)
        try:
            block = inflater.decompress(packed, block_bytes)
        except zlib.error:
            raise Damaged("its packed bytes are damaged") from None
        if block:
            yield block
            block_bytes = min(2 * block_bytes, BLOCK_BYTES)
        elif not packed:
            return


def read_at(descriptor: int, size_bytes: int, offset: int) -> bytes:
    """Up to so many bytes of a file; none at its end. Raises Damaged where the disk cannot give them."""
    try:
        return os.pread(descriptor, size_bytes, offset)
    except OSError as error:
        raise Damaged(f"it cannot be read: {error.strerror}") from None
