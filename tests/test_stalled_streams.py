# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams over time, on an event loop whose clock is moved by hand: silence is filled, who stalls is dropped."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp

from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import Client, House, ManualClock, open_house
from tests.loops import ManualLoop, run_by_hand

READERS: Final = 200
PROMPT: Final = "Everything [[words:60000]]"  # 360 kB: more than the kernel takes for one that does not read
JUST_OVER: Final = 1.0
KEEP_ALIVE_SECONDS: Final = 15.0
DEADLINE_SECONDS: Final = 30.0


@asynccontextmanager
async def house_by_hand(folder: Path) -> AsyncIterator[House]:
    """A server whose loop's clock the test moves."""
    chatgpt = SimulatedChatGPT(conversations=False)
    async with chatgpt.serving() as base_url, open_house(folder, chatgpt, base_url, ManualClock()) as house:
        yield house


def loop() -> ManualLoop:
    """The loop that runs."""
    running = asyncio.get_running_loop()
    assert isinstance(running, ManualLoop)
    return running


def asking(client: Client, prompt: str) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """A new conversation, streamed."""
    headers = {"Authorization": client.authorization or "", "Accept": "text/event-stream"}
    return client.session.post(f"{client.address}/conversations/new", json={"prompt": prompt}, headers=headers)


async def connected(client: Client, path: str) -> socket.socket:
    """A client that sent a request and reads nothing of the answer; it takes little before it is full."""
    host, _, port = client.address.removeprefix("http://").rpartition(":")
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.setblocking(False)
    await loop().sock_connect(reader, (host, int(port)))
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {client.authorization}\r\n\r\n"
    await loop().sock_sendall(reader, request.encode())
    return reader


async def has_answer(reader: socket.socket) -> None:
    """Wait until something of the answer is there."""
    while True:
        with contextlib.suppress(BlockingIOError):
            if reader.recv(1, socket.MSG_PEEK):
                return
        await asyncio.sleep(0)


async def read_to_end(reader: socket.socket) -> tuple[bytes, bool]:
    """All that was sent, and whether the connection was cut off after it."""
    taken = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := await loop().sock_recv(reader, 65_536):
            taken += piece
        return taken, False
    return taken, True


async def settle() -> None:
    """Let everything that can go on do so."""
    for _ in range(200):
        await asyncio.sleep(0)


def test_readers_that_stall_are_dropped_and_nobody_else_is(tmp_path: Path) -> None:
    """Two hundred stop reading in mid-answer: each is cut off at the deadline, while others read and are answered."""

    async def scenario() -> None:
        async with house_by_hand(tmp_path) as house:
            fault = house.chatgpt.fault("conversation", hold_after_events=39)
            async with asking(house.client, PROMPT) as healthy:
                first = await healthy.content.readany()
                conversation_id = healthy.headers["X-Conversation-Id"]
                path = f"/conversations/{conversation_id}/stream"
                stalled = [await connected(house.client, path) for _ in range(READERS)]
                for reader in stalled:
                    await has_answer(reader)
                await settle()
                assert (await house.client.get(f"/conversations/{conversation_id}/messages")).status == 200
                await loop().move(DEADLINE_SECONDS / 2 + JUST_OVER)
                await loop().move(DEADLINE_SECONDS / 2 + JUST_OVER)
                await settle()
                async with asyncio.timeout(20):
                    ends = [await read_to_end(reader) for reader in stalled]
                fault.release()
                rest = await healthy.content.read()
            for reader in stalled:
                reader.close()
            assert b"event: message" in first + rest
            assert all(was_cut or b"event: message" not in taken for taken, was_cut in ends)
            assert max(len(taken) for taken, _ in ends) < 300_000
            assert house.chatgpt.received("POST", "conversation") == 1

    run_by_hand(scenario())


def test_a_silence_is_filled_with_comments(tmp_path: Path) -> None:
    """Before the first word and in the middle, a client hears something every 15 seconds, and then the answer."""

    async def scenario() -> None:
        async with house_by_hand(tmp_path) as house:
            await house.client.get("/conversations")
            before = house.chatgpt.fault("conversation", hold_after_events=0)
            asked = asyncio.ensure_future(asking(house.client, "Hello?").__aenter__())
            await before.until_held()
            await settle()
            assert not asked.done()
            await loop().move(KEEP_ALIVE_SECONDS + JUST_OVER)
            response = await asked
            assert (response.status, await response.content.readline()) == (201, b": keep-alive\n")
            await loop().move(KEEP_ALIVE_SECONDS + JUST_OVER)
            assert await response.content.readexactly(1) == b"\n"
            assert await response.content.readline() == b": keep-alive\n"
            before.release()
            assert b"event: message" in await response.content.read()
            response.close()

    run_by_hand(scenario())
