# SPDX-License-Identifier: GPL-2.0-or-later
"""What an import is made from, opened: ZIPs, folders and bare files, and the ZIPs inside them.

They become members, which can be read one after the other. Links are never followed inside a source, and nothing but
regular files is ever read. A file that is named twice, by whatever path, is taken once.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from calendar import timegm
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from chatgpt_rest.archive.members import Kind, is_zip, kind_of
from chatgpt_rest.archive.regular import open_regular
from chatgpt_rest.archive.wire import SetAside, Source
from chatgpt_rest.archive.zips import (
    BLOCK_BYTES,
    Damaged,
    read_at,
    read_directory,
    refusal,
    shown,
    too_many,
    unpacked,
)
from chatgpt_rest.clock import SECOND
from chatgpt_rest.errors import StorageFailed

_MOST_ZIPS: Final = 200  # each keeps a file open
_ROOM_LEFT_BYTES: Final = 64 * 1024 * 1024  # of the disk, for the mirror that shares it
_KINDS: Final = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}


@dataclass(frozen=True, slots=True)
class Member:
    """A file to import. `container` names the source or the ZIP that it lies in, `name` its path inside that, with
    slashes; both as they came. `modified_at` is a wall clock's time (µs). `is_named` is true of a file that was
    named itself, and could be called anything.
    """

    container: str
    name: str
    size_bytes: int
    modified_at: int | None
    is_named: bool
    _content: Callable[[], Iterator[bytes]]

    @property
    def place(self) -> str:
        """Where it lies, for people."""
        return shown(self.name if self.is_named else f"{self.container}/{self.name}")

    def blocks(self) -> Iterator[bytes]:
        """Its bytes, a megabyte at the most at a time and `size_bytes` at the most in all. Raises Damaged where it
        ends early or is not what it should be, having given what there was.
        """
        return self._content()

    def stream(self) -> MemberStream:
        """To be read from like a file. The next block is unpacked, by another thread, while one is read."""
        return MemberStream(_ahead(self.blocks()))

    def read(self) -> bytes:
        """All of it at once. Raises Damaged."""
        return b"".join(self.blocks())


class MemberStream:
    """A member to be read from like a file. Reads may be short; Damaged comes only after all that could be read."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        """Up to so many bytes; none at the end."""
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return b""
            self._rest = block
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


@dataclass(slots=True)
class Sources:
    """Everything that an import was given, and what of it cannot be read."""

    labels: list[str]
    """What each thing that was named is called."""
    members: list[Member] = field(default_factory=list)
    zips: list[tuple[str, str]] = field(default_factory=list)
    """The ZIPs among them, by container and name; one that was named itself lies in none, ""."""
    set_aside: list[SetAside] = field(default_factory=list)


@contextmanager
def open_sources(source: Source) -> Iterator[Sources]:
    """Open and check all that is to be imported: it can be read for as long as the context lasts.

    Raises BadRequest (`export_refused`) where something is named that is not there or is no file, and where a ZIP's
    directory or a limit refuses it; StorageFailed where a ZIP inside a ZIP finds no room.
    """
    if not source.paths:
        raise refusal("import", "no file was named")
    with ExitStack() as stack:
        opening = _Opening(source, stack)
        for label, path in zip(opening.found.labels, source.paths, strict=True):
            opening.take(label, path)
        yield opening.found


class _Opening:
    """The way from paths to members, with the counts that the limits are for."""

    def __init__(self, source: Source, stack: ExitStack) -> None:
        self.found = Sources(_labels(source.paths))
        self._limits = source
        self._stack = stack
        self._entries_left = source.max_entries
        self._bytes_left = source.max_unpacked_bytes
        self._zips_left = _MOST_ZIPS
        self._seen: set[tuple[int, int, str]] = set()

    def take(self, label: str, path: str) -> None:
        """What a person named. A link is followed here, and only here."""
        try:
            status = Path(path).stat()
        except (OSError, ValueError) as error:  # ValueError: a NUL in it
            reason = error.strerror if isinstance(error, OSError) else "no path"
            raise refusal(label, f"it cannot be opened: {reason}") from None
        if stat.S_ISDIR(status.st_mode):
            self._folder(label, path)
        elif not stat.S_ISREG(status.st_mode):
            raise refusal(label, f"it is {_kind(status)}, no file and no folder")
        elif not status.st_size:
            raise refusal(label, "it is empty")
        elif not self._is_second(path, status):
            self._named_file(label, path, status)

    def _named_file(self, label: str, path: str, status: os.stat_result) -> None:
        try:
            file = self._opened(path)
        except OSError as error:
            raise refusal(label, f"it cannot be opened: {error.strerror}") from None
        begins_like_zip = os.pread(file.fileno(), 2, 0) == b"PK"
        if is_zip(path) or (begins_like_zip and kind_of(path) is not Kind.ASSET):
            self.found.zips.append(("", Path(path).name))
            self._zip(label, file, depth=0)
        else:
            file.close()
            self._file(label, label, path, status, is_named=True)

    def _folder(self, label: str, top: str) -> None:
        """All files below, in the order of their names. What is no regular file is set aside, and never opened."""
        folders = [top]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                if folder == top:
                    raise refusal(label, f"it cannot be opened: {error.strerror}") from None
                self._leave(label, os.path.relpath(folder, top), f"it cannot be opened: {error.strerror}")
                continue
            for entry in entries:
                self._entry_of_folder(label, top, entry)
            folders.extend(entry.path for entry in reversed(entries) if entry.is_dir(follow_symlinks=False))

    def _entry_of_folder(self, label: str, top: str, entry: os.DirEntry[str]) -> None:
        name = os.path.relpath(entry.path, top)
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError as error:
            self._leave(label, name, f"it cannot be opened: {error.strerror}")
            return
        if stat.S_ISDIR(status.st_mode):
            return
        if not stat.S_ISREG(status.st_mode):
            self._leave(label, name, f"it is {_kind(status)}")
        elif not self._is_second(entry.path, status):
            if is_zip(entry.name):
                self._zip_of_folder(label, name, entry.path)
            else:
                self._file(label, name, entry.path, status, is_named=False)

    def _zip_of_folder(self, label: str, name: str, path: str) -> None:
        try:
            file = self._opened(path)
        except OSError as error:
            self._leave(label, name, f"it cannot be opened: {error.strerror}")
        else:
            self.found.zips.append((label, name))
            self._zip(f"{label}/{name}", file, depth=0)

    def _file(self, container: str, name: str, path: str, status: os.stat_result, *, is_named: bool) -> None:
        if not self._entries_left:
            raise too_many(container)
        self._entries_left -= 1
        self._weigh(container, status.st_size)
        self.found.members.append(
            Member(
                container=container,
                name=name,
                size_bytes=status.st_size,
                modified_at=_wall_time(status.st_mtime),
                is_named=is_named,
                _content=partial(_file_blocks, Path(path).absolute(), status.st_size),
            )
        )

    def _zip(self, place: str, file: BinaryIO, *, depth: int) -> None:
        """The files of a ZIP, and of the ZIPs in it in their place."""
        if not self._zips_left:
            raise refusal(place, f"there are more than {_MOST_ZIPS} ZIPs; import some of them at a time")
        self._zips_left -= 1
        entries = read_directory(file, place, max_entries=self._entries_left, max_ratio=self._limits.max_ratio)
        self._entries_left -= len(entries)
        self._weigh(place, sum(entry.size_bytes for entry in entries))
        descriptor = file.fileno()
        for entry in entries:
            member = Member(
                container=place,
                name=entry.name,
                size_bytes=entry.size_bytes,
                modified_at=entry.modified_at,
                is_named=False,
                _content=partial(unpacked, descriptor, entry),
            )
            if not is_zip(entry.name):
                self.found.members.append(member)
                continue
            if depth == self._limits.max_nested:
                raise refusal(member.place, "ZIPs lie in one another deeper than [archive] max_nested allows")
            self.found.zips.append((place, entry.name))
            try:
                inner = self._unpack(member)
            except Damaged as damage:
                self._leave(place, entry.name, str(damage))
            else:
                self._zip(f"{place}/{entry.name}", inner, depth=depth + 1)

    def _unpack(self, member: Member) -> BinaryIO:
        """A ZIP of a ZIP, in a file that has no name: it is gone with this process, however that ends."""
        folder = Path(self._limits.work_folder)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if shutil.disk_usage(folder).free < member.size_bytes + _ROOM_LEFT_BYTES:
                raise StorageFailed(f"{member.place} cannot be unpacked to {folder}: there is no room for it")
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lasts as long as the sources do
            self._stack.callback(file.close)
            for block in member.blocks():
                file.write(block)
            file.flush()
        except OSError as error:
            raise StorageFailed(f"{member.place} cannot be unpacked to {folder}: {error.strerror}") from None
        return file

    def _opened(self, path: str) -> BinaryIO:
        return self._stack.enter_context(os.fdopen(open_regular(path), "rb"))

    def _is_second(self, path: str, status: os.stat_result) -> bool:
        # By its name too: what saves space by hard links makes one of two assets that are alike.
        key = (status.st_dev, status.st_ino, Path(path).name)
        is_second = key in self._seen
        self._seen.add(key)
        return is_second

    def _weigh(self, place: str, size_bytes: int) -> None:
        self._bytes_left -= size_bytes
        if self._bytes_left < 0:
            raise refusal(
                place, "with it there is more to unpack than is allowed; [archive] max_unpacked_bytes sets the limit"
            )

    def _leave(self, container: str, name: str, reason: str) -> None:
        self.found.set_aside.append(SetAside("file", shown(f"{container}/{name}"), reason))


def _file_blocks(path: Path, size_bytes: int) -> Iterator[bytes]:
    try:
        descriptor = open_regular(path)
    except OSError as error:
        raise Damaged(f"it cannot be opened: {error.strerror}") from None
    try:
        offset = 0
        while offset < size_bytes:
            block = read_at(descriptor, min(BLOCK_BYTES, size_bytes - offset), offset)
            if not block:
                raise Damaged(f"it was shortened while it was read, by {size_bytes - offset} bytes")
            offset += len(block)
            yield block
    finally:
        os.close(descriptor)


def _ahead(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same blocks, of which one is made while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, blocks, b"")
        while block := coming.result():
            coming = thread.submit(next, blocks, b"")
            yield block


def _labels(paths: Sequence[str]) -> list[str]:
    """What to call each source: by the last part of its path, or as much more of it as tells them apart."""
    parts = [Path(path).absolute().parts for path in paths]
    for length in range(1, max(map(len, parts))):
        labels = ["/".join(each[-length:]) for each in parts]
        if len(set(labels)) == len(set(parts)):
            return labels
    return list(paths)


def _wall_time(time_seconds: float) -> int | None:
    """What a clock on the wall showed then (µs), as ZIPs have it."""
    try:
        return timegm(time.localtime(time_seconds)) * SECOND
    except (OverflowError, ValueError, OSError):  # disks hold times that no calendar has
        return None


def _kind(status: os.stat_result) -> str:
    return _KINDS.get(stat.S_IFMT(status.st_mode), "a device")
