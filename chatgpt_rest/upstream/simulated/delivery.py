# SPDX-License-Identifier: GPL-2.0-or-later
"""How an answer's bytes reach the client: at once, dripping, cut short, or with the connection reset."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress

from aiohttp import web

from .faults import Fault


class Gone(Exception):
    """The connection is closed, by a fault or by the client: nothing more can be sent."""


class Delivery:
    """Writes one response under a fault."""

    def __init__(self, request: web.Request, fault: Fault | None) -> None:
        self.fault = fault or Fault()
        self._request = request
        self._response = web.StreamResponse()
        self._sent_bytes = 0

    async def send(self, response: web.Response) -> web.StreamResponse:
        """Send a complete response, in pieces where the fault asks for that."""
        fault = self.fault
        if fault.drip_bytes is None and fault.truncate_after_bytes is None and fault.reset_after_bytes is None:
            return response
        body = response.body if isinstance(response.body, bytes) else b""
        pieces = web.StreamResponse(status=response.status, headers=response.headers)
        # The length promised is the whole one, so that a client can tell that it did not get it.
        pieces.content_length = len(body)
        await self.begin(pieces)
        with suppress(Gone):
            await self.write(body)
        return pieces

    async def begin(self, response: web.StreamResponse) -> None:
        """Send the headers; `write` sends what follows."""
        self._response = response
        await response.prepare(self._request)

    async def write(self, data: bytes) -> None:
        """Send a piece of the body. Raises Gone if the connection was closed before all of it was sent."""
        fault = self.fault
        ends = [end for end in (fault.truncate_after_bytes, fault.reset_after_bytes) if end is not None]
        allowed = data[: max(0, min(ends) - self._sent_bytes)] if ends else data
        step = fault.drip_bytes or max(1, len(allowed))
        for start in range(0, len(allowed), step):
            await self._write(allowed[start : start + step])
            if fault.drip_bytes is not None:
                await asyncio.sleep(fault.drip_pause_seconds)
        self._sent_bytes += len(allowed)
        if len(allowed) < len(data):
            if fault.reset_after_bytes is not None and min(ends) == fault.reset_after_bytes:
                reset(self._request)
            elif self._request.transport is not None:
                self._request.transport.close()
            raise Gone

    async def _write(self, data: bytes) -> None:
        try:
            await self._response.write(data)
        except ConnectionError as error:
            raise Gone from error


def reset(request: web.Request) -> None:
    """Abort the connection so that the client sees a reset, not an orderly end."""
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    # Lingering for zero seconds is what makes the kernel send RST instead of FIN.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
