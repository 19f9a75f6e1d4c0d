# SPDX-License-Identifier: GPL-2.0-or-later
"""Run every benchmark and print a table: `python -m bench`. `python -m bench importing 2000` only imports so many MB,
`python -m bench streaming` only streams answers. Figures of reading are CPU time of the server's process and ratios to
a limit that ran in turn with it: on a noisy machine wall-clock rates scatter by a factor of two, these do not.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from rich.console import Console
from rich.table import Table

from bench import importing, stalling, streaming, syncing
from bench.load import send
from bench.processes import LOADING, cpu_seconds, serving, serving_bare
from chatgpt_rest.upstream.simulated import SimulatedChatGPT

ROUNDS: Final = 7
REQUESTS: Final = 2_000  # a round
STARTS: Final = 5


@dataclass(frozen=True)
class Case:
    """One way to read, and the bytes that the bare server answers it with."""

    name: str
    path: str
    headers: dict[str, str]
    status: int
    body: bytes


def main(only: str | None = None, size_mb: str = "2000") -> None:
    """Measure and report."""
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as folder:
        if only != "streaming":
            _report_importing(Path(folder), console, size_bytes=int(size_mb) * 1_000_000)
        if only == "importing":
            return
        _report_streaming(Path(folder), console)
        if only == "streaming":
            return
        reading = Table("reading from the mirror", "bytes", "bare aiohttp µs", "this server µs", "ratio (min…max)")
        for row in asyncio.run(_reading(Path(folder), console)):
            reading.add_row(*row)
        starting = Table("starting", "seconds", "of aiohttp's bare start (min…max)")
        for row in _starting(Path(folder), console):
            starting.add_row(*row)
        first_sync = Table("first sync of 3,000 conversations", "figure", "beside", "ratio")
        with console.status("") as status:
            for row in asyncio.run(syncing.measure(Path(folder), lambda what: status.update(f"measuring: {what}"))):
                first_sync.add_row(*row)
    console.print(reading)
    console.print("CPU time of the server's process a request; load on the other core; rounds in turn.")
    console.print(starting)
    console.print(first_sync)
    console.print("One connection upstream, one request at a time; the reader reads one thing after another.")


def _report_importing(folder: Path, console: Console, *, size_bytes: int) -> None:
    archives = Table(f"import of {size_bytes / 1e6:,.0f} MB", "figure", "beside", "ratio")
    with console.status("") as status:
        rows = importing.measure(folder, lambda what: status.update(f"measuring: {what}"), size_bytes=size_bytes)
        for row in asyncio.run(rows):
            archives.add_row(*row)
    console.print(archives)
    console.print("MB of JSON, unpacked; both processes on all cores, one after the other with SQLite alone.")


def _report_streaming(folder: Path, console: Console) -> None:
    streams = Table("streamed answers", "figure", "beside", "ratio (min…max)")
    with console.status("") as status:
        for measured in (streaming, stalling):
            place = folder / measured.__name__
            place.mkdir()
            for row in asyncio.run(measured.measure(place, lambda what: status.update(f"measuring: {what}"))):
                streams.add_row(*row)
    console.print(streams)
    console.print("CPU time of the server's process an answer of 10 MB; upstream and client on the other cores.")


async def _reading(folder: Path, console: Console) -> list[tuple[str, ...]]:
    chatgpt = SimulatedChatGPT()
    async with chatgpt.serving() as base_url:
        with serving(folder, base_url) as (port, pid):
            cases = await _cases(f"http://127.0.0.1:{port}", chatgpt)
            rows = []
            for case in cases:
                with console.status(f"measuring: {case.name}"):
                    rows.append(await _compare(folder, case, port, pid))
            return rows


async def _cases(address: str, chatgpt: SimulatedChatGPT) -> list[Case]:
    """Twenty messages, a hundred rows, and each of them again where the client has it already."""
    long = max(chatgpt.alice.conversations, key=lambda conversation: len(conversation.mapping))
    twenty = chatgpt.alice.add_conversation("twenty messages", turns=[("Why? " * 60, "Because. " * 60)] * 10)
    chatgpt.alice.many(100)
    token = {"Authorization": chatgpt.alice.token()}
    cases = []
    async with aiohttp.ClientSession(headers=token) as session:
        for name, path in (
            ("20 messages", f"/conversations/{twenty.id}/messages"),
            (f"{len(long.mapping)} messages", f"/conversations/{long.id}/messages"),
            ("list of 100", "/conversations?limit=100"),
        ):
            async with session.get(address + path, headers={"Accept-Encoding": "identity"}) as response:
                body, etag = await response.read(), response.headers["ETag"]
                if response.status != 200:
                    raise RuntimeError(f"{path}: {response.status} {body!r}")
            cases.append(Case(name, path, token, 200, body))
            cases.append(Case(f"{name}, 304", path, {**token, "If-None-Match": etag}, 304, body))
    return cases


async def _compare(folder: Path, case: Case, port: int, pid: int) -> tuple[str, ...]:
    file = folder / "body"
    file.write_bytes(case.body)
    with serving_bare(file) as (bare_port, bare_pid):
        pairs = []
        for round_number in range(ROUNDS + 1):
            bare = await _cpu_us(bare_pid, bare_port, case, status=200)
            ours = await _cpu_us(pid, port, case, status=case.status)
            if round_number:  # the first one warms up
                pairs.append((bare, ours))
    ratios = [ours / bare for bare, ours in pairs]
    return (
        case.name,
        f"{len(case.body):,}",
        f"{statistics.median(bare for bare, _ in pairs):.0f}",
        f"{statistics.median(ours for _, ours in pairs):.0f}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}…{max(ratios):.2f})",
    )


async def _cpu_us(pid: int, port: int, case: Case, *, status: int) -> float:
    before = cpu_seconds(pid)
    await send(port, case.path, case.headers, requests=REQUESTS, status=status)
    return (cpu_seconds(pid) - before) / REQUESTS * 1e6


def _starting(folder: Path, console: Console) -> list[tuple[str, ...]]:
    """Process start to first answer, beside a bare aiohttp server's: the share that is ours."""
    body = folder / "body"
    body.write_bytes(b"{}")
    pairs = []
    with console.status("measuring: starting"):
        for number in range(STARTS):
            mirror = folder / f"start-{number}"
            mirror.mkdir()
            pairs.append(
                (_seconds(lambda: serving_bare(body)), _seconds(lambda at=mirror: serving(at, "http://127.0.0.1:9/")))
            )
    ratios = [ours / bare for bare, ours in pairs]
    return [
        ("bare aiohttp", f"{statistics.median(bare for bare, _ in pairs):.2f}", "1"),
        (
            "this server, empty mirror",
            f"{statistics.median(ours for _, ours in pairs):.2f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}…{max(ratios):.2f})",
        ),
    ]


def _seconds(start: Any) -> float:
    began = time.perf_counter()
    with start():
        return time.perf_counter() - began


if __name__ == "__main__":
    os.sched_setaffinity(0, LOADING)
    main(*sys.argv[1:])
