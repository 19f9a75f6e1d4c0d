# SPDX-License-Identifier: GPL-2.0-or-later
"""The mirror alone, over a real file and a clock by hand; opening it again is a restart."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from chatgpt_rest.clock import SECOND, Clock
from chatgpt_rest.mirror import Mirror, open_mirror

LONGEST_ATTEMPT: Final = 120 * SECOND
"""How long a request may be on its way (µs)."""


def opening(
    folder: Path, clock: Clock, *, capacity: int = 50, checks: int = 10, cache_bytes: int = 1_000_000
) -> AbstractAsyncContextManager[Mirror]:
    """Open the mirror in `folder`."""
    return open_mirror(
        folder / "mirror.sqlite",
        clock=clock,
        requests_per_hour=capacity,
        checks_per_hour=checks,
        longest_attempt_seconds=LONGEST_ATTEMPT / SECOND,
        cache_bytes=cache_bytes,
    )
