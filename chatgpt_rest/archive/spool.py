# SPDX-License-Identifier: GPL-2.0-or-later
"""Uploads on the disk: each in a folder of its own below the work folder, which holds nothing that must last."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from chatgpt_rest.errors import BadRequest, StorageFailed

MOST_FILES: Final = 1_000
"""Of one upload: more than any export has parts."""

_MOST_RESERVED_BYTES: Final = 256 * 1024 * 1024
_RESERVED_SHARE: Final = 20  # of a small disk, one part in so many
_LOOKS_EVERY_BYTES: Final = 64 * 1024 * 1024  # at what else has filled the disk meanwhile
_LONGEST_NAME: Final = 100
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")


async def make_work_folder(folder: Path) -> None:
    """Make the folder, and empty it of what processes left that were killed. Only who has the mirror may do this."""
    await asyncio.to_thread(_make_empty, folder)


class Spool:
    """The files of one upload. They leave the disk some room: the mirror lies on it, and is written meanwhile."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._granted_bytes = 0
        self.paths: list[Path] = []

    async def check_room(self, size_bytes: int) -> None:
        """Raises StorageFailed where the disk has no room for so much."""
        if await self._room() < size_bytes:
            raise _no_room()

    async def grant(self, size_bytes: int) -> None:
        """To be asked for whatever is written. Raises StorageFailed where there is no room for it any more."""
        if self._granted_bytes < size_bytes:
            self._granted_bytes = min(await self._room(), max(_LOOKS_EVERY_BYTES, size_bytes))
        if self._granted_bytes < size_bytes:
            raise _no_room()
        self._granted_bytes -= size_bytes

    async def _room(self) -> int:
        usage = await asyncio.to_thread(shutil.disk_usage, self._folder.parent)
        return usage.free - min(_MOST_RESERVED_BYTES, usage.total // _RESERVED_SHARE)

    @asynccontextmanager
    async def file(self, name: str) -> AsyncIterator[SpooledFile]:
        """A new file, called as near to `name` as is safe. Raises StorageFailed where the disk is full or broken,
        BadRequest for one too many.
        """
        if len(self.paths) >= MOST_FILES:
            raise BadRequest(f"an upload has at most {MOST_FILES} files")
        path = self._folder / str(len(self.paths) + 1) / _safe(name)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            path.parent.mkdir(mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _failure(error) from error
        self.paths.append(path)
        try:
            yield SpooledFile(self, descriptor)
        finally:
            os.close(descriptor)

    async def remove(self) -> None:
        """Leave nothing of it."""
        # Shielded: to be told to stop is no reason to leave gigabytes behind.
        await asyncio.shield(asyncio.to_thread(_remove, self._folder))


class SpooledFile:
    """A file while it comes in."""

    def __init__(self, spool: Spool, descriptor: int) -> None:
        self._spool = spool
        self._descriptor = descriptor

    async def write(self, content: bytes | bytearray) -> None:
        """Raises StorageFailed where the disk is as good as full, or broken."""
        await self._spool.grant(len(content))
        writing = asyncio.ensure_future(asyncio.to_thread(_write, self._descriptor, content))
        try:
            await asyncio.shield(writing)
        except OSError as error:
            raise _failure(error) from error
        except asyncio.CancelledError:
            # The descriptor is closed next, and its number may soon be another file's.
            await asyncio.wait([writing])
            raise


def _make_empty(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
        for left in folder.iterdir():
            _remove(left)
    except OSError as error:
        raise _failure(error) from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write(descriptor: int, content: bytes | bytearray) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _safe(name: str) -> str:
    """The last part of a client's name, in letters that mean nothing to any system."""
    return _UNSAFE.sub("_", name.replace("\\", "/").rpartition("/")[2])[-_LONGEST_NAME:].strip("._-") or "export"


def _no_room() -> StorageFailed:
    return StorageFailed("the disk that holds the mirror has no room for this upload", code="storage_full")


def _failure(error: OSError) -> StorageFailed:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFailed("the disk that holds the mirror is full", code="storage_full")
    return StorageFailed(f"the work folder beside the mirror cannot be used: {error.strerror}")
