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
from tempfile import TemporaryFile
from typing import Final

from tests.preloaded import Forked, fork, read_pipe

CHECKOUT: Final = Path(__file__).parents[1]
PATIENCE_SECONDS: Final = 30.0

_STRICT: Final = ("-W", "error")
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
    *arguments: str, environ: Mapping[str, str], stdin: str = "", python: tuple[str, ...] | None = None
) -> Finished:
    """Run a command of `server.py` to its end. It is forked from a process that has loaded the libraries, unless its
    interpreter is to be another.
    """
    if python is None and _can_fork(environ):
        return await _forked_command(arguments, environ, stdin.encode("utf-8", "surrogateescape"))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(_STRICT if python is None else python),
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
    python: tuple[str, ...] | None = None,
    under: tuple[str, ...] = (),
    cwd: str = "/",
    is_whole: bool = False,
) -> AsyncIterator[Running]:
    """Start `server.py` with a command that goes on, `under` another program; leaving kills what is left of it. It is
    forked as above; with `is_whole` from a process that has loaded the server, too.
    """
    process: asyncio.subprocess.Process | Forked
    if python is None and not under and cwd == "/" and _can_fork(environ):
        with Path(os.devnull).open("rb") as nothing:  # noqa: ASYNC230 - no file
            process = await fork(*arguments, environ=environ, stdin=nothing.fileno(), is_whole=is_whole)
    else:
        process = await asyncio.create_subprocess_exec(
            *under,
            sys.executable,
            *(_STRICT if python is None else python),
            str(CHECKOUT / "server.py"),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=cwd,
            env={"PYTHONUNBUFFERED": "1", **environ},
        )
    running = Running(process)
    reading = asyncio.create_task(running.read())
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading


def _can_fork(environ: Mapping[str, str]) -> bool:
    """Whether nothing in it is read as early as the interpreter starts."""
    return not any(name.startswith(("PYTHON", "LC_", "LANG")) for name in environ)


async def _forked_command(arguments: tuple[str, ...], environ: Mapping[str, str], stdin: bytes) -> Finished:
    with TemporaryFile() as said:
        said.write(stdin)
        said.seek(0)
        readable, writable = os.pipe()
        try:
            process = await fork(*arguments, environ=environ, stdin=said.fileno(), stderr=writable)
        finally:
            os.close(writable)
    errors = await read_pipe(readable)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            out, err = await asyncio.gather(process.stdout.read(), errors.read())
            status = await process.wait()
    finally:
        process.kill()
        await process.wait()
    return Finished(status, out.decode(), err.decode())
