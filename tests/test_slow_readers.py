# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients that take their time with an answer, on an event loop whose clock is moved by hand."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web

from chatgpt_rest.listener import listening
from tests.house import make_config
from tests.loops import ManualLoop, run_by_hand

BODY_BYTES: Final = 32 * 1024 * 1024  # more than the kernel takes for a client that does not read
LOOK_SECONDS: Final = 16.0  # a little more than the server waits before it looks at a client again
GET: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass
class Slow:
    """A client that was sent a large answer and has read nothing of it, and the server's end of its connection."""

    loop: ManualLoop
    client: socket.socket
    transport: asyncio.Transport

    async def until_stuck(self) -> None:
        """Wait until the kernel takes no more from the server."""
        async with asyncio.timeout(10):
            left = -1
            while left != (left := self.transport.get_write_buffer_size()) or left == 0:
                for _ in range(20):
                    await asyncio.sleep(0)

    async def read(self, size_bytes: int) -> int:
        """Take so much of the answer, or all that there is before the connection ends; how much that was."""
        taken = 0
        while taken < size_bytes and (piece := await self.loop.sock_recv(self.client, 1024 * 1024)):
            taken += len(piece)
        return taken


@asynccontextmanager
async def slow_client(folder: Path) -> AsyncIterator[Slow]:
    """A connection on which the server has a large answer to give."""
    asked: asyncio.Queue[asyncio.Transport | None] = asyncio.Queue()

    async def large(request: web.Request) -> web.Response:
        asked.put_nowait(request.protocol.transport)
        return web.Response(body=bytes(BODY_BYTES))

    app = web.Application()
    app.router.add_get("/", large)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ManualLoop)
    async with listening(app, make_config(folder, "http://127.0.0.1:9/backend-api/").server) as listener:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", int(listener.address.rpartition(":")[2])))
            await loop.sock_sendall(client, GET)
            async with asyncio.timeout(10):
                transport = await asked.get()
            assert transport is not None
            slow = Slow(loop, client, transport)
            await slow.until_stuck()
            yield slow


def test_a_client_that_stops_reading_is_cut_off(tmp_path: Path) -> None:
    """One that takes nothing between two looks is gone, though its end of the connection is open."""

    async def scenario() -> None:
        async with slow_client(tmp_path) as slow:
            await slow.loop.move(LOOK_SECONDS)
            assert not slow.transport.is_closing()
            await slow.loop.move(LOOK_SECONDS)
            assert slow.transport.is_closing()
            with pytest.raises(ConnectionResetError):  # nor does the kernel keep what it has for this client
                await slow.read(2 * BODY_BYTES)

    run_by_hand(scenario())


def test_a_client_that_reads_slowly_gets_everything(tmp_path: Path) -> None:
    """However long it takes: between two looks it took something."""

    async def scenario() -> None:
        async with slow_client(tmp_path) as slow:
            taken = 0
            for _ in range(4):
                taken += await slow.read(3 * 1024 * 1024)
                await slow.until_stuck()
                await slow.loop.move(LOOK_SECONDS)
            assert not slow.transport.is_closing()
            assert taken + await slow.read(BODY_BYTES - taken) >= BODY_BYTES

    run_by_hand(scenario())


def test_a_client_that_goes_on_reading_is_forgiven(tmp_path: Path) -> None:
    """What was once a stalled client and has read all is not cut off for it later, in its next request."""

    async def scenario() -> None:
        async with slow_client(tmp_path) as slow:
            await slow.loop.move(LOOK_SECONDS)
            await slow.read(BODY_BYTES)
            await slow.loop.sock_sendall(slow.client, GET)
            await slow.until_stuck()
            await slow.loop.move(LOOK_SECONDS)
            assert not slow.transport.is_closing()
            assert await slow.read(BODY_BYTES) >= BODY_BYTES

    run_by_hand(scenario())
