# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams over time, on an event loop whose clock is moved by hand: silence is filled, who stalls is dropped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from aiohttp import web

from chatgpt_rest.api.streams import follow
from chatgpt_rest.listener import listening
from chatgpt_rest.live import LiveAsk
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.disks import unreadable
from tests.house import Client, House, ManualClock, make_config, open_house
from tests.loops import ManualLoop, run_by_hand

READERS: Final = 200
PROMPT: Final = "Everything [[words:60000]]"  # 360 kB: more than the kernel takes for one that does not read
JUST_OVER: Final = 1.0
READER_TAKES_BYTES: Final = 60_000  # without reading, at the least: the rest is filled with comments …
MOST_COMMENTS: Final = 10_000  # … of which it takes fewer than these
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


def asking(
    client: Client, prompt: str, path: str = "/conversations/new"
) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """A new conversation, streamed, by either protocol."""
    headers = {"Authorization": client.authorization or ""}
    asked = {"prompt": prompt, "messages": [{"role": "user", "content": prompt}], "stream": True}
    return client.session.post(client.address + path, json=asked, headers=headers)


async def connected(address: str, path: str, authorization: str | None = None) -> socket.socket:
    """A client that sent a request and reads nothing of the answer; it takes little before it is full."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.setblocking(False)
    await loop().sock_connect(reader, (host, int(port)))
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {authorization}\r\n\r\n"
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
                address, authorization = house.client.address, house.client.authorization
                stalled = [await connected(address, path, authorization) for _ in range(READERS)]
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


def test_a_reader_that_stalls_in_a_silence_is_dropped_as_any_other(tmp_path: Path) -> None:
    """Where it is a comment that a reader does not take, the deadline is the same."""

    async def scenario() -> None:
        connections: asyncio.Queue[asyncio.Transport | None] = asyncio.Queue()
        going_on = asyncio.Event()

        async def frames() -> AsyncGenerator[bytes]:
            yield bytes(READER_TAKES_BYTES)
            await going_on.wait()

        async def answer(request: web.Request) -> web.StreamResponse:
            connections.put_nowait(request.transport)
            live = LiveAsk(conversation_id="c1", request_digest=b"")
            live.show("m1", "Hi.")
            return await follow(request, live, frames())

        app = web.Application()
        app.router.add_get("/", answer)
        async with listening(app, make_config(tmp_path, "http://127.0.0.1:9/backend-api/").server) as listener:
            with contextlib.closing(await connected(listener.address, "/")) as reader:
                await has_answer(reader)
                connection = await connections.get()
                assert connection is not None
                assert connection.get_write_buffer_size() == 0
                for _ in range(MOST_COMMENTS):
                    await loop().move(KEEP_ALIVE_SECONDS + JUST_OVER)
                    if connection.get_write_buffer_size() > 0:
                        break
                await loop().move(DEADLINE_SECONDS / 2 + JUST_OVER)
                await loop().move(DEADLINE_SECONDS / 2 + JUST_OVER)
                assert connection.is_closing()
            going_on.set()

    run_by_hand(scenario())


@pytest.mark.parametrize("path", ["/conversations/new", "/v1/chat/completions"])
def test_an_error_that_cannot_be_told_is_one_of_ours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    """A limit met after the first comment, when the mirror cannot say what is left: an error in the stream's own shape
    is the last that comes, and no second response follows in the body.
    """

    async def scenario() -> None:
        async with house_by_hand(tmp_path) as house:
            await house.client.get("/conversations")
            limit = house.chatgpt.fault("conversation", hold=True, error="hourly_limit")
            asked = asyncio.ensure_future(asking(house.client, "Hello?", path).__aenter__())
            await limit.until_held()
            await loop().move(KEEP_ALIVE_SECONDS + JUST_OVER)
            response = await asked
            async with unreadable(house):
                limit.release()
                async with asyncio.timeout(10):
                    *_, comment, event, rest = (await response.content.read()).split(b"\n\n")
            assert (comment, rest) == (b": keep-alive", b"")
            error = json.loads(event.partition(b"data: ")[2])
            assert (error["error"] if path.startswith("/v1/") else error)["code"] == "internal"
            response.close()

    run_by_hand(scenario())
    assert "an ask failed in mid-answer" in caplog.text
