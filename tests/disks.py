# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks that fail: one of a size that a test can fill (mounting it takes root, and a kernel that lets root do it), one
that cannot be written, and one that cannot be read.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from chatgpt_rest.mirror.database import READERS
from tests.house import House


@contextmanager
def small_disk(folder: Path, *, size_mib: int) -> Iterator[Path]:
    """A file system of this size, mounted at `folder`, which is made."""
    folder.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "none", folder)
    if subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@asynccontextmanager
async def read_only(house: House) -> AsyncIterator[None]:
    """The mirror can be read and not be written, as on a disk that the kernel made read-only for its faults."""
    writer = house.mirror._database._writer
    await writer.execute("pragma query_only = on")
    try:
        yield
    finally:
        await writer.execute("pragma query_only = off")


@asynccontextmanager
async def unreadable(house: House) -> AsyncIterator[None]:
    """The mirror can be written and not be read: SQLite breaks off whatever a reader begins."""
    queue = house.mirror._database._readers
    readers = [await queue.get() for _ in range(READERS)]
    for reader in readers:
        await reader.set_progress_handler(lambda: 1, 1)
        queue.put_nowait(reader)
    try:
        yield
    finally:
        for reader in readers:
            await reader.set_progress_handler(lambda: 0, 1)
