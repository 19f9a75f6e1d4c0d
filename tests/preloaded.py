# SPDX-License-Identifier: GPL-2.0-or-later
"""`server.py` as a process that is there at once: forked from one that has imported the program already.

For suites that kill it dozens of times. Each is a process of its own like any other; only what is imported when is
nothing that they can tell.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

_LONGEST_BYTES: Final = 65_536  # of a message between the two


class Forked:
    """What `asyncio.subprocess.Process` would tell of a process that another one has started."""

    def __init__(self, pid: int, stdout: asyncio.StreamReader, control: socket.socket) -> None:
        self.pid = pid
        self.stdout = stdout
        self._control = control
        self._end: asyncio.Task[int] | None = None

    @property
    def returncode(self) -> int | None:
        return self._end.result() if self._end is not None and self._end.done() else None

    def send_signal(self, number: int) -> None:
        # Its number is nobody else's until its parent has been told to wait for it.
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Its status, negative for a signal that killed it."""
        if self._end is None:
            self._end = asyncio.create_task(_ask(self._control, {"wait": self.pid}))
        return await asyncio.shield(self._end)


class Preloaded:
    """The process that others are forked from, one after the other: it waits for one that is to end."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    async def fork(self, environ: Mapping[str, str]) -> Forked:
        """Run `server.py` in this environment. Both its streams are read as one."""
        readable, writable = os.pipe()
        try:
            pid = await _ask(self._control, {"environ": dict(environ)}, writable)
        finally:
            os.close(writable)
        stdout = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stdout), os.fdopen(readable, "rb")
        )
        return Forked(pid, stdout, self._control)


@asynccontextmanager
async def preloaded() -> AsyncIterator[Preloaded]:
    """Import the program once, for any number of forks. Leaving ends it; its forks have been ended by then."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.setblocking(False)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "error", __file__, str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.environ["PATH"]},
                pass_fds=(theirs.fileno(),),
            )
        try:
            yield Preloaded(ours)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _ask(control: socket.socket, asked: object, *descriptors: int) -> int:
    socket.send_fds(control, [json.dumps(asked).encode()], descriptors)
    return int(await asyncio.get_running_loop().sock_recv(control, _LONGEST_BYTES))


def _fork_on_demand(control: socket.socket) -> None:
    """The other side: returns in each fork, which then becomes the program, and ends with the one who asks."""
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, _LONGEST_BYTES, 1)
        if not message:
            sys.exit()
        asked = json.loads(message)
        if "wait" in asked:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
        elif (answer := os.fork()) == 0:
            control.close()
            for stream in (1, 2):
                os.dup2(descriptors[0], stream)
            os.close(descriptors[0])
            os.environ.clear()
            os.environ.update(asked["environ"])
            return
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(str(answer).encode())


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    import uvloop  # noqa: F401

    from chatgpt_rest import app  # noqa: F401
    from chatgpt_rest.cli import main
    from chatgpt_rest.upstream import chatbot  # noqa: F401

    _fork_on_demand(socket.socket(fileno=int(sys.argv.pop())))
    main()
