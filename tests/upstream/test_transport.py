# SPDX-License-Identifier: GPL-2.0-or-later
"""The door: what may leave, what it costs, and what is told about it afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from chatgpt_rest.errors import (
    BudgetSpent,
    MirrorError,
    StorageFailed,
    UpstreamAway,
    UpstreamBroken,
    UpstreamError,
    UpstreamSlow,
)
from chatgpt_rest.upstream import transport
from chatgpt_rest.upstream.protocol import Receipt
from chatgpt_rest.upstream.transport import ERRAND, Errand, Unmetered, fault_of, open_client
from chatgpt_rest.upstream.wire import Wire
from tests.upstream.far_end import RawUpstream, RecordingGate, answering, caller, closed_port, reply

OK = reply(b"{}")

methods = pytest.mark.parametrize("method", ["GET", "PATCH", "POST"])
"""What asks goes another way than the rest."""


@asynccontextmanager
async def client_of(base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """The client that requests share."""
    async with open_client(base_url, user_agent="tests") as client:
        yield client


def errand(gate: RecordingGate) -> dict[str, Errand]:
    """The extensions of a request that may leave."""
    return {ERRAND: Errand(caller(gate), "conversations")}


async def test_a_request_without_a_gate_is_refused() -> None:
    """Nothing un-metered can leave, whoever builds the request."""
    async with answering(OK).serving() as far, client_of(far.base_url) as client:
        with pytest.raises(Unmetered):
            await client.get(far.base_url + "conversations")
        assert far.connections == 0


@pytest.mark.parametrize("path", ["", "backend-ap/", "other/conversations", "backend-api/../conversations"])
async def test_only_addresses_below_base_url_are_reached(path: str) -> None:
    """Another path of the same host is not upstream."""
    gate = RecordingGate()
    async with answering(OK).serving() as far, client_of(far.base_url) as client:
        with pytest.raises(Unmetered):
            await client.get(far.base_url.removesuffix("backend-api/") + path, extensions=errand(gate))
        assert far.connections == 0
    assert gate.taken == []


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_another_host_port_or_scheme_is_refused(scheme: str) -> None:
    """Nor is any other host."""
    gate = RecordingGate()
    async with client_of("http://127.0.0.1:9/backend-api/") as client:
        for address in ("127.0.0.1:10", "localhost:9", "127.0.0.1"):
            with pytest.raises(Unmetered):
                await client.get(f"{scheme}://{address}/backend-api/conversations", extensions=errand(gate))
    assert gate.taken == []


async def test_a_spent_budget_lets_nothing_leave() -> None:
    """Where the gate refuses, no connection is made."""
    async with answering(OK).serving() as far, client_of(far.base_url) as client:
        with pytest.raises(BudgetSpent):
            await client.get(far.base_url + "conversations", extensions=errand(RecordingGate(tokens=0)))
        assert far.connections == 0


@methods
async def test_the_token_is_on_the_wire_and_not_in_the_request(method: str) -> None:
    """httpx's own request, which its exceptions lead to, never holds the access token."""
    gate = RecordingGate()
    async with answering(OK).serving() as far, client_of(far.base_url) as client:
        response = await client.request(method, far.base_url + "conversations", extensions=errand(gate))
        assert b"\r\nAuthorization: Bearer a-token\r\n" in far.requests[0]
        assert "authorization" not in response.request.headers
    assert (gate.taken, gate.outcomes) == ([f"{method} conversations"], [200])


@methods
async def test_cookies_of_one_caller_do_not_travel_with_another(method: str) -> None:
    """The shared client keeps no cookie."""
    gate = RecordingGate()
    baked = reply(b"{}", headers=b"Set-Cookie: session=alice; Path=/\r\n")
    async with answering(baked).serving() as far, client_of(far.base_url) as client:
        for _ in range(2):
            await client.request(method, far.base_url + "conversations", extensions=errand(gate))
        assert not any(b"cookie" in request.lower() for request in far.requests)


@methods
async def test_redirects_are_not_followed(method: str) -> None:
    """A token is not carried to where upstream points."""
    gate = RecordingGate()
    moved = reply(b"", status="302 Found", headers=b"Location: http://127.0.0.1:9/backend-api/conversations\r\n")
    async with answering(moved).serving() as far, client_of(far.base_url) as client:
        response = await client.request(method, far.base_url + "conversations", extensions=errand(gate))
        assert response.status_code == 302
        assert len(far.requests) == 1


@methods
async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """The address in the configuration is the one that is reached."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{closed_port()}")
    async with answering(OK).serving() as far, client_of(far.base_url) as client:
        await client.request(method, far.base_url + "conversations", extensions=errand(RecordingGate()))
        assert len(far.requests) == 1


@methods
async def test_a_connection_is_used_again(method: str) -> None:
    """Requests that follow each other share one connection."""
    gate = RecordingGate()
    async with answering(OK).serving() as far, client_of(far.base_url) as client:
        for _ in range(5):
            await client.request(method, far.base_url + "conversations", extensions=errand(gate))
        assert (far.connections, len(far.requests)) == (1, 5)


@methods
async def test_a_connection_that_upstream_closed_is_not_used_again(method: str) -> None:
    """One found closed before anything was sent is replaced, which costs nothing."""
    gate = RecordingGate()
    async with answering(OK, then_close=True).serving() as far, client_of(far.base_url) as client:
        for count in range(1, 4):
            await client.request(method, far.base_url + "conversations", extensions=errand(gate))
            await far.was_closed.wait()
            far.was_closed.clear()
            assert far.connections == count
    assert gate.outcomes == [200, 200, 200]


@methods
async def test_a_request_is_never_sent_twice(method: str) -> None:
    """A request whose kept connection upstream closes may have been read: it is not sent again."""
    gate = RecordingGate()

    async def answer(writer: asyncio.StreamWriter) -> None:
        if len(far.requests) == 1:
            writer.write(OK)
        else:
            writer.close()

    far = RawUpstream(answer)
    async with far.serving(), client_of(far.base_url) as client:
        await client.request(method, far.base_url + "conversation", extensions=errand(gate))
        with pytest.raises(UpstreamBroken) as caught:
            await client.request(method, far.base_url + "conversation", content=b"{}", extensions=errand(gate))
        assert caught.value.code == "upstream_reset"
        assert (far.connections, len(far.requests)) == (1, 2)
    assert gate.outcomes == [200, "upstream_reset"]


@methods
async def test_nobody_listening_is_away(method: str) -> None:
    """A refused connection costs its token all the same, and delivers nothing."""
    gate = RecordingGate()
    base_url = f"http://127.0.0.1:{closed_port()}/backend-api/"
    async with client_of(base_url) as client:
        with pytest.raises(UpstreamAway):
            await client.request(method, base_url + "conversations", extensions=errand(gate))
    assert gate.outcomes == ["upstream_away"]


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200 OK\r\nContent-", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nA\x00: b\r\n\r\n"]
)
@methods
async def test_a_response_that_is_none_is_a_reset(sent: bytes, method: str) -> None:
    """A connection that ends before the headers do, or speaks no HTTP."""
    gate = RecordingGate()
    async with answering(sent, then_close=True).serving() as far, client_of(far.base_url) as client:
        with pytest.raises(UpstreamBroken) as caught:
            await client.request(method, far.base_url + "conversations", extensions=errand(gate))
    assert caught.value.code == "upstream_reset"
    assert gate.outcomes == ["upstream_reset"]


@methods
async def test_an_attempt_has_an_end(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Upstream that says nothing is given up on, its connection is reset, and its token knows when."""
    monkeypatch.setattr(transport, "LONGEST_ATTEMPT_SECONDS", 0.05)
    gate = RecordingGate()
    async with answering(b"").serving() as far, client_of(far.base_url) as client:
        with pytest.raises(UpstreamSlow):
            await client.request(method, far.base_url + "conversations", extensions=errand(gate))
        await far.was_reset.wait()
    assert gate.outcomes == ["upstream_slow"]


class SlowReceipt:
    """Takes until `go` to write an arrival down."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.outcomes: list[int | str] = []

    async def arrived(self, outcome: int | str) -> None:
        self.begun.set()
        await self.go.wait()
        self.outcomes.append(outcome)


class OneReceipt:
    """A gate that gives this receipt."""

    def __init__(self, receipt: Receipt) -> None:
        self._receipt = receipt

    async def take(self, method: str, path: str) -> Receipt:
        return self._receipt

    async def refused(self, error: UpstreamError, *, model: str | None = None) -> None:
        pass


class FailingReceipt:
    async def arrived(self, outcome: int | str) -> None:
        raise StorageFailed("the disk is full")


class BrokenReceipt:
    async def arrived(self, outcome: int | str) -> None:
        raise LookupError("a fault of ours")


@methods
async def test_a_cancelled_attempt_is_reported_and_its_connection_reset(method: str) -> None:
    """A token is told of its end even when the task is cancelled, and cancelled again while that is written down."""
    receipt = SlowReceipt()
    door = {ERRAND: Errand(caller(OneReceipt(receipt)), "conversations")}
    async with answering(b"").serving() as far, client_of(far.base_url) as client:
        task = asyncio.create_task(client.request(method, far.base_url + "conversations", extensions=door))
        await far.was_asked.wait()
        task.cancel()
        await receipt.begun.wait()
        task.cancel()
        await far.was_reset.wait()
        receipt.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert receipt.outcomes == ["CancelledError"]


@methods
async def test_an_arrival_is_written_down_though_the_task_is_cancelled(method: str) -> None:
    """The cancellation waits for the log, closes the response, and goes on."""
    receipt = SlowReceipt()
    door = {ERRAND: Errand(caller(OneReceipt(receipt)), "conversations")}
    async with answering(OK).serving() as far, client_of(far.base_url) as client:
        task = asyncio.create_task(client.request(method, far.base_url + "conversations", extensions=door))
        await receipt.begun.wait()
        task.cancel()
        await asyncio.sleep(0)
        receipt.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await far.was_closed.wait()
    assert receipt.outcomes == [200]


async def test_an_arrival_that_cannot_be_written_down_does_not_lose_the_answer() -> None:
    """What was paid for is handed on; the budget then counts the token as away for longer."""
    door = {ERRAND: Errand(caller(OneReceipt(FailingReceipt())), "conversations")}
    async with answering(OK).serving() as far, client_of(far.base_url) as client:
        response = await client.get(far.base_url + "conversations", extensions=door)
    assert response.status_code == 200


@methods
async def test_an_unforeseen_fault_of_the_log_leaves_no_response_open(method: str) -> None:
    """Whatever goes wrong while an arrival is written down, the response's connection is closed."""
    door = {ERRAND: Errand(caller(OneReceipt(BrokenReceipt())), "conversations")}
    endless = reply(b"{}").replace(b"Length: 2", b"Length: 3")
    async with answering(endless).serving() as far, client_of(far.base_url) as client:
        with pytest.raises(LookupError):
            await client.request(method, far.base_url + "conversations", extensions=door)
        async with asyncio.timeout(2):
            await far.was_closed.wait()


async def test_what_was_not_sent_when_an_attempt_ended_is_thrown_away() -> None:
    """A prompt that is cut is not delivered later: its token is known to have arrived by the attempt's end."""
    gate = RecordingGate()
    size = 64 * 1024 * 1024  # more than the kernel takes from one side to the other unread

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        await ended.wait()
        try:
            with suppress(ConnectionError):
                while chunk := await reader.read(1024 * 1024):
                    received.append(len(chunk))
        finally:
            writer.close()
            closed.set()

    begun, ended, closed, received = asyncio.Event(), asyncio.Event(), asyncio.Event(), list[int]()
    async with await asyncio.start_server(read, "127.0.0.1", 0) as server:
        base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/backend-api/"
        async with client_of(base_url) as client:
            asking = client.post(base_url + "conversation", content=b"x" * size, extensions=errand(gate))
            task = asyncio.create_task(asking)
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert gate.outcomes == ["CancelledError"]
            ended.set()
            await closed.wait()
    assert sum(received) < size


async def test_long_headers_are_read() -> None:
    """Policies and cookies of more than aiohttp's own limit are common."""
    headers = b"Content-Security-Policy: " + b"x" * 20_000 + b"\r\n"
    async with answering(reply(b"{}", headers=headers)).serving() as far, client_of(far.base_url) as client:
        response = await client.post(far.base_url + "conversation", extensions=errand(RecordingGate()))
        assert len(response.headers["Content-Security-Policy"]) == 20_000


async def test_what_could_be_sent_twice_does_not_go_over_the_wire() -> None:
    """aiohttp itself sends a GET again where a kept connection turns out to be closed."""
    wire = Wire(verify=False, connect_seconds=1, keepalive_seconds=1, connections=1, socket_options=())
    with pytest.raises(ValueError, match="again"):
        await wire.handle_async_request(httpx.Request("GET", "http://127.0.0.1:9/"))
    await wire.aclose()


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (httpx.ConnectError(""), UpstreamAway),
        (httpx.ConnectTimeout(""), UpstreamAway),
        (httpx.PoolTimeout(""), UpstreamAway),
        (httpx.ReadTimeout(""), UpstreamSlow),
        (httpx.WriteTimeout(""), UpstreamSlow),
        (TimeoutError(), UpstreamSlow),
        (httpx.ReadError(""), UpstreamBroken),
        (httpx.RemoteProtocolError(""), UpstreamBroken),
        (httpx.DecodingError(""), UpstreamBroken),
        (httpx.LocalProtocolError("Illegal header value b'Bearer a-token'"), UpstreamBroken),
    ],
)
def test_every_fault_of_the_connection_has_a_meaning(
    fault: httpx.HTTPError | TimeoutError, kind: type[MirrorError]
) -> None:
    """Only what is certain to have delivered nothing is UpstreamAway. None of httpx's words are repeated."""
    error = fault_of(fault)
    assert type(error) is kind
    assert "a-token" not in error.text
