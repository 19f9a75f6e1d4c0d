# SPDX-License-Identifier: GPL-2.0-or-later
"""The one source of time: integer microseconds since the epoch, never going back while the process lives."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

SECOND: Final = 1_000_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

_DOUBLINGS: Final = 6  # of a minute, to more than an hour
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class BootTime:
    """How long the machine has been up (µs, suspended time included), and which of its boots this is."""

    boot_id: str
    elapsed: int


class Clock(Protocol):
    """What the program knows of time. Tests move one by hand."""

    def now(self) -> int:
        """µs since the epoch."""

    def boot(self) -> BootTime | None:
        """The time since boot, which no change of the wall clock touches; None where the system does not tell."""


class SystemClock:
    """Wall time at the start plus the time elapsed since, so that a wall clock set while the process runs changes
    nothing.
    """

    def __init__(self) -> None:
        self._started_at = time.time_ns() // 1_000
        self._started_elapsed = _elapsed()
        self._boot_id = _boot_id()

    def now(self) -> int:
        return self._started_at + _elapsed() - self._started_elapsed

    def boot(self) -> BootTime | None:
        return None if self._boot_id is None else BootTime(self._boot_id, _elapsed())


def growing_pause(failures: int) -> int:
    """How long (µs) to let rest what has failed so often before: one minute, two, four …, an hour at the most."""
    return min(MINUTE << min(failures, _DOUBLINGS), HOUR)


def iso(time_us: int) -> str:
    """ISO 8601 with `+00:00`, fractions only where there are any: the form ChatGPT's own lists use."""
    return (datetime.fromtimestamp(time_us // SECOND, UTC).replace(microsecond=time_us % SECOND)).isoformat()


def _elapsed() -> int:
    # CLOCK_MONOTONIC stands still while a laptop sleeps, and an hour asleep is an hour for upstream too.
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock) // 1_000


def _boot_id() -> str | None:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return None
