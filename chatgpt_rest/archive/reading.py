# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting the process that reads an export, and what comes out of it.

It is a process of its own because an export is a stranger's file: what it does to the reader (memory, time, a crash)
stays there, and the process that has the mirror goes on answering.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, cast

import msgspec

from chatgpt_rest.archive import wire
from chatgpt_rest.config import Config
from chatgpt_rest.errors import BadRequest, MirrorError

_PACKAGES: Final = Path(__file__).parents[2]
_MODULE: Final = "chatgpt_rest.archive.reader"
_BUFFER_BYTES: Final = 2 * wire.BATCH_BYTES
_ENDS_WITHIN_SECONDS: Final = 5.0  # once it has closed its output
_LONGEST_LINE: Final = 300  # of what it writes to standard error, in characters
_KEPT_VARIABLES: Final = ("PATH", "HOME", "LANG", "LC_", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "COVERAGE_")
"""How the names begin of what it is given of the environment: no token and no key is among it."""

log = logging.getLogger(__name__)


class Glance(msgspec.Struct, frozen=True):
    """What can be told of a frame as it passes, without unpacking what it carries."""

    type: str
    done_bytes: int = 0
    conversations: list[msgspec.Raw] = []

    @property
    def is_last(self) -> bool:
        return self.type in {wire.Ended.__name__, wire.Refused.__name__}


_glance: Final[msgspec.msgpack.Decoder[Glance]] = msgspec.msgpack.Decoder(Glance)


def glance(body: bytes) -> Glance:
    """A look at a frame without its length. Raises ValueError where it is none."""
    return _glance.decode(body)


async def bodies(pipe: wire.Pipe) -> AsyncIterator[bytes]:
    """Frames without their lengths, to the one that ends them. Raises as `wire.read_frame` does."""
    while True:
        body = await wire.read_frame(pipe)
        yield body
        if glance(body).is_last:
            return


def source_of(paths: Iterable[Path], config: Config) -> wire.Source:
    """What to open, within the limits of the configuration."""
    limits = config.archive
    return wire.Source(
        paths=[str(path.absolute()) for path in paths],
        work_folder=str(config.work_folder),
        max_entries=limits.max_entries,
        max_unpacked_bytes=limits.max_unpacked_bytes,
        max_ratio=limits.max_ratio,
        max_nested=limits.max_nested,
        max_conversation_bytes=limits.max_conversation_bytes,
        max_asset_bytes=limits.max_asset_bytes,
    )


class Reader:
    """The process, which has opened its sources and waits for `go`."""

    def __init__(self, process: _Process, opened: wire.Opened, first_body: bytes) -> None:
        self.opened = opened
        self._process = process
        self._first_body = first_body

    async def go(self, account: str) -> None:
        """Have it read everything, as this account's."""
        await self._process.tell(wire.Go(account))

    async def bodies(self) -> AsyncIterator[bytes]:
        """Its frames without their lengths, `Opened` among them, to the one that ends them. Raises MirrorError where
        the process ends before.
        """
        yield self._first_body
        try:
            async for body in bodies(self._process.output):
                yield body
        except (asyncio.IncompleteReadError, ValueError):
            raise await self._process.death() from None
        await self._process.let_end()


@asynccontextmanager
async def reading(source: wire.Source) -> AsyncIterator[Reader]:
    """Start the process and have it open its sources. Raises BadRequest where it refuses them, MirrorError where it
    dies. Leaving ends it, whatever it is doing.
    """
    process = _Process(
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            _MODULE,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_BUFFER_BYTES,
            cwd=_PACKAGES,  # where Python looks first
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the one that started it, which then ends it
        )
    )
    try:
        await process.tell(source)
        try:
            body = await wire.read_frame(process.output)
            first = wire.decode(body)
        except (asyncio.IncompleteReadError, ValueError):
            raise await process.death() from None
        if isinstance(first, wire.Refused):
            raise BadRequest(first.text, code=first.code)
        if not isinstance(first, wire.Opened):
            raise MirrorError("the process that reads the export speaks another version's language")
        yield Reader(process, first, body)
    finally:
        await process.end()


class _Process:
    """The process and its three pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.output = cast(asyncio.StreamReader, process.stdout)
        self._process = process
        self._input = cast(asyncio.StreamWriter, process.stdin)
        self._complaints = asyncio.create_task(_log_complaints(cast(asyncio.StreamReader, process.stderr)))

    async def tell(self, what: wire.Source | wire.Go) -> None:
        """A line to it."""
        # One that has died is noticed by whoever reads from it.
        with contextlib.suppress(ConnectionError):
            # By names of files that are no UTF-8, Python's own writer gets across.
            self._input.write(json.dumps(msgspec.to_builtins(what)).encode() + b"\n")
            await self._input.drain()

    async def death(self) -> MirrorError:
        """What to say of its end, which nobody expected."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENDS_WITHIN_SECONDS):
                await self._process.wait()
        status = self._process.returncode
        if status is None:
            how = "sent what cannot be read"
        elif status == -signal.SIGKILL:
            how = "was killed (for want of memory, it may be)"
        else:
            how = f"ended with signal {-status}" if status < 0 else f"ended with status {status}"
        return MirrorError(f"the process that reads the export {how}", code="reading_ended")

    async def let_end(self) -> None:
        """It has said everything: let it go by itself."""
        self._input.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENDS_WITHIN_SECONDS):
                await self._drain()
                await self._process.wait()

    async def end(self) -> None:
        """Nothing of it is worth waiting for: what it has written to the disk has no name, and goes with it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._drain()
        await self._complaints
        await self._process.wait()

    async def _drain(self) -> None:
        """To the end of its output: a pipe that is full and not read would keep `wait` from ever answering."""
        while await self.output.read(_BUFFER_BYTES):
            pass


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT_VARIABLES)}
    return {**kept, "PYTHONUTF8": "1"}


async def _log_complaints(errors: asyncio.StreamReader) -> None:
    async for line in errors:
        log.warning("the reading process complains line=%r", line.decode("utf-8", "replace")[:_LONGEST_LINE])
