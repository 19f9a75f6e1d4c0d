# SPDX-License-Identifier: GPL-2.0-or-later
"""What readers of an answer cost that stop reading: memory of the server, and when the last of them is gone."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aiohttp

from bench.processes import memory_bytes, serving
from chatgpt_rest.upstream.simulated import SimulatedChatGPT

READERS: Final = 200
PROMPT: Final = "Everything [[words:60000]]"  # 360 kB
LIMIT_SECONDS: Final = 60.0


async def measure(folder: Path, say: Callable[[str], None]) -> list[tuple[str, ...]]:
    """Two hundred readers that stall in an answer of 360 kB: one row for memory, one for the deadline."""
    chatgpt = SimulatedChatGPT(conversations=False)
    async with chatgpt.serving() as base_url, aiohttp.ClientSession() as session:
        with serving(folder, base_url) as (port, pid):
            fault = chatgpt.fault("conversation", hold_after_events=39)
            headers = {"Authorization": chatgpt.alice.token(), "Accept": "text/event-stream"}
            url = f"http://127.0.0.1:{port}/conversations"
            async with session.post(f"{url}/new", json={"prompt": PROMPT}, headers=headers) as response:
                await response.content.readany()
                path = f"/conversations/{response.headers['X-Conversation-Id']}/stream"
                await asyncio.sleep(2)  # let the mirror write what came
                before = memory_bytes(pid)  # with one reader, and the whole answer in memory
                say(f"{READERS} readers that stall")
                began = time.monotonic()
                readers = [await _join(port, path, headers["Authorization"]) for _ in range(READERS)]
                await asyncio.sleep(5)
                grown = memory_bytes(pid) - before
                try:
                    await asyncio.wait_for(asyncio.gather(*map(_until_dropped, readers)), LIMIT_SECONDS)
                finally:
                    fault.release()
                dropped = time.monotonic() - began
                await response.content.read()
    return [
        (
            f"memory of {READERS} readers that stall",
            f"{grown / 1e6:.1f} MB",
            "",
            f"{grown / READERS / 1e3:.0f} kB each",
        ),
        (f"until all {READERS} are dropped", f"{dropped:.0f} s", "30 s", f"{dropped / 30:.2f}"),
    ]


async def _join(port: int, path: str, token: str) -> socket.socket:
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.settimeout(0)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(reader, ("127.0.0.1", port))
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {token}\r\n\r\n"
    await loop.sock_sendall(reader, request.encode())
    return reader


async def _until_dropped(reader: socket.socket) -> None:
    """Wait, without reading, until the connection is reset."""
    with reader:
        while True:
            await asyncio.sleep(0.5)
            if reader.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return
