# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk of a size that a test can fill. Mounting one takes root, and a kernel that lets root do it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


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
