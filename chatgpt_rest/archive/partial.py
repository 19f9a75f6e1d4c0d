# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that appear whole or not at all, readable by their owner only, and what a disk does to them in our words."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from chatgpt_rest.errors import MirrorError, StorageFailed
from chatgpt_rest.folders import fsync_folder


@contextmanager
def partial(target: Path, *, beside: Path, is_durable: bool) -> Iterator[IO[bytes]]:
    """A file that becomes `target`, in place of what was there, when it is left; on any exception it is gone.

    It is written as `beside`, in the same folder. `is_durable` waits for the disk: no power cut takes back what was
    then said to be done. Raises OSError.
    """
    # A leftover of a killed process is no file of anybody's; a link in its place would lead elsewhere.
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            if is_durable:
                os.fsync(file.fileno())
        beside.replace(target)
        if is_durable:
            fsync_folder(target.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def disk_faults(place: Path) -> Iterator[None]:
    """Raises StorageFailed where the disk that holds `place` is full, MirrorError for its other faults."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFailed(f"the disk that holds {place} is full", code="storage_full") from error
        raise MirrorError(f"{error.filename or place}: {error.strerror or error}", code="storage_failed") from error
