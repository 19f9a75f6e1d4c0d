# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the report: what was measured, its figure, what it stands beside, and their ratio."""

from __future__ import annotations

import math
from typing import Final

READ_LIMIT_SECONDS: Final = 0.05  # of the slowest hundredth

Row = tuple[str, ...]


def memory(name: str, size_bytes: int, *, limit_bytes: int) -> Row:
    """A peak of memory beside what is allowed."""
    limit = f"limit {limit_bytes / 1e6:.0f} MB"
    return (name, f"{size_bytes / 1e6:.0f} MB", limit, f"{size_bytes / limit_bytes:.2f}")


def latency(kind: str, disturbed: list[float], undisturbed: list[float], *, beside: str) -> Row:
    """Seconds that reads took while something else went on, beside what they take with no such thing."""
    figure, other = (
        f"{_percentile(seconds, 0.5) * 1_000:.1f} / {_percentile(seconds, 0.99) * 1_000:.1f} ms"
        for seconds in (disturbed, undisturbed)
    )
    share = _percentile(disturbed, 0.99) / READ_LIMIT_SECONDS
    return (
        f"{kind}, p50 / p99",
        figure,
        f"{other} with {beside}",
        f"{share:.2f} of {READ_LIMIT_SECONDS * 1_000:.0f} ms",
    )


def _percentile(seconds: list[float], share: float) -> float:
    """What this share of them does not exceed."""
    return sorted(seconds)[math.ceil(len(seconds) * share) - 1]
