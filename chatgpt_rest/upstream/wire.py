# SPDX-License-Identifier: GPL-2.0-or-later
"""The connections that answers come over: aiohttp's, underneath httpx.

A server sends each event as an HTTP chunk of its own, and httpx takes chunks apart in Python: that alone costs three
times as much as passing an answer on. aiohttp does it in C.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Final, Self

import aiohttp
import httpx
from yarl import URL

SocketOption = tuple[int, int, bytes]

_LONGEST_HEADER_BYTES: Final = 64 * 1024  # policies and cookies of a few KB are common, and aiohttp's own limit is 8

_used: ContextVar[list[asyncio.Transport]] = ContextVar("used")


class Wire(httpx.AsyncBaseTransport):
    """Sends each POST once, over connections that are kept for `keepalive_seconds`. Raises httpx's errors.

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
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds)
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
                data=await request.aread(),
                headers=[(name.decode("ascii"), value.decode("ascii")) for name, value in request.headers.raw],
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                allow_redirects=False,
            )
        except aiohttp.ClientError as error:
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
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # httpx does
                max_line_size=_LONGEST_HEADER_BYTES,
                max_field_size=_LONGEST_HEADER_BYTES,
            )
        return self._session

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
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
            except aiohttp.ClientError as error:
                self._fault = _fault_of(error)
                # aiohttp gives out no more, not even what had come before the connection broke.
                chunk = self._response.content._read_nowait(-1)  # noqa: SLF001  # there is no other way to it
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


def _fault_of(error: aiohttp.ClientError) -> httpx.TransportError:
    """What httpx calls it. Nothing was delivered where there was no connection, else it may have been."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return httpx.ConnectTimeout("")
        case aiohttp.ClientConnectorError():
            return httpx.ConnectError("")
        case aiohttp.ClientConnectionError():
            return httpx.ReadError("")
        case _:
            return httpx.RemoteProtocolError("")
