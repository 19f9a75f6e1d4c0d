# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole server with an OpenAI API behind it, and clients with local keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from chatgpt_rest.app import running
from chatgpt_rest.config import Config
from chatgpt_rest.context import MIRROR_OF_ALL
from chatgpt_rest.control import Control, control_over
from chatgpt_rest.listener import listening
from chatgpt_rest.mirror import Mirror
from chatgpt_rest.upstream.simulated import SimulatedOpenAI
from tests.house import Answered, Client, ManualClock, make_config

OPENAI = {"upstream__kind": "openai", "upstream__model": "gpt-large"}


@dataclass
class House:
    """A running server with an API behind it, and one account with a local key."""

    app: web.Application
    config: Config
    clock: ManualClock
    api: SimulatedOpenAI
    client: Client
    control: Control

    @property
    def mirror(self) -> Mirror:
        return self.app[MIRROR_OF_ALL]

    async def ask(self, prompt: str, conversation_id: str | None = None, **more: Any) -> dict[str, Any]:
        """The answer's message object."""
        path = "new" if conversation_id is None else f"{conversation_id}/ask"
        answer = await self.client.post(f"/conversations/{path}", json={"prompt": prompt, **more})
        assert answer.status == 201, answer.body
        found: dict[str, Any] = answer.json["response"]
        return found

    async def messages(self, conversation_id: str) -> list[str]:
        """What `GET messages` shows, words alone."""
        answer = await self.client.get(f"/conversations/{conversation_id}/messages")
        assert answer.status == 200, answer.body
        return [each["message"] for each in answer.json]


@asynccontextmanager
async def open_keyed(
    folder: Path, api: SimulatedOpenAI, api_url: str, clock: ManualClock, **settings: str
) -> AsyncIterator[House]:
    """Start the server with the API's key. Entering again is a restart; the account and its key are made where they
    are missing.
    """
    settings.setdefault("upstream__api_key", api.key)
    config = make_config(folder, api_url, **OPENAI, **settings)
    async with (
        running(config, clock=clock) as app,
        listening(app, config.server) as listener,
        aiohttp.ClientSession() as session,
    ):
        control = control_over(app, clock)
        made = await control.create_key(f"key-{len(await control.list_keys())}", None)
        yield House(app, config, clock, api, Client(session, listener.address, made["key"]), control)


@asynccontextmanager
async def opened_with(config: Config, clock: ManualClock, authorization: str | None) -> AsyncIterator[Client]:
    """Start the server with another configuration, for a client that has a key already."""
    async with (
        running(config, clock=clock) as app,
        listening(app, config.server) as listener,
        aiohttp.ClientSession() as session,
    ):
        yield Client(session, listener.address, authorization)


def refused(answer: Answered, status: int, code: str) -> bool:
    """Whether it says no in this way."""
    return (answer.status, answer.json["code"]) == (status, code)
