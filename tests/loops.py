# SPDX-License-Identifier: GPL-2.0-or-later
"""Event loops whose clock is moved by hand, for what takes half a minute."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be moved forward."""

    moved_seconds = 0.0

    def time(self) -> float:
        return super().time() + self.moved_seconds

    async def move(self, seconds: float) -> None:
        """Let so much time pass, and what is due then run."""
        self.moved_seconds += seconds
        for _ in range(3):
            await asyncio.sleep(0)


def run_by_hand(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end on such a loop."""
    with asyncio.Runner(loop_factory=ManualLoop) as runner:
        runner.run(work)
