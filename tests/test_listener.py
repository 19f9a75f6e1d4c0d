# SPDX-License-Identifier: GPL-2.0-or-later
"""The listener against what no client should send: nothing of it comes back, and nothing of it is logged."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from chatgpt_rest.errors import StartError
from chatgpt_rest.listener import listening
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import Answered, Client, House, ManualClock, open_house, speak

CANARY: Final = b"canary-7f3a"
HEAD: Final = b"GET /conversations HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


def post(headers: bytes, body: bytes) -> bytes:
    """A request with these further headers and this body."""
    return b"POST /conversations/new HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + headers + b"\r\n" + body


MALFORMED: Final = {
    "NUL in Authorization": HEAD + b"Authorization: canary-7f3a\x00x\r\n\r\n",
    "CR in Authorization": HEAD + b"Authorization: canary-7f3a\rx\r\n\r\n",
    "LF in Authorization": HEAD + b"Authorization: canary-7f3a\nx\r\n\r\n",
    "folded Authorization": HEAD + b"Authorization: Bearer\r\n canary-7f3a\r\n\r\n",
    "control character": HEAD + b"Authorization: canary-7f3a\x01\x7f\r\n\r\n",
    "Authorization of 9 kB": HEAD + b"Authorization: canary-7f3a" + b"x" * 9000 + b"\r\n\r\n",
    "Authorization of 1 MB": HEAD + b"Authorization: canary-7f3a" + b"x" * 1_000_000 + b"\r\n\r\n",
    "no colon": HEAD + b"Authorization canary-7f3a\r\n\r\n",
    "space before the colon": HEAD + b"Authorization : canary-7f3a\r\n\r\n",
    "no name": HEAD + b": canary-7f3a\r\n\r\n",
    "bytes in a name": HEAD + b"canary-7f3a\xff: x\r\n\r\n",
    "a long name": HEAD + b"canary-7f3a" * 1000 + b": x\r\n\r\n",
    "a thousand headers": HEAD + b"".join(b"X-%d: canary-7f3a\r\n" % number for number in range(1000)) + b"\r\n",
    "no version": b"GET /canary-7f3a\r\n\r\n",
    "another version": b"GET /canary-7f3a HTTP/9.9\r\n\r\n",
    "another protocol": b"canary-7f3a SSH-2.0\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03canary-7f3a\r\n\r\n",
    "a long target": b"GET /canary-7f3a" + b"x" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a space in the target": b"GET /canary-7f3a x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "two lengths": post(b"Content-Length: 1\r\nContent-Length: 2\r\n", b"canary-7f3a"),
    "a negative length": post(b"Content-Length: -1\r\n", b"canary-7f3a"),
    "a length that is none": post(b"Content-Length: canary-7f3a\r\n", b""),
    "length and chunks": post(b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", b"canary-7f3a"),
    "an unknown transfer": post(b"Transfer-Encoding: canary-7f3a\r\n", b"x"),
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: canary-7f3a\r\nConnection: close\r\n\r\n",
    "a host with a path": b"GET /healthz HTTP/1.1\r\nHost: localhost/canary-7f3a\r\nConnection: close\r\n\r\n",
    "a host of bytes": b"GET /healthz HTTP/1.1\r\nHost: canary-7f3a\xff\r\nConnection: close\r\n\r\n",
    "Expect": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nExpect: canary-7f3a\r\nConnection: close\r\n\r\n",
    "Expect nowhere": b"GET /x HTTP/1.1\r\nHost: localhost\r\nExpect: canary-7f3a\r\nConnection: close\r\n\r\n",
    "an unknown method": b"CANARY-7F3A /budget HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "CONNECT": b"CONNECT canary-7f3a:443 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "OPTIONS *": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nX: canary-7f3a\r\nConnection: close\r\n\r\n",
    "a broken target": b"GET http://[canary-7f3a/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
}
"""Requests that are answered by a 4xx."""


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_request(client: Client, caplog: pytest.LogCaptureFixture, request_bytes: bytes) -> None:
    """It is a 4xx in JSON with a code, which repeats nothing, and no line of the log does either."""
    with caplog.at_level(logging.INFO):
        refused = await speak(client.address, request_bytes)
    check_silent(refused, caplog)
    assert refused.status in {400, 401, 404, 405, 417, 421}


def check_silent(refused: Answered, caplog: pytest.LogCaptureFixture) -> None:
    """It is an error of ours that tells nothing, and nor does the log."""
    assert set(refused.json) == {"error", "code"}
    assert CANARY not in refused.body + str(refused.headers).encode()
    assert CANARY.decode() not in caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    "body",
    [
        (b"Transfer-Encoding: chunked\r\n", b"canary-7f3a\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\ncanary-7f3a"),
        (b"Transfer-Encoding: chunked\r\n", b"ffffffffffffffffffff\r\ncanary-7f3a"),
        (b"Content-Encoding: gzip\r\nContent-Length: 11\r\n", b"canary-7f3a"),
        (b"Content-Encoding: br\r\nContent-Length: 11\r\n", b"canary-7f3a"),
        (b"Content-Encoding: canary-7f3a\r\nContent-Length: 11\r\n", b"canary-7f3a"),
    ],
    ids=["no chunk", "chunk too long", "chunk too large", "no gzip", "brotli", "unknown encoding"],
)
async def test_a_body_that_is_no_body(
    client: Client, caplog: pytest.LogCaptureFixture, body: tuple[bytes, bytes]
) -> None:
    """A body whose encoding is broken is a 4xx that repeats nothing, and nothing of it is logged."""
    await client.get("/conversations")
    headers, content = body
    authorization = f"Authorization: {client.authorization}\r\nContent-Type: application/json\r\n".encode()
    with caplog.at_level(logging.INFO):
        refused = await speak(client.address, post(authorization + headers, b""), content)
    check_silent(refused, caplog)
    assert refused.status in {400, 415}


async def test_several_authorizations(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Of two Authorization headers neither counts."""
    one = f"Authorization: {client.authorization}\r\n".encode()
    for other in (one, b"Authorization: canary-7f3a\r\n", b"Authorization: \r\n"):
        refused = await speak(client.address, HEAD + one + other + b"\r\n")
        assert (refused.status, refused.json["code"]) == (400, "bad_request")
    assert chatgpt.received() == 0


@pytest.mark.parametrize(
    "authorization",
    ["two words", "Basic Y2FuYXJ5", "x" * 8100, "Bearer", "Bearer ", "tok\u00ebn", "a\tb"],
    ids=["two words", "another scheme", "8 kB", "scheme alone", "scheme and a space", "accent", "tab"],
)
async def test_an_authorization_that_is_no_token(client: Client, chatgpt: SimulatedChatGPT, authorization: str) -> None:
    """What no token looks like is a 401 and never leaves."""
    request = HEAD + b"Authorization: " + authorization.encode() + b"\r\n\r\n"
    refused = await speak(client.address, request)
    assert (refused.status, refused.json["code"][:12]) == (401, "access_token")
    assert authorization.encode() not in refused.body or authorization.strip() == "Bearer"
    assert len(authorization) > 8000 or chatgpt.received() == 0


async def test_the_oldest_idle_connection_makes_room(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """With `max_connections` held by people who say nothing, somebody who does is served all the same."""
    async with open_house(tmp_path, chatgpt, base_url, clock, server__max_connections="2") as house:
        host, _, port = house.client.address.removeprefix("http://").rpartition(":")
        held = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        async with asyncio.timeout(5):
            assert (await house.client.get("/healthz")).status == 200
            with suppress(ConnectionResetError):
                assert await held[0][0].read() == b""
            held[1][1].write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert (await held[1][0].read()).startswith(b"HTTP/1.1 200")
        for _, writer in held:
            writer.close()


async def test_nobody_who_is_being_served_makes_room(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """Where every connection waits for its answer, one more is turned away."""
    async with open_house(tmp_path, chatgpt, base_url, clock, server__max_connections="2") as house:
        await house.client.get("/conversations")
        conversations = [chatgpt.alice.add_conversation(title) for title in ("one", "two")]
        faults = [chatgpt.fault(f"conversation/{conversation.id}", hold=True) for conversation in conversations]
        reads = [asyncio.create_task(house.client.get(f"/conversations/{each.id}")) for each in conversations]
        async with asyncio.timeout(5):
            for fault in faults:
                await fault.until_held()
            with pytest.raises(aiohttp.ClientConnectionError):
                await house.client.get("/healthz")
        for fault in faults:
            fault.release()
        assert [read.status for read in await asyncio.gather(*reads)] == [200, 200]


async def test_a_closed_door_lets_nobody_in(house: House) -> None:
    """After `close_door` there are no new connections, while those who are in are served."""
    async with listening(house.app, house.config.server) as listener, aiohttp.ClientSession() as session:
        async with session.get(f"{listener.address}/healthz") as answer:
            assert answer.status == 200
        await listener.close_door()
        async with session.get(f"{listener.address}/healthz") as answer:
            assert answer.status == 200
        with pytest.raises(OSError):  # noqa: PT011  # which one differs between systems
            await asyncio.open_connection("127.0.0.1", int(listener.address.rpartition(":")[2]))


async def test_an_address_that_is_taken(house: House) -> None:
    """Where somebody listens already the start fails, and says which key to change."""
    taken = int(house.client.address.rpartition(":")[2])
    with pytest.raises(StartError, match=r"choose another \[server\] port"):
        async with listening(house.app, replace(house.config.server, port=taken)):
            raise AssertionError("it listens twice")


async def test_the_access_log_names_templates(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One line a request, with neither ids nor queries nor paths that nobody serves."""
    async with open_house(tmp_path, chatgpt, base_url, clock, server__access_log="true") as house:
        with caplog.at_level(logging.INFO, logger="chatgpt_rest.access"):
            await house.client.get("/conversations/c0ffee/messages?canary-7f3a=1")
            await house.client.get("/canary-7f3a")
    lines = [record.getMessage() for record in caplog.records if record.name == "chatgpt_rest.access"]
    assert [line.rpartition(" ")[0] for line in lines] == [
        "answered method=GET path=/conversations/{id}/messages status=404",
        "answered method=GET path=(unknown) status=404",
    ]


async def test_the_access_log_knows_no_traceback(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A request that cannot be parsed is a line like any other, without its words."""
    async with open_house(tmp_path, chatgpt, base_url, clock, server__access_log="true") as house:
        with caplog.at_level(logging.INFO):
            for request_bytes in MALFORMED.values():
                check_silent(await speak(house.client.address, request_bytes), caplog)
    assert [record for record in caplog.records if record.exc_info or record.levelno > logging.INFO] == []
    lines = [record.getMessage() for record in caplog.records if record.name == "chatgpt_rest.access"]
    assert len(lines) == len(MALFORMED)
    assert {line.split(" path=")[1].split()[0] for line in lines} == {"(unknown)", "/healthz"}


async def test_who_is_turned_away_leaves_no_line(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A flood of connections beyond the limit does not fill the log."""
    settings = {"server__max_connections": "1", "server__access_log": "true"}
    async with open_house(tmp_path, chatgpt, base_url, clock, **settings) as house:
        await house.client.get("/conversations")
        groceries = chatgpt.alice.add_conversation("Groceries")
        held = chatgpt.fault(f"conversation/{groceries.id}", hold=True)
        read = asyncio.create_task(house.client.get(f"/conversations/{groceries.id}"))
        await held.until_held()
        caplog.clear()
        with caplog.at_level(logging.INFO):
            for _ in range(5):
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await speak(house.client.address, HEAD + b"\r\n")
        assert caplog.records == []
        held.release()
        assert (await read).status == 200
