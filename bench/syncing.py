# SPDX-License-Identifier: GPL-2.0-or-later
"""The first sync of a large account: how fast it is beside fetching alone, how much memory it takes, and how long
readers wait meanwhile.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import aiohttp

from bench.processes import ROOT, cpu_seconds, peak_memory_bytes, serving, serving_upstream
from bench.reader import BOOKMARKS, UNDISTURBED_READS, Reader
from bench.rows import Row, latency, memory

MEMORY_LIMIT_BYTES: Final = 150_000_000
_LOOKS_EVERY_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Cost:
    """What it took to bring so many conversations: seconds on the clock, and of the processor."""

    conversations: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Syncing(Reader):
    """A server that has just begun its first sync, and who reads from it."""

    pid: int

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
        memory("peak memory", memory_alone, limit_bytes=MEMORY_LIMIT_BYTES),
        memory("peak memory with a reader", memory_read, limit_bytes=MEMORY_LIMIT_BYTES),
        *(latency(kind, disturbed[kind], undisturbed[kind], beside="no sync") for kind in undisturbed),
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
            yield Syncing(f"http://127.0.0.1:{port}", session, pid)


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
