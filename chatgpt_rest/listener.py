# SPDX-License-Identifier: GPL-2.0-or-later
"""Listening: aiohttp's server, made silent about what strangers send and bounded in how many of them it holds.

aiohttp 3.14 answers a request it cannot parse with a text that repeats part of it, an Authorization header included,
and logs the same. Here such a request gets JSON that repeats nothing, and no line in the log.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from chatgpt_rest.config import ServerConfig
from chatgpt_rest.context import CANONICAL
from chatgpt_rest.errors import StartError
from chatgpt_rest.middleware import refusal_of_aiohttp
from chatgpt_rest.refusing import error_response

_KEEP_ALIVE_SECONDS: Final = 20.0  # also how long a client may take for its headers
_CLOSING_SECONDS: Final = 5.0
_STALLED_SECONDS: Final = 15.0  # a client that takes nothing for so long, seen twice, is gone: 30 in all
_LINGERING_SECONDS: Final = 1.0  # how long what a client still sends after its answer is read, so that it sees that one

log = logging.getLogger(__name__)


class AccessLog(AbstractAccessLogger):
    """One line a request: what was asked for by its template, never by its path, its query or who asked."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Write the line."""
        path = request.get(CANONICAL, "(unknown)")
        self.logger.info(
            "answered method=%s path=%s status=%d ms=%.1f", request.method, path, response.status, time * 1000
        )


class _Protocol(RequestHandler):
    """One connection. A client that stops reading what it asked for is cut off: it would hold its place for ever."""

    __slots__ = ("_server", "_stalled", "_unread_bytes")

    def __init__(self, server: _Server, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._server = server
        self._stalled: asyncio.TimerHandle | None = None
        self._unread_bytes = 0

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered: none has come, or not all of its headers."""
        return self._current_request is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._server.has_room():
            super().connection_made(transport)
        else:
            self._manager = None  # as aiohttp leaves it when a connection is over; this one never begins
            # Not asked by `isinstance`: uvloop's transports are no asyncio.Transport, and would stay open for ever.
            cast("asyncio.Transport", transport).abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch(-1)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_watch()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._end_watch()
        super().connection_lost(exc)

    def _watch(self, unread_bytes: int) -> None:
        """Look again after a while whether the client took anything; slow is fine, not at all is not."""
        self._unread_bytes = unread_bytes
        self._stalled = asyncio.get_running_loop().call_later(_STALLED_SECONDS, self._cut_off_if_stalled)

    def _cut_off_if_stalled(self) -> None:
        if self.transport is None:
            return
        unread_bytes = self.transport.get_write_buffer_size()
        if unread_bytes == self._unread_bytes:
            log.info("dropped a client that stopped reading unread_bytes=%d", unread_bytes)
            # Else the kernel would keep what it has for this client, for as long as that says nothing.
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self._watch(unread_bytes)

    def _end_watch(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be parsed, or what broke outside every middleware."""
        if status >= 500:
            log.error("the server failed outside a handler error=%s", type(exc).__name__)
            response = error_response(status, "something went wrong here; the log says what", "internal")
        elif isinstance(exc, LineTooLong):
            response = error_response(status, "the request line or a header is too long", "bad_request")
        else:
            response = error_response(status, "the request is malformed", "bad_request")
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """A body that could not be read to its end; aiohttp would log it with the words that it stumbled over."""
        log.info("a request's body could not be read error=%s", type(kwargs.get("exc_info")).__name__)


class _Server(web.Server):
    """Makes our protocol for each connection, and turns away what is beyond `max_connections`."""

    def __init__(self, *args: Any, max_connections: int, protocol: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_connections = max_connections
        self._protocol = protocol

    def __call__(self) -> RequestHandler:
        return _Protocol(self, loop=asyncio.get_running_loop(), **self._protocol)

    def has_room(self) -> bool:
        """Whether one more connection may be held. Where there are too many, the oldest idle one makes room."""
        if len(self.connections) < self._max_connections:
            return True
        for oldest in self.connections:
            if isinstance(oldest, _Protocol) and oldest.is_idle and oldest.transport is not None:
                oldest.transport.abort()
                return True
        return False


class _Runner(web.AppRunner):
    def __init__(self, app: web.Application, *, max_connections: int, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._max_connections = max_connections

    async def _make_server(self) -> _Server:
        plain = await super()._make_server()

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            """What aiohttp refuses before any middleware (an `Expect` it does not know) is refused in our words."""
            try:
                return await plain.request_handler(request)
            except web.HTTPException as error:
                return refusal_of_aiohttp(request, error)

        return _Server(
            handle,
            request_factory=plain.request_factory,
            max_connections=self._max_connections,
            # There is no public way to a protocol of one's own.
            protocol=plain._kwargs,
        )


@asynccontextmanager
async def listening(app: web.Application, config: ServerConfig) -> AsyncIterator[Listener]:
    """Serve `app` at the configured address. Raises StartError where that is taken."""
    access_log = logging.getLogger("chatgpt_rest.access") if config.access_log else None
    runner = _Runner(
        app,
        max_connections=config.max_connections,
        keepalive_timeout=_KEEP_ALIVE_SECONDS,
        lingering_time=_LINGERING_SECONDS,
        shutdown_timeout=_CLOSING_SECONDS,
        access_log_class=AccessLog,
        access_log=access_log,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port)
        try:
            await site.start()
        except OSError as error:
            raise StartError(
                f"{config.host}:{config.port} cannot be listened on: {error.strerror}; choose another [server] port"
            ) from error
        yield Listener(runner, site)
    finally:
        await runner.cleanup()


class Listener:
    """An open address."""

    def __init__(self, runner: web.AppRunner, site: web.TCPSite) -> None:
        self._site = site
        self.address: str = "http://{}:{}".format(*_name(runner.addresses[0]))

    async def close_door(self) -> None:
        """Accept nobody new; who is in stays."""
        await self._site.stop()


def _name(address: Any) -> tuple[str, int]:
    host, port = str(address[0]), int(address[1])
    return (f"[{host}]" if ":" in host else host), port
