# SPDX-License-Identifier: GPL-2.0-or-later
"""Importing a large export: how fast it is beside SQLite alone with the same rows, how much memory it takes, and how
long readers of a server wait meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from bench.processes import ROOT, peak_memory_bytes, serving
from bench.reader import BOOKMARKS, UNDISTURBED_READS, Latencies, Reader
from bench.rows import Row, latency, memory
from tests.export_huge import ACCOUNT, Huge, write_huge

SIZE_BYTES: Final = 2_000_000_000
SHARD_BYTES: Final = 3_000_000
"""What a hundred conversations take."""
ROUNDS: Final = 2
SPEED_GOAL: Final = 0.6
MEMORY_LIMIT_BYTES: Final = 200_000_000
READ_WHILE_IMPORTING_BYTES: Final = 300_000_000
_LOOKS_EVERY_SECONDS: Final = 0.05


@dataclass(frozen=True)
class Cost:
    """What an import took. Memory is what each process had at most, together."""

    seconds: float
    peak_memory_bytes: int


async def measure(folder: Path, report: Callable[[str], object], *, size_bytes: int = SIZE_BYTES) -> list[Row]:
    """Rows of what was measured, its figure, what it stands beside, and their ratio. `report` hears what goes on."""
    one, many, small = (folder / f"{name}.zip" for name in ("one-file", "shards", "small"))
    report("writing exports")
    huge = write_huge(one, size_bytes)
    sharded = write_huge(many, size_bytes, shard_bytes=SHARD_BYTES)
    imports: list[Cost] = []
    plain: list[float] = []
    for number in range(1, ROUNDS + 1):
        report(f"importing {size_bytes / 1e6:,.0f} MB ({number} of {ROUNDS})")
        mirror = folder / f"mirror-{number}"
        imports.append(await asyncio.to_thread(_import, one, mirror))
        report(f"putting its rows into SQLite alone ({number} of {ROUNDS})")
        plain.append(await asyncio.to_thread(_insert_plainly, mirror / "mirror.sqlite", folder / "plain.sqlite"))
        _remove(mirror.iterdir())
    report("importing shards")
    shards = await asyncio.to_thread(_import, many, folder / "mirror-shards")
    _remove((folder / "mirror-shards").iterdir())
    _remove((one, many))
    write_huge(small, min(size_bytes, READ_WHILE_IMPORTING_BYTES), seed=1)
    report("reading while a server imports")
    disturbed, undisturbed = await _read_while_importing(folder, small)
    peak = max(each.peak_memory_bytes for each in [*imports, shards])
    return [
        _speed(huge, imports, plain),
        memory("peak memory of both processes", peak, limit_bytes=MEMORY_LIMIT_BYTES),
        _shards(huge, imports, sharded, shards),
        *(latency(kind, disturbed[kind], undisturbed[kind], beside="no import") for kind in undisturbed),
    ]


def _import(archive: Path, folder: Path) -> Cost:
    """The command, on all cores, from its start to its end."""
    folder.mkdir()
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "server.py"), "import", str(archive), "--json"],
        env={**os.environ, "CHATGPT_REST_MIRROR__PATH": str(folder / "mirror.sqlite")},
        stdout=subprocess.DEVNULL,
    )
    os.sched_setaffinity(process.pid, range(os.cpu_count() or 1))
    peaks: dict[int, int] = {}
    while process.poll() is None:
        for pid in (process.pid, *_children(process.pid)):
            with suppress(OSError, IndexError):  # it has ended
                peaks[pid] = peak_memory_bytes(pid)
        time.sleep(_LOOKS_EVERY_SECONDS)
    if process.returncode != 0:
        raise RuntimeError(f"the import ended with status {process.returncode}")
    return Cost(time.perf_counter() - began, sum(peaks.values()))


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return []


def _insert_plainly(mirror: Path, file: Path) -> float:
    arguments = [sys.executable, "-m", "bench.plain_insert", str(mirror), str(file)]
    seconds = float(subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    _remove((file,))
    return seconds


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        if file.is_file():
            file.unlink()


async def _read_while_importing(folder: Path, archive: Path) -> tuple[Latencies, Latencies]:
    """What reads took while the server took in an export, and what they took afterwards."""
    home = folder / "served"
    first = folder / "first.zip"
    write_huge(first, BOOKMARKS * 30_000, seed=2)
    await asyncio.to_thread(_import, first, home)
    environ = {**os.environ, "CHATGPT_REST_MIRROR__PATH": str(home / "mirror.sqlite")}
    with serving(home, "http://127.0.0.1:9/") as (port, _):
        key = await _output("key", "create", "bench", "--account", ACCOUNT, environ=environ)
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key.strip()}"}) as session:
            reader = Reader(f"http://127.0.0.1:{port}", session)
            importing = asyncio.create_task(_output("import", str(archive), "--json", environ=environ))
            disturbed = await reader.read_while(lambda _: not importing.done())
            await importing
            undisturbed = await reader.read_while(lambda number: number < UNDISTURBED_READS)
    return disturbed, undisturbed


async def _output(*arguments: str, environ: Mapping[str, str]) -> str:
    """What a command of the program prints. Raises RuntimeError where it fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "server.py"),
        *arguments,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, words = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"server.py {arguments[0]} ended with status {process.returncode}: {words.decode()}")
    return out.decode()


def _speed(huge: Huge, imports: list[Cost], plain: list[float]) -> Row:
    ratios = [bare / ours.seconds for ours, bare in zip(imports, plain, strict=True)]
    ours, bare = (
        huge.json_bytes / statistics.median(seconds) / 1e6 for seconds in ([each.seconds for each in imports], plain)
    )
    return (
        f"MB a second, of {huge.json_bytes / 1e6:,.0f} MB in one file",
        f"{ours:.0f}",
        f"{bare:.0f} SQLite alone, the same rows",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}…{max(ratios):.2f}; goal {SPEED_GOAL})",
    )


def _shards(huge: Huge, imports: list[Cost], sharded: Huge, shards: Cost) -> Row:
    one = huge.json_bytes / statistics.median(each.seconds for each in imports) / 1e6
    many = sharded.json_bytes / shards.seconds / 1e6
    return (
        f"MB a second, in shards of {SHARD_BYTES / 1e6:.0f} MB",
        f"{many:.0f}",
        f"{one:.0f} in one file",
        f"{many / one:.2f}",
    )
