# SPDX-License-Identifier: GPL-2.0-or-later
"""Somebody who reads while a server does something else, and how long each read takes."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

UNDISTURBED_READS: Final = 3_000
BOOKMARKS: Final = 100  # the newest conversations, which the reader goes through
THINKING_SECONDS: Final = 0.005  # between two reads

Latencies = Mapping[str, list[float]]
"""Seconds that reads of each kind took."""


@dataclass(frozen=True)
class Reader:
    """A client of the server at this address."""

    address: str
    session: aiohttp.ClientSession

    async def get(self, path: str) -> Any:
        """The JSON at this path. Raises RuntimeError where there is none."""
        async with self.session.get(self.address + path) as response:
            if response.status != 200:
                raise RuntimeError(f"{path}: {response.status} {await response.text()}")
            return await response.json()

    async def read_while(self, goes_on: Callable[[int], bool]) -> Latencies:
        """Read the list, a conversation's messages and all of it in turn, for as long as it `goes_on` after so many."""
        ids = [row["id"] for row in await self.get(f"/conversations?limit={BOOKMARKS}")]
        latencies: defaultdict[str, list[float]] = defaultdict(list)
        number = 0
        while goes_on(number):
            turn, what = divmod(number, 3)
            chosen = ids[turn % len(ids)]
            kind, path = (
                ("list of 100", "/conversations?limit=100"),
                ("messages", f"/conversations/{chosen}/messages"),
                ("conversation", f"/conversations/{chosen}"),
            )[what]
            began_at = time.perf_counter()
            async with self.session.get(self.address + path) as response:
                await response.read()
            latencies[kind].append(time.perf_counter() - began_at)
            response.raise_for_status()
            number += 1
            await asyncio.sleep(THINKING_SECONDS)
        return latencies
