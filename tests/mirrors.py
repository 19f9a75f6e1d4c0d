# SPDX-License-Identifier: GPL-2.0-or-later
"""The mirror alone, over a real file and a clock by hand; opening it again is a restart."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from chatgpt_rest.clock import SECOND, Clock
from chatgpt_rest.mirror import MIGRATIONS, Mirror, open_mirror
from chatgpt_rest.mirror.database import open_database

LONGEST_ATTEMPT: Final = 120 * SECOND
"""How long a request may be on its way (µs)."""


def opening(
    folder: Path, clock: Clock, *, capacity: int = 50, checks: int = 10, cache_bytes: int = 1_000_000
) -> AbstractAsyncContextManager[Mirror]:
    """Open the mirror in `folder`."""
    path = folder / "mirror.sqlite"
    lay_out(path)
    return open_mirror(
        path,
        clock=clock,
        requests_per_hour=capacity,
        checks_per_hour=checks,
        longest_attempt_seconds=LONGEST_ATTEMPT / SECOND,
        cache_bytes=cache_bytes,
    )


def lay_out(path: Path) -> None:
    """Put an empty mirror there, unless there is something: going through every migration is most of the time that a
    first opening takes. What they do is for their own tests.
    """
    if path.parent.is_dir() and not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(_migrated())


@cache
def _migrated() -> bytes:
    """The file that the program makes."""

    async def make(path: Path) -> None:
        async with open_database(path, MIGRATIONS):
            pass

    with TemporaryDirectory() as folder, ThreadPoolExecutor(1) as beside:  # a loop that runs here lets no other run
        path = Path(folder) / "mirror.sqlite"
        beside.submit(asyncio.run, make(path)).result()
        return path.read_bytes()
