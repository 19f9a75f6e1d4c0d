# SPDX-License-Identifier: GPL-2.0-or-later
"""Listening: aiohttp's server, made silent about what strangers send and bounded in how many of them it holds.

aiohttp 3.14 answers a request it cannot parse with a text that repeats part of it, an Authorization header included,
and logs the same. Here such a request gets JSON that repeats nothing, and no line in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from chatgpt_rest.config import ServerConfig
from chatgpt_rest.errors import StartError
from chatgpt_rest.middleware import error_response

_KEEP_ALIVE_SECONDS: Final = 75.0  # also how long a client may take for its headers
_CLOSING_SECONDS: Final = 5.0

log = logging.getLogger(__name__)


class AccessLog(AbstractAccessLogger):
    """One line a request: what was asked for by its template, never by its path, its query or who asked."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Write the line."""
        resource = request.match_info.route.resource if isinstance(request, web.Request) else None
        path = "(unknown)" if resource is None else resource.canonical
        self.logger.info(
            "answered method=%s path=%s status=%d ms=%.1f", request.method, path, response.status, time * 1000
        )


class _Protocol(RequestHandler):
    __slots__ = ()

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


class _Server(web.Server):
    """Makes our protocol for each connection, and turns away what is beyond `max_connections`."""

    def __init__(self, *args: Any, max_connections: int, protocol: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._max_connections = max_connections
        self._protocol = protocol

    def __call__(self) -> RequestHandler:
        return _Protocol(self, loop=asyncio.get_running_loop(), **self._protocol)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self.connections) > self._max_connections:
            transport.close()


class _Runner(web.AppRunner):
    def __init__(self, app: web.Application, *, max_connections: int, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._max_connections = max_connections

    async def _make_server(self) -> _Server:
        plain = await super()._make_server()
        return _Server(
            plain.request_handler,
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
