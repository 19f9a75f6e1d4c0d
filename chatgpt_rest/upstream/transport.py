# SPDX-License-Identifier: GPL-2.0-or-later
"""The one door to the network. Every request through it has paid, and goes to upstream's own address.

httpx asks its transport for every single HTTP request, those hidden inside revChatGPT's methods included. This one
takes a token from the gate before each, refuses a request that brought no gate, and reports when it has arrived.

The access token is added here too, on a copy that stays here: a request as httpx and its exceptions know it holds none.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Coroutine
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpx

from chatgpt_rest.errors import MirrorError, UpstreamAway, UpstreamBroken, UpstreamError, UpstreamSlow
from chatgpt_rest.upstream.limits import LONGEST_ATTEMPT_SECONDS
from chatgpt_rest.upstream.protocol import Caller, Receipt
from chatgpt_rest.upstream.wire import DEADLINE, Wire

ERRAND: Final = "errand"
"""The name of the request extension that holds its Errand."""

_CONNECT_SECONDS: Final = 10
_TIMEOUT: Final = httpx.Timeout(connect=_CONNECT_SECONDS, pool=5, write=30, read=None)  # deadlines bound whole reads

# Servers close idle connections after as little as 5 s (uvicorn, Node). A request sent into that moment is lost, and it
# cannot be sent again: nobody knows whether it arrived. So ours are closed first.
_KEEPALIVE_SECONDS: Final = 4
_CONNECTIONS: Final = 100
_LIMITS: Final = httpx.Limits(
    max_connections=_CONNECTIONS, max_keepalive_connections=10, keepalive_expiry=_KEEPALIVE_SECONDS
)

# A connection closed here must not be delivered later by the kernel, its token's hour would be wrong: what was not sent
# when an attempt ends is thrown away.
_SOCKET_OPTIONS: Final = ((socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)),)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Errand:
    """What a request carries through httpx to the door: who sends it, and its path with no ids in it."""

    caller: Caller
    path: str


class Unmetered(Exception):
    """A request without a gate, or to another address than upstream's, tried to leave: a mistake in this program."""


def open_door(base_url: str) -> MeteredTransport:
    """The door to `base_url`, with the connections that go through it."""
    verify = httpx.create_ssl_context(trust_env=False) if base_url.startswith("https:") else False
    connections = httpx.AsyncHTTPTransport(
        verify=verify,
        trust_env=False,
        http2=False,  # on a GOAWAY, httpcore sends a request again by itself: two arrivals for one token
        retries=0,
        limits=_LIMITS,
        socket_options=_SOCKET_OPTIONS,
    )
    wire = Wire(
        verify=verify,
        connect_seconds=_CONNECT_SECONDS,
        keepalive_seconds=_KEEPALIVE_SECONDS,
        connections=_CONNECTIONS,
        socket_options=_SOCKET_OPTIONS,
    )
    return MeteredTransport(connections, wire, base_url=base_url)


def open_client(
    base_url: str, *, user_agent: str, transport: httpx.AsyncBaseTransport | None = None
) -> httpx.AsyncClient:
    """The client that all requests share. It keeps connections, and nothing else of one request for another.
    `transport` is what leads to the door, where something stands in front of it.
    """
    return httpx.AsyncClient(
        transport=transport or open_door(base_url),
        headers={"User-Agent": user_agent},
        # One caller's Set-Cookie would travel in another's request.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        timeout=_TIMEOUT,
        follow_redirects=False,
        trust_env=False,
    )


class MeteredTransport(httpx.AsyncBaseTransport):
    """One token for every request, taken before it leaves. Raises UpstreamError in place of httpx's errors, and what
    the gate raises. What asks goes over the `wire`, all else over the `connections`.
    """

    def __init__(self, connections: httpx.AsyncBaseTransport, wire: Wire, *, base_url: str) -> None:
        self._connections = connections
        self._wire = wire
        self._base_url = httpx.URL(base_url)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        errand = request.extensions.get(ERRAND)
        if not isinstance(errand, Errand) or not self._is_upstream(request.url):
            raise Unmetered
        # From before the token is taken: the time the log of tokens takes is part of the attempt.
        deadline = asyncio.get_running_loop().time() + LONGEST_ATTEMPT_SECONDS
        receipt = await errand.caller.gate.take(request.method, errand.path)
        try:
            response = await self._attempt(request, errand.caller, deadline=deadline)
        except BaseException as error:
            outcome = error.code if isinstance(error, MirrorError) else type(error).__name__
            await _to_the_end(_report(receipt, outcome))
            raise
        try:
            await _to_the_end(_report(receipt, response.status_code))
        except BaseException:
            await response.aclose()
            raise
        return response

    async def aclose(self) -> None:
        await self._connections.aclose()
        await self._wire.aclose()

    def _is_upstream(self, url: httpx.URL) -> bool:
        ours = self._base_url
        return (url.scheme, url.raw_host, url.port) == (ours.scheme, ours.raw_host, ours.port) and (
            url.raw_path.startswith(ours.raw_path)
        )

    async def _attempt(self, request: httpx.Request, caller: Caller, *, deadline: float) -> httpx.Response:
        outgoing = httpx.Request(
            request.method,
            request.url,
            headers=[*request.headers.raw, (b"Authorization", b"Bearer " + caller.token.reveal().encode("ascii"))],
            stream=request.stream,
            extensions={name: value for name, value in request.extensions.items() if name in {"timeout", DEADLINE}},
        )
        way = self._wire if request.method == "POST" else self._connections
        try:
            async with asyncio.timeout_at(deadline):
                return await way.handle_async_request(outgoing)
        except (httpx.HTTPError, TimeoutError) as error:
            fault = fault_of(error)
        # Outside of `except`: the frames of the error, which hold the token, would hang on as its context.
        raise fault


def fault_of(error: httpx.HTTPError | TimeoutError) -> UpstreamError:
    """What a failed attempt means. UpstreamAway: nothing was delivered. Anything else: it may have been."""
    name = type(error).__name__
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout():
            return UpstreamAway(f"there is no connection to upstream ({name})")
        case httpx.TimeoutException() | TimeoutError():
            return UpstreamSlow("upstream did not answer in time")
        case httpx.NetworkError() | httpx.RemoteProtocolError():
            return UpstreamBroken(f"upstream broke the connection off ({name})", code="upstream_reset")
        case _:
            return UpstreamBroken(f"upstream's answer cannot be read ({name})")


async def _report(receipt: Receipt, outcome: int | str) -> None:
    try:
        await receipt.arrived(outcome)
    except MirrorError as error:
        # The answer is there and was paid for. Unreported, its token merely stays away longer than it had to.
        log.warning("could not report an arrival code=%s", error.code)


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await `work` even where this task is cancelled meanwhile; the cancellation goes on afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()
