# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole server as tests meet it: real HTTP in front, a real SQLite file, a simulated ChatGPT behind, a clock by
hand.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from chatgpt_rest.app import running
from chatgpt_rest.auth import Auth
from chatgpt_rest.clock import SECOND, BootTime
from chatgpt_rest.config import Config, load_config
from chatgpt_rest.context import AUTH, MIRROR_OF_ALL
from chatgpt_rest.listener import listening
from chatgpt_rest.mirror import Mirror
from chatgpt_rest.upstream.simulated import Account, SimulatedChatGPT
from tests.mirrors import lay_out

NOON = 1_795_000_000 * SECOND
"""When tests begin (µs): some day in November 2026."""


class ManualClock:
    """A clock that stands still until it is moved. Wall clock and uptime move together, unless one is told to jump."""

    def __init__(self, now: int = NOON, *, boot_id: str | None = "boot-1") -> None:
        self._now = now
        self._elapsed = 1_000 * SECOND
        self.boot_id = boot_id

    def now(self) -> int:
        return self._now

    def boot(self) -> BootTime | None:
        return None if self.boot_id is None else BootTime(self.boot_id, self._elapsed)

    def move(self, *, seconds: float) -> None:
        self._now += round(seconds * SECOND)
        self._elapsed += round(seconds * SECOND)

    def jump(self, *, seconds: float) -> None:
        """The wall clock is set; no time passes. What a restarted process meets."""
        self._now += round(seconds * SECOND)


@dataclass
class Answered:
    """What came back."""

    status: int
    headers: Any
    body: bytes
    json: Any


class Client:
    """A REST client with one credential (None for no Authorization header at all)."""

    def __init__(self, session: aiohttp.ClientSession, address: str, authorization: str | None) -> None:
        self.session = session
        self.address = address
        self.authorization = authorization

    def as_(self, authorization: str | None) -> Client:
        """The same client with another credential."""
        return Client(self.session, self.address, authorization)

    async def get(self, path: str, **options: Any) -> Answered:
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Answered:
        return await self.request("POST", path, **options)

    async def patch(self, path: str, **options: Any) -> Answered:
        return await self.request("PATCH", path, **options)

    async def delete(self, path: str, **options: Any) -> Answered:
        return await self.request("DELETE", path, **options)

    async def request(self, method: str, path: str, **options: Any) -> Answered:
        """One request. `path` is sent as it is written, dot segments and percent signs included."""
        headers = dict(options.pop("headers", {}))
        if self.authorization is not None:
            headers.setdefault("Authorization", self.authorization)
        url = URL(self.address + path, encoded=True)
        async with self.session.request(method, url, headers=headers, allow_redirects=False, **options) as response:
            body = await response.read()
            is_json = response.content_type == "application/json" and body
            return Answered(response.status, response.headers, body, await response.json() if is_json else None)


async def speak(address: str, *said: bytes) -> Answered:
    """Send bytes that no client would, each piece on its own, and read the one answer, to its last byte."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**24)
    try:
        for piece in said:
            writer.write(piece)
            await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").strip().split("\r\n")
        headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("Content-Length", 0)))
    finally:
        writer.close()
    is_json = headers.get("Content-Type", "").startswith("application/json") and body
    return Answered(int(status_line.split()[1]), headers, body, json.loads(body) if is_json else None)


@dataclass
class House:
    """A running server and all that is around it."""

    app: web.Application
    config: Config
    clock: ManualClock
    chatgpt: SimulatedChatGPT
    client: Client
    """Alice's client, with an access token that upstream accepts."""

    @property
    def mirror(self) -> Mirror:
        return self.app[MIRROR_OF_ALL]

    @property
    def auth(self) -> Auth:
        return self.app[AUTH]

    def client_of(self, account: Account) -> Client:
        return self.client.as_(account.token())


def make_config(folder: Path, base_url: str, **settings: str) -> Config:
    """The shipped configuration with a mirror in `folder`; `server__port="9"` sets what `[server] port` would."""
    environ = {f"CHATGPT_REST_{name.upper()}": value for name, value in settings.items()}
    return load_config(
        None,
        {
            "CHATGPT_REST_SERVER__PORT": "0",
            "CHATGPT_REST_SERVER__DRAIN_SECONDS": "5",
            "CHATGPT_REST_MIRROR__PATH": str(folder / "mirror.sqlite"),
            "CHATGPT_REST_UPSTREAM__BASE_URL": base_url,
            **environ,
        },
    )


@asynccontextmanager
async def open_house(
    folder: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, **settings: str
) -> AsyncIterator[House]:
    """Start the server over the mirror in `folder`. Leaving stops it; entering again is a restart."""
    config = make_config(folder, base_url, **settings)
    lay_out(config.mirror.path)
    async with (
        running(config, clock=clock) as app,
        listening(app, config.server) as listener,
        aiohttp.ClientSession() as session,
    ):
        client = Client(session, listener.address, chatgpt.alice.token())
        yield House(app, config, clock, chatgpt, client)
