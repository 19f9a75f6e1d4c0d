# SPDX-License-Identifier: GPL-2.0-or-later
"""How a command reaches the mirror: through the running server or, where none runs, by opening it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from chatgpt_rest.app import running
from chatgpt_rest.clock import Clock
from chatgpt_rest.config import Config
from chatgpt_rest.control import call_server, control_over
from chatgpt_rest.errors import StartError


async def call(
    config: Config, clock: Clock, operation: str, arguments: dict[str, Any], *, needs_server: bool = False
) -> Any:
    """Have one of the owner's operations done. Raises MirrorError."""
    try:
        return await call_server(config.control_socket, operation, arguments)
    except ConnectionError:
        if needs_server:
            raise StartError("no server is running with this mirror; start one first") from None
    async with opened(config, clock) as app:
        return await control_over(app, clock, is_server=False).call(operation, arguments)


@asynccontextmanager
async def opened(config: Config, clock: Clock) -> AsyncIterator[web.Application]:
    """All that the server is made of, in this process. Raises StartError where another one has the mirror,
    and cannot be reached.
    """
    try:
        async with running(config, clock=clock) as app:
            yield app
    except StartError as error:
        if error.code != "locked":
            raise
        raise StartError(
            f"{error.text}. It does not listen at {config.control_socket}: if it is another command, wait for its end; "
            "if it is the server, restart it"
        ) from None
