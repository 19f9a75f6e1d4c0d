# SPDX-License-Identifier: GPL-2.0-or-later
"""The connections that answers come over: aiohttp's, underneath httpx.

A server sends each event as an HTTP chunk of its own, and httpx takes chunks apart in Python: that alone costs three
times as much as passing an answer on. aiohttp does it in C.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from collections.abc import Iterable
from contextvars import ContextVar
from io import BytesIO
from typing import Any, Final, Self

import aiohttp
import httpx
from yarl import URL

SocketOption = tuple[int, int, bytes]

DEADLINE: Final = "deadline"
"""The name of the request extension that says when, by the loop's clock, the answer has to be over."""

_LONGEST_HEADER_BYTES: Final = 64 * 1024  # policies and cookies of a few KB are common, and aiohttp's own limit is 8
_AT_ONCE: Final = 1e-3  # aiohttp takes 0 for "never"

_used: ContextVar[list[asyncio.Transport]] = ContextVar("used")


class Wire(httpx.AsyncBaseTransport):
    """Sends each POST once, over connections that are kept for `keepalive_seconds`. Raises httpx's errors, and
    ReadTimeout at the deadline that a request brings: a timer for each read would cost as much as reading.

    Nothing but POST: other methods aiohttp sends again by itself where a kept connection turns out to be closed.
    """

    def __init__(
        self,
        *,
        verify: ssl.SSLContext | bool,
        connect_seconds: float,
        keepalive_seconds: float,
        connections: int,
        socket_options: Iterable[SocketOption],
    ) -> None:
        self._verify = verify
        self._connect_seconds = connect_seconds
        self._keepalive_seconds = keepalive_seconds
        self._connections = connections
        self._socket_options = tuple(socket_options)
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method != "POST":
            raise ValueError("only what is never sent again by itself goes this way")
        used: list[asyncio.Transport] = []
        _used.set(used)
        try:
            response = await self._opened().post(
                URL(str(request.url), encoded=True),
                data=BytesIO(await request.aread()),  # piece by piece, where it is long
                headers=[(name.decode("ascii"), value.decode("ascii")) for name, value in request.headers.raw],
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                allow_redirects=False,
                timeout=self._timeout(request.extensions.get(DEADLINE)),
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            fault = _fault_of(error)
        except BaseException:
            _abort(used)
            raise
        else:
            return httpx.Response(response.status, headers=response.raw_headers, stream=_Body(response, used))
        _abort(used)
        raise fault

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        """Made inside of the loop, which whoever builds this need not be."""
        if self._session is None:
            connector = _Connector(
                ssl=self._verify,
                limit=self._connections,
                keepalive_timeout=self._keepalive_seconds,
                resolver=aiohttp.ThreadedResolver(),
                socket_factory=self._socket,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # httpx does
                max_line_size=_LONGEST_HEADER_BYTES,
                max_field_size=_LONGEST_HEADER_BYTES,
            )
        return self._session

    def _timeout(self, deadline: float | None) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=None if deadline is None else max(deadline - asyncio.get_running_loop().time(), _AT_ONCE),
            sock_connect=self._connect_seconds,
            ceil_threshold=math.inf,  # to the moment: aiohttp else rounds to whole seconds
        )

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        for option in self._socket_options:
            made.setsockopt(*option)
        return made


class _Connector(aiohttp.TCPConnector):
    """Tells a request what it goes over."""

    async def connect(self, req: Any, traces: list[Any], timeout: aiohttp.ClientTimeout) -> Any:  # noqa: ASYNC109
        connection = await super().connect(req, traces, timeout)
        if connection.transport is not None:
            _used.get().append(connection.transport)
        return connection


class _Body(httpx.AsyncByteStream):
    """A response's body, as much at a time as has come."""

    def __init__(self, response: aiohttp.ClientResponse, used: list[asyncio.Transport]) -> None:
        self._response = response
        self._used = used
        self._fault: httpx.TransportError | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = b""
        if self._fault is None:
            try:
                chunk = await self._response.content.readany()
            except (aiohttp.ClientError, TimeoutError) as error:
                self._fault = _fault_of(error)
                # aiohttp itself gives out no more, not even what had come before the connection broke.
                chunk = b"" if isinstance(self._fault, httpx.ReadTimeout) else self._response.content._read_nowait(-1)
        if chunk:
            return chunk
        raise self._fault or StopAsyncIteration

    async def aclose(self) -> None:
        if self._response.connection is not None:  # one whose body has ended is another request's by now
            _abort(self._used)
        self._response.close()


def _abort(used: Iterable[asyncio.Transport]) -> None:
    """Throw away what was not sent: aiohttp would let it be delivered after the attempt has ended."""
    for transport in used:
        transport.abort()


def _fault_of(error: aiohttp.ClientError | TimeoutError) -> httpx.TransportError:
    """What httpx calls it. Nothing was delivered where there was no connection, else it may have been."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return httpx.ConnectTimeout("")
        case TimeoutError():
            return httpx.ReadTimeout("")
        case aiohttp.ClientConnectorError():
            return httpx.ConnectError("")
        case aiohttp.ClientConnectionError():
            return httpx.ReadError("")
        case _:
            return httpx.RemoteProtocolError("")
