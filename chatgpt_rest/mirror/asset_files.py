# SPDX-License-Identifier: GPL-2.0-or-later
"""The bytes of assets, as files under their SHA-256: `assets/ab/abcdef…`. Nobody but the owner can read them, what is
there twice lies there once, and what is there is whole.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Set
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Final

from chatgpt_rest.errors import StorageFailed
from chatgpt_rest.folders import fsync_folder, make_folder
from chatgpt_rest.mirror.media_types import HEAD_BYTES, TAIL_BYTES, media_type

_DIGEST_LETTERS: Final = 2 * sha256().digest_size


@dataclass(frozen=True, slots=True)
class KeptFile:
    """What came of a file, and lies safe on the disk."""

    digest: bytes
    size_bytes: int
    media_type: str
    """By its bytes."""


class AssetFiles:
    """The folder of all accounts' files: which is whose, the database knows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unfinished = folder / "incoming"
        self._placing = asyncio.Lock()

    def path(self, digest: bytes) -> Path:
        """Where the file of this digest lies, if it is here."""
        name = digest.hex()
        return self._folder / name[:2] / name

    async def is_whole(self, digest: bytes) -> bool:
        """Whether this file is here with all of its bytes. Reads them all."""
        return await asyncio.to_thread(self._is_whole, digest)

    async def remove(self, digest: bytes) -> None:
        """Remove a file that is nobody's; to be called while another is `incoming` and kept, as nothing is placed then.
        Raises StorageFailed.
        """
        with _disk_faults():
            await asyncio.to_thread(self.path(digest).unlink, missing_ok=True)

    @asynccontextmanager
    async def incoming(self) -> AsyncIterator[IncomingFile]:
        """A file that is about to come, piece by piece. Unless it is kept, nothing of it is left in the end."""
        file = IncomingFile(self, self._unfinished / secrets.token_hex(16), self._placing)
        try:
            yield file
        finally:
            await file.close()

    async def remove_all_but(self, find_known: Callable[[], Awaitable[Set[bytes]]]) -> int:
        """Remove every file whose digest is not known; none comes meanwhile. Answers how many there were. Raises
        StorageFailed.
        """
        async with self._placing:
            known = await find_known()
            return await asyncio.to_thread(self._remove_all_but, known)

    async def clean(self) -> None:
        """Remove what a process that died was still writing. Only for the one that has the mirror."""
        await asyncio.to_thread(shutil.rmtree, self._unfinished, ignore_errors=True)

    def _is_whole(self, digest: bytes) -> bool:
        try:
            with self.path(digest).open("rb") as file:
                return file_digest(file, "sha256").digest() == digest
        except OSError:
            return False

    def _remove_all_but(self, known: Set[bytes]) -> int:
        names = {digest.hex() for digest in known}
        with _disk_faults():
            strays = [
                file
                for file in self._folder.glob("[0-9a-f][0-9a-f]/*")
                if len(file.name) == _DIGEST_LETTERS and file.name not in names
            ]
            for file in strays:
                file.unlink(missing_ok=True)
        return len(strays)


class IncomingFile:
    """One file on its way in. Built by `AssetFiles.incoming`, which also ends it.

    What takes time is done in a thread. Who waits for that may be cancelled, the thread cannot: each step leaves this
    object such that the next, the end among them, can follow.
    """

    def __init__(self, files: AssetFiles, path: Path, placing: asyncio.Lock) -> None:
        self._files = files
        self._path = path
        self._placing = placing
        self._is_placing = False
        self._step = Lock()
        self._file: BinaryIO | None = None
        self._is_over = False
        self._digest = sha256()
        self._size_bytes = 0
        self._head = b""
        self._tail = b""

    async def write(self, content: bytes) -> None:
        """Take in the next piece. Raises StorageFailed where the disk is full or broken."""
        await asyncio.to_thread(self._write, content)

    async def keep(self) -> KeptFile:
        """That was all of it: once this has answered, no power cut takes it away. Until the end of `incoming` no file
        is removed. Raises StorageFailed.
        """
        await self._placing.acquire()
        self._is_placing = True
        return await asyncio.to_thread(self._keep)

    async def close(self) -> None:
        """Be done with it, kept or not."""
        if self._is_placing:
            self._placing.release()
        await asyncio.shield(asyncio.to_thread(self._close))

    def _write(self, content: bytes) -> None:
        with self._step, _disk_faults():
            self._opened().write(content)
            self._digest.update(content)
            self._size_bytes += len(content)
            self._head += content[: HEAD_BYTES - len(self._head)]
            self._tail = (self._tail + content[-TAIL_BYTES:])[-TAIL_BYTES:]

    def _keep(self) -> KeptFile:
        with self._step, _disk_faults():
            file = self._opened()
            file.flush()
            os.fsync(file.fileno())
            kept = KeptFile(self._digest.digest(), self._size_bytes, media_type(self._head, self._tail))
            place = self._files.path(kept.digest)
            make_folder(place.parent)
            # In the place of one that is there already: equal, unless that was damaged since.
            self._path.replace(place)
            fsync_folder(place.parent)
        return kept

    def _close(self) -> None:
        with self._step:
            self._is_over = True
            if self._file is not None:
                with suppress(OSError):  # what it still holds finds no room, and is not wanted
                    self._file.close()
                self._path.unlink(missing_ok=True)

    def _opened(self) -> BinaryIO:
        if self._is_over:
            raise ValueError("this file is closed")
        if self._file is None:
            make_folder(self._path.parent)
            self._file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        return self._file


@contextmanager
def _disk_faults() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFailed("the disk that holds the mirror is full", code="storage_full") from error
        raise StorageFailed(f"the mirror's assets cannot be written ({error.strerror})") from error
