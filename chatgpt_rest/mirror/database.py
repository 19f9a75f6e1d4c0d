# SPDX-License-Identifier: GPL-2.0-or-later
"""One SQLite file: who may open it, how it is opened, and the only ways to read and write it.

SQLite before 3.51.3 can corrupt a WAL database when two connections write or checkpoint at once, so exactly one
connection of one process writes: the process holds a lock file, and the connection a lock of its own. Readers are
read-only connections that never checkpoint. `synchronous = FULL`: with NORMAL a power cut loses acknowledged rows.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import aiosqlite

from chatgpt_rest.errors import StartError, StorageFailed
from chatgpt_rest.mirror.migrations import migrate, pending_migrations

READERS: Final = 3
"""Read-only connections: a search in one does not hold up a look-up in another."""

_HEADER: Final = b"SQLite format 3\0"
_OLDEST_SQLITE: Final = (3, 37, 0)  # STRICT tables


class Database:
    """The open file. Built by `open_database`, which also closes it."""

    def __init__(self, path: Path, writer: aiosqlite.Connection, readers: tuple[aiosqlite.Connection, ...]) -> None:
        self.path = path
        self._writer = writer
        self._writing = asyncio.Lock()
        self._readers: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()
        for reader in readers:
            self._readers.put_nowait(reader)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[aiosqlite.Connection]:
        """One transaction on the one writing connection: all of it or, on any exception, nothing. Nothing in it may
        wait for the network. Raises StorageFailed where the disk is full or broken.
        """
        async with self._writing:
            with _storage_faults():
                try:
                    await self._writer.execute("begin immediate")
                    yield self._writer
                    # Shielded: a commit that has begun is not abandoned half-way because a client hung up.
                    await asyncio.shield(self._writer.commit())
                except BaseException:
                    # The connection runs its calls in order, so even if this wait is cancelled too, the roll-back comes
                    # before the next transaction's begin.
                    await asyncio.shield(self._writer.rollback())
                    raise

    async def rewrite(self) -> None:
        """Write the whole file anew, without what stands in its free space. Writers wait meanwhile, readers do not: two
        seconds for 250 MB, and as much room on the disk again. Raises StorageFailed.
        """
        async with self._writing:
            with _storage_faults():
                await self._writer.execute("vacuum")

    async def checkpoint(self) -> bool:
        """Bring the log into the file and cut it to nothing. False where a reader was in the way for longer than SQLite
        waits; the next one will do.
        """
        async with self._writing:
            with _storage_faults():
                rows = await self._writer.execute_fetchall("pragma wal_checkpoint(truncate)")
        return not any(row[0] for row in rows)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[aiosqlite.Connection]:
        """A read-only connection of one's own, all of whose statements see the same state."""
        reader = await self._readers.get()
        try:
            with _storage_faults():
                await reader.execute("begin")
                yield reader
        finally:
            try:
                await asyncio.shield(reader.rollback())
            finally:
                self._readers.put_nowait(reader)


@asynccontextmanager
async def open_database(path: Path, migrations: Path) -> AsyncIterator[Database]:
    """Lock, open and migrate the file at the absolute `path`, and close it in the end. Raises StartError naming what
    is wrong and what to do.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StartError(f"SQLite {sqlite3.sqlite_version} is too old: 3.37 or newer is needed")
    async with AsyncExitStack() as stack:
        stack.enter_context(locked(path))
        with _start_faults(path):
            _check_header(path)
            writer = await stack.enter_async_context(aiosqlite.connect(path, isolation_level=None))
            pending = await pending_migrations(writer, path, migrations)
            # secure_delete: what is deleted or written over would else go on standing in the file's free space, and it
            # is somebody's words.
            for pragma in ("journal_mode = wal", "synchronous = full", "trusted_schema = off", "secure_delete = on"):
                await writer.execute(f"pragma {pragma}")
            await migrate(writer, path, pending)
            address = f"{path.as_uri()}?mode=ro"
            readers = [
                await stack.enter_async_context(aiosqlite.connect(address, uri=True, isolation_level=None))
                for _ in range(READERS)
            ]
        yield Database(path, writer, tuple(readers))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file beside the database that says which process it belongs to, and the database file itself: the first
    can be deleted by a tidy person. The kernel lets go of both at any death.
    """
    file = path.with_name(path.name + ".lock")
    with ExitStack() as stack:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Made here, the database too, so that they are never readable by others, not even for a moment.
            name_plate = _held(file, stack, path)
            _held(path, stack, path)
            os.ftruncate(name_plate, 0)
            os.pwrite(name_plate, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise StartError(
                f"{error.filename or file}: {error.strerror}; name another place with [mirror] path"
            ) from error
        yield


def _held(file: Path, stack: ExitStack, path: Path) -> int:
    """The descriptor of `file`, locked until the stack is left."""
    descriptor = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
            raise StartError(f"{file}: this file system cannot lock it: {error.strerror}") from error
        raise StartError(
            f"{path} is in use by process {_holder(path)}; stop that one, or let it do the work", code="locked"
        ) from None
    return descriptor


def _holder(path: Path) -> str:
    try:
        return path.with_name(path.name + ".lock").read_text(encoding="ascii").strip() or "unknown"
    except (OSError, UnicodeDecodeError):
        return "unknown"


def _check_header(path: Path) -> None:
    """SQLite itself takes a file of a few bytes for an empty database, and writes over it."""
    with path.open("rb") as file:
        header = file.read(len(_HEADER))
    if header not in {b"", _HEADER}:
        raise StartError(f"{path} is no database; name another place with [mirror] path")


@contextmanager
def _start_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise StartError(f"{path} cannot be opened as a mirror: {error}") from error
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}") from error


@contextmanager
def _storage_faults() -> Iterator[None]:
    """What the disk does to us, in our words. A wrong statement stays the bug that it is."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name == "SQLITE_FULL":
            raise StorageFailed("the disk that holds the mirror is full", code="storage_full") from error
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise StorageFailed("another program holds the mirror's database; let it finish") from error
        if name.startswith(
            ("SQLITE_NOMEM", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CANTOPEN")
        ):
            raise StorageFailed(f"the mirror cannot be read or written ({name})") from error
        raise
