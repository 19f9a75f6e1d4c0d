# SPDX-License-Identifier: GPL-2.0-or-later
"""The first sync of a large account: how fast it is beside fetching alone, how much memory it takes, and how long
readers wait meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import aiohttp

from bench.processes import ROOT, cpu_seconds, peak_memory_bytes, serving, serving_upstream

MEMORY_LIMIT_BYTES: Final = 150_000_000
READ_LIMIT_SECONDS: Final = 0.05  # of the slowest hundredth
UNDISTURBED_READS: Final = 3_000
THINKING_SECONDS: Final = 0.005  # of the reader, between two reads
BOOKMARKS: Final = 100  # the newest conversations, which the reader goes through
_LOOKS_EVERY_SECONDS: Final = 1.0

Row = tuple[str, ...]
Latencies = Mapping[str, list[float]]
"""Seconds that reads of each kind took."""


@dataclass(frozen=True)
class Cost:
    """What it took to bring so many conversations: seconds on the clock, and of the processor."""

    conversations: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Syncing:
    """A server that has just begun its first sync."""

    pid: int
    address: str
    session: aiohttp.ClientSession

    async def get(self, path: str) -> Any:
        """The JSON at this path. Raises RuntimeError where there is none."""
        async with self.session.get(self.address + path) as response:
            if response.status != 200:
                raise RuntimeError(f"{path}: {response.status} {await response.text()}")
            return await response.json()

    async def until(self, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until this is so of what `/sync` answers."""
        while True:
            status: dict[str, Any] = await self.get("/sync")
            if is_so(status):
                return status
            await asyncio.sleep(_LOOKS_EVERY_SECONDS)

    async def finish(self) -> Cost:
        """Wait until everything is here."""
        status = await self.until(lambda status: status["last_pass"] is not None)
        began_at, ended_at = (
            datetime.fromisoformat(status["last_pass"][moment]) for moment in ("began_at", "ended_at")
        )
        return Cost(status["last_pass"]["fetched"], (ended_at - began_at).total_seconds(), cpu_seconds(self.pid))

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


async def measure(folder: Path, report: Callable[[str], object]) -> list[Row]:
    """Rows of what was measured, its figure, what it stands beside, and their ratio. `report` hears what goes on."""
    with serving_upstream() as base_url:
        token = await _token(base_url)
        report("fetching alone")
        bare = await asyncio.to_thread(_fetch_bare, base_url, token)
        report("syncing alone")
        async with _syncing(folder / "alone", base_url, token) as server:
            alone = await server.finish()
            memory_alone = peak_memory_bytes(server.pid)
        report("syncing with a reader")
        async with _syncing(folder / "read", base_url, token) as server:
            await server.until(lambda status: status["conversations"]["current"] >= BOOKMARKS)
            finishing = asyncio.create_task(server.finish())
            disturbed = await server.read_while(lambda _: not finishing.done())
            await finishing
            memory_read = peak_memory_bytes(server.pid)
            report("reading with no sync")
            undisturbed = await server.read_while(lambda number: number < UNDISTURBED_READS)
    return [
        _speed(alone, bare),
        _processor(alone, bare),
        _memory("peak memory", memory_alone),
        _memory("peak memory with a reader", memory_read),
        *(_latency(kind, disturbed[kind], undisturbed[kind]) for kind in undisturbed),
    ]


@asynccontextmanager
async def _syncing(folder: Path, base_url: str, token: str) -> AsyncIterator[Syncing]:
    environ = {
        "CHATGPT_REST_SYNC__ENABLED": "true",
        "CHATGPT_REST_RATE_LIMIT__REQUESTS_PER_HOUR": "10000",
        "CHATGPT_REST_UPSTREAM__ACCESS_TOKEN": token,
    }
    with serving(folder, base_url, environ) as (port, pid):
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
            yield Syncing(pid, f"http://127.0.0.1:{port}", session)


async def _token(base_url: str) -> str:
    address = base_url.replace("/backend-api/", "/simulated/accounts")
    async with aiohttp.ClientSession() as session, session.get(address) as response:
        return str((await response.json())["accounts"][0]["access_token"])


def _fetch_bare(base_url: str, token: str) -> Cost:
    arguments = [sys.executable, "-m", "bench.bare_fetch", base_url, token]
    printed = subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return Cost(int(printed[0]), float(printed[1]), float(printed[2]))


def _speed(sync: Cost, bare: Cost) -> Row:
    ours, theirs = (cost.conversations / cost.seconds for cost in (sync, bare))
    return ("conversations a second", f"{ours:.0f}", f"{theirs:.0f} fetched only", f"{ours / theirs:.2f}")


def _processor(sync: Cost, bare: Cost) -> Row:
    ours, theirs = (cost.cpu_seconds / cost.conversations * 1_000 for cost in (sync, bare))
    return ("processor time of one", f"{ours:.1f} ms", f"{theirs:.1f} ms fetched only", f"{ours / theirs:.2f}")


def _memory(name: str, size_bytes: int) -> Row:
    limit = f"limit {MEMORY_LIMIT_BYTES / 1e6:.0f} MB"
    return (name, f"{size_bytes / 1e6:.0f} MB", limit, f"{size_bytes / MEMORY_LIMIT_BYTES:.2f}")


def _latency(kind: str, disturbed: list[float], undisturbed: list[float]) -> Row:
    figure, beside = (
        f"{_percentile(seconds, 0.5) * 1_000:.1f} / {_percentile(seconds, 0.99) * 1_000:.1f} ms"
        for seconds in (disturbed, undisturbed)
    )
    share = _percentile(disturbed, 0.99) / READ_LIMIT_SECONDS
    return (
        f"{kind}, p50 / p99",
        figure,
        f"{beside} with no sync",
        f"{share:.2f} of {READ_LIMIT_SECONDS * 1_000:.0f} ms",
    )


def _percentile(seconds: list[float], share: float) -> float:
    """What this share of them does not exceed."""
    return sorted(seconds)[math.ceil(len(seconds) * share) - 1]
