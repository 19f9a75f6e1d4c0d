# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks that fail: one of a size that a test can fill (mounting it takes root, and a kernel that lets root do it), and
one that cannot be written.
"""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

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
