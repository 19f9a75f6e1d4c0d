# SPDX-License-Identifier: GPL-2.0-or-later
"""`server.py` as a process that is there at once: forked from one that has loaded the libraries already.

Each is a process of its own like any other, with its own environment, arguments and streams; only how long it takes to
start, and what it loads when, are nothing that it can tell. Importing was most of what hundreds of processes did here.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, cast

_CHECKOUT: Final = Path(__file__).parents[1]
_LONGEST_BYTES: Final = 100_000  # of what is asked for: arguments and an environment
_STREAMS: Final = 3
_LIBRARIES: Final = (
    *("aiohttp.web", "aiosqlite", "jinja2", "msgspec", "rich.console", "rich.progress", "typer", "typer.rich_utils"),
    *("uvloop", "httpx", "revChatGPT.V1"),
)
_OURS: Final = ("chatgpt_rest.app", "chatgpt_rest.launch", "chatgpt_rest.upstream.chatbot")


class Forked:
    """What `asyncio.subprocess.Process` would tell of a process that another one has started."""

    def __init__(self, pid: int, stdout: asyncio.StreamReader, status: asyncio.StreamReader) -> None:
        self.pid = pid
        self.stdout = stdout
        self._end = asyncio.create_task(_read_end(status))

    @property
    def returncode(self) -> int | None:
        return self._end.result() if self._end.done() else None

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Its status, negative for a signal that killed it."""
        return await asyncio.shield(self._end)


async def fork(
    *arguments: str, environ: Mapping[str, str], stdin: int, stderr: int | None = None, is_whole: bool = False
) -> Forked:
    """Run `server.py` in this environment. With no `stderr` both its streams are read as one. Where everything of ours
    is loaded, too (`is_whole`), it is there soonest, but its coverage is not whole.
    """
    stdout, theirs = os.pipe()
    status, told = os.pipe()
    try:
        asked = json.dumps({"arguments": arguments, "environ": dict(environ)}).encode()
        socket.send_fds(
            _parent(is_whole=is_whole), [asked], [stdin, theirs, theirs if stderr is None else stderr, told]
        )
    finally:
        os.close(theirs)
        os.close(told)
    reader = await read_pipe(status)
    return Forked(await _read_number(reader), await read_pipe(stdout), reader)


async def read_pipe(descriptor: int) -> asyncio.StreamReader:
    """What comes out of this end of a pipe, which is closed with its last byte."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
    )
    return reader


async def _read_number(reader: asyncio.StreamReader) -> int:
    return int(await reader.readline())


async def _read_end(reader: asyncio.StreamReader) -> int:
    status = await _read_number(reader)
    await reader.read()  # nothing, and with that the pipe is closed
    return status


@cache
def _parent(*, is_whole: bool) -> socket.socket:
    """The connection to the process that forks, one for all tests; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", __file__, str(theirs.fileno()), *(["whole"] if is_whole else [])],
            stdin=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
            pass_fds=(theirs.fileno(),),
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# ---------------------------------------------------------------------------------------------------- the other side


def _fork_on_demand(control: socket.socket) -> list[str]:
    """Ends with the one who asks, and returns in each fork: the arguments of what it then becomes."""
    gc.freeze()
    with selectors.DefaultSelector() as ready:
        ready.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is not control:
                    ready.unregister(key.fd)
                    os.close(key.fd)
                    pid, told = key.data
                    _tell(told, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                    os.close(told)
                    continue
                message, descriptors, _, _ = socket.recv_fds(control, _LONGEST_BYTES, _STREAMS + 1)
                if not message:
                    sys.exit()
                if (pid := os.fork()) == 0:
                    others = [each.data[1] for each in ready.get_map().values() if each.data] + [
                        each.fd for each in ready.get_map().values()
                    ]
                    control.detach()
                    return _become(json.loads(message), descriptors, others)
                for descriptor in descriptors[:_STREAMS]:
                    os.close(descriptor)
                _tell(descriptors[_STREAMS], pid)
                ready.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, descriptors[_STREAMS]))


def _tell(descriptor: int, number: int) -> None:
    with suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(descriptor, f"{number}\n".encode())


def _become(asked: dict[str, Any], descriptors: list[int], others: list[int]) -> list[str]:
    for stream in range(_STREAMS):
        os.dup2(descriptors[stream], stream)
    for descriptor in {*descriptors, *others}:
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(asked["environ"])
    time.tzset()
    if any(name.startswith("COVERAGE_PROCESS_") for name in os.environ):
        coverage.process_startup()
    return [str(argument) for argument in asked["arguments"]]


if __name__ == "__main__":
    import coverage

    sys.path[0] = str(_CHECKOUT)
    for name in (*_LIBRARIES, *(_OURS if "whole" in sys.argv else ())):
        import_module(name)
    sys.argv = ["server.py", *_fork_on_demand(socket.socket(fileno=int(sys.argv[1])))]
    cast(TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)  # as PYTHONUNBUFFERED would have it
    from chatgpt_rest.cli import main

    main()
