# SPDX-License-Identifier: GPL-2.0-or-later
"""Files in places where anybody may have put something else: a pipe would hold whoever opens it for ever."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def open_regular(path: str | Path) -> int:
    """A descriptor of a regular file, to read it; nothing else is opened, and nothing is waited for. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(None, "it is no regular file", str(path))
