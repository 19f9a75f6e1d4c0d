# SPDX-License-Identifier: GPL-2.0-or-later
"""Streamed answers: the processor's time for one of 2,000 events beside bare aiohttp that passes the same bytes on, and
how soon the first word leaves after it has come.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from bench.processes import cpu_seconds, serving, serving_pass_through, serving_sender
from bench.rows import Row
from bench.sender import AT_ONCE, EVENTS, ONE_BY_ONE, STAMPED

RATIO_GOAL: Final = 2.0
FIRST_WORD_GOAL_MS: Final = 5.0

_TOKEN: Final = "a-token-of-the-bench"
_FIRST_WORDS: Final = 200


@dataclass(frozen=True)
class Way:
    """One way in which an answer comes: so many rounds, of so many answers each."""

    prompt: str
    name: str
    rounds: int
    answers: int


_WAYS: Final = (
    Way(AT_ONCE, "sent at once", rounds=7, answers=10),
    Way(ONE_BY_ONE, "sent one by one", rounds=5, answers=1),
)


async def measure(folder: Path, report: Callable[[str], object]) -> list[Row]:
    """Rows of what was measured, its figure, what it stands beside, and their ratio. `report` hears what goes on."""
    environ = {"CHATGPT_REST_RATE_LIMIT__REQUESTS_PER_HOUR": "10000"}
    rows: list[Row] = []
    with (
        serving_sender() as base_url,
        serving_pass_through(base_url) as (bare_port, bare_pid),
        serving(folder, base_url, environ) as (port, pid),
    ):
        headers = {"Authorization": f"Bearer {_TOKEN}", "Accept": "text/event-stream"}
        async with aiohttp.ClientSession(headers=headers) as session:
            for way in _WAYS:
                pairs = []
                for number in range(way.rounds + 1):
                    report(f"{EVENTS:,} events {way.name} ({number} of {way.rounds})")
                    bare = await _cpu_ms(session, bare_port, bare_pid, way)
                    ours = await _cpu_ms(session, port, pid, way)
                    if number:  # the first one warms up
                        pairs.append((bare, ours))
                rows.append(_processor(way, pairs))
            report("first words")
            rows.append(_first_word([await _first_word_ms(session, port) for _ in range(_FIRST_WORDS)]))
    return rows


async def _cpu_ms(session: aiohttp.ClientSession, port: int, pid: int, way: Way) -> float:
    before = cpu_seconds(pid)
    for _ in range(way.answers):
        await _read(session, port, way.prompt)
    return (cpu_seconds(pid) - before) / way.answers * 1_000


async def _read(session: aiohttp.ClientSession, port: int, prompt: str) -> None:
    """Ask, and read to the end. Raises RuntimeError where that is no whole answer."""
    last = b""
    async with session.post(f"http://127.0.0.1:{port}/conversations/new", json={"prompt": prompt}) as response:
        async for chunk in response.content.iter_any():
            last = (last + chunk)[-40_000:]
    if response.status != 201 or not (b"event: message" in last or last.endswith(b"data: [DONE]\n\n")):
        raise RuntimeError(f"no answer: {response.status} {last[:1_000]!r}")


async def _first_word_ms(session: aiohttp.ClientSession, port: int) -> float:
    """From the moment at which the first word leaves upstream to that at which our client has it."""
    body = {"prompt": STAMPED}
    waits_ms: list[float] = []
    async with session.post(f"http://127.0.0.1:{port}/conversations/new", json=body) as response:
        is_delta = False
        async for line in response.content:  # to the end, so that nothing of it goes on beside the next one
            if is_delta and not waits_ms:
                waits_ms.append((time.monotonic_ns() - int(json.loads(line[5:])["text"].split()[0])) / 1e6)
            is_delta = line == b"event: delta\n"
    if not waits_ms:
        raise RuntimeError(f"no delta came: {response.status}")
    return waits_ms[0]


def _processor(way: Way, pairs: list[tuple[float, float]]) -> Row:
    ratios = [ours / bare for bare, ours in pairs]
    bare, ours = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    return (
        f"{EVENTS:,} events {way.name}",
        f"{ours:.0f} ms",
        f"{bare:.0f} ms passed through",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}…{max(ratios):.2f})",
    )


def _first_word(waits_ms: list[float]) -> Row:
    slowest, median = max(waits_ms), statistics.median(waits_ms)
    return (
        "first word, median / slowest",
        f"{median:.2f} / {slowest:.2f} ms",
        f"limit {FIRST_WORD_GOAL_MS:.0f} ms",
        f"{slowest / FIRST_WORD_GOAL_MS:.2f}",
    )
