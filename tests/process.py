# SPDX-License-Identifier: GPL-2.0-or-later
"""The program as people run it: `server.py` as a process of its own, with a home that does not exist and a folder to
start in that it cannot write to.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.preloaded import Forked, Preloaded

CHECKOUT: Final = Path(__file__).parents[1]
PATIENCE_SECONDS: Final = 30.0

_LISTENING: Final = re.compile(r"listening address=(\S+)")


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    status: int
    out: str
    err: str


@dataclass
class Running:
    """A process that goes on. `lines` is what it has written so far, both streams in the order they came."""

    process: asyncio.subprocess.Process | Forked
    lines: list[str] = field(default_factory=list)
    _has_written: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def text(self) -> str:
        return "".join(self.lines)

    async def until(self, pattern: str | re.Pattern[str]) -> re.Match[str]:
        """Wait for this to be written."""

        def found() -> re.Match[str] | None:
            return re.search(pattern, self.text)

        async with asyncio.timeout(PATIENCE_SECONDS), self._has_written:
            await self._has_written.wait_for(lambda: found() or self._has_ended())
        match = found()
        assert match is not None, f"{pattern!r} was never written:\n{self.text}"
        return match

    async def address(self) -> str:
        """Where the server listens, once it does."""
        return str((await self.until(_LISTENING))[1])

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def end(self, number: signal.Signals | None = None) -> int:
        """Wait for the end, having sent a signal or not; gives the status, negative for a signal that killed it."""
        if number is not None:
            self.send(number)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.process.wait()

    async def read(self) -> None:
        """Collect what is written, to the end."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            async with self._has_written:
                self.lines.append(line.decode("utf-8", "replace"))
                self._has_written.notify_all()
        async with self._has_written:
            self._has_written.notify_all()

    def _has_ended(self) -> bool:
        return self.process.stdout is not None and self.process.stdout.at_eof()


def environment(folder: Path, base_url: str, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """All that a process of ours needs to know: a mirror in `folder` and a simulated ChatGPT at `base_url`. It goes
    there only when it is told to, so that requests can be counted; `environ` may turn sync on.
    """
    return {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "CHATGPT_REST_SERVER__PORT": "0",
        "CHATGPT_REST_MIRROR__PATH": str(folder / "mirror.sqlite"),
        "CHATGPT_REST_UPSTREAM__BASE_URL": base_url,
        "CHATGPT_REST_SYNC__ENABLED": "false",
        **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
        **(environ or {}),
    }


async def command(
    *arguments: str, environ: Mapping[str, str], stdin: str = "", python: tuple[str, ...] = ("-W", "error")
) -> Finished:
    """Run a command of `server.py` to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *python,
        str(CHECKOUT / "server.py"),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd="/",
        env=environ,
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            out, err = await process.communicate(stdin.encode("utf-8", "surrogateescape"))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def started(
    *arguments: str,
    environ: Mapping[str, str],
    python: tuple[str, ...] = ("-W", "error"),
    under: tuple[str, ...] = (),
    cwd: str = "/",
) -> AsyncIterator[Running]:
    """Start `server.py` with a command that goes on, `under` another program; leaving kills what is left of it."""
    process = await asyncio.create_subprocess_exec(
        *under,
        sys.executable,
        *python,
        str(CHECKOUT / "server.py"),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=cwd,
        env={"PYTHONUNBUFFERED": "1", **environ},
    )
    async with _kept(Running(process)) as running:
        yield running


@asynccontextmanager
async def forked(preloaded: Preloaded, *, environ: Mapping[str, str]) -> AsyncIterator[Running]:
    """The same, of the server alone, in a tenth of the time."""
    async with _kept(Running(await preloaded.fork(environ))) as running:
        yield running


@asynccontextmanager
async def _kept(running: Running) -> AsyncIterator[Running]:
    reading = asyncio.create_task(running.read())
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.process.kill()
        await running.process.wait()
        await reading
