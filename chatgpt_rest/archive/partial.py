# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that appear whole or not at all, readable by their owner only, and what a disk does to them in our words."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from chatgpt_rest.errors import MirrorError, StorageFailed
from chatgpt_rest.folders import fsync_folder

SUFFIX: Final = ".chatgpt_rest.partial"
"""What the names of unfinished files end in. Who writes one holds it locked, as the kernel knows: a process that was
killed holds nothing.
"""


@contextmanager
def partial(target: Path, *, beside: Path, is_durable: bool) -> Iterator[IO[bytes]]:
    """A file that becomes `target`, in place of what was there, when it is left; on any exception it is gone.

    It is written as `beside`, in the same folder, whose name ends in `SUFFIX`. `is_durable` waits for the disk: no
    power cut takes back what was then said to be done. Raises OSError.
    """
    with os.fdopen(_begin(beside), "w+b") as file:
        try:
            yield file
            file.flush()
            if is_durable:
                os.fsync(file.fileno())
            beside.replace(target)  # while it is locked: nobody takes it for a leftover
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        if is_durable:
            fsync_folder(target.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of processes that are no more, with what SQLite put beside them. Raises OSError."""
    for path in [*folder.glob(f"*{SUFFIX}")]:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue  # gone meanwhile, a link, a folder, somebody else's: nothing that was written here
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(descriptor, path):
                for each in (*folder.glob(f"{glob.escape(path.name)}.sqlite*"), path):
                    each.unlink(missing_ok=True)
        except OSError as error:
            # Locked, or on a file system that knows no locks, where nobody can tell a leftover.
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL}:
                raise
        finally:
            os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _begin(path: Path) -> int:
    """A new file, locked. It is begun anew where another process took it for a leftover before it was locked."""
    while True:
        # A leftover of a killed process is no file of anybody's; a link in its place would lead elsewhere.
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        with suppress(OSError):  # a file system that knows no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if is_at(descriptor, path):
            return descriptor
        os.close(descriptor)


@contextmanager
def disk_faults(place: Path) -> Iterator[None]:
    """Raises StorageFailed where the disk that holds `place` is full, MirrorError for its other faults."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFailed(f"the disk that holds {place} is full", code="storage_full") from error
        raise MirrorError(f"{error.filename or place}: {error.strerror or error}", code="storage_failed") from error
