# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of the simulated ChatGPT, for the tests that look at it from outside."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

NOON = 1_790_000_000.5
PROMPT_ID = "aaa11111-2222-4333-8444-555555555555"
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = NOON

    def __call__(self) -> float:
        return self.seconds


class Client:
    """Asks the simulated ChatGPT as alice, or as whoever's token is given."""

    def __init__(self, session: aiohttp.ClientSession, base: str, token: str) -> None:
        self._session = session
        self._base = base
        self._token = token

    async def ask(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> Reply:
        headers = {"Authorization": f"Bearer {token or self._token}"}
        return await self.raw(method, self._base + path, body, headers=headers)

    async def knob(self, method: str, path: str, body: Any = None) -> Reply:
        return await self.raw(method, self._base.replace("/backend-api/", path), body, headers={})

    async def raw(self, method: str, url: str, body: Any, *, headers: dict[str, str]) -> Reply:
        async with self._session.request(method, url, json=body, headers=headers) as response:
            return Reply(response.status, response.headers.copy(), await response.read())

    def opened(self, prompt: str) -> Any:
        """A stream that is read piece by piece."""
        headers = {"Authorization": f"Bearer {self._token}"}
        return self._session.post(self._base + "conversation", json=asked(prompt), headers=headers)

    async def prompt(self, prompt: str = "Hello", **fields: Any) -> Reply:
        return await self.ask("POST", "conversation", asked(prompt, **fields))


class Reply:
    """A whole answer."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of the stream's events, [DONE] left out."""
        lines = [line.removeprefix("data: ") for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"]

    @property
    def answers(self) -> list[Any]:
        """The assistant's messages for the reader, as they grew."""
        messages = [event["message"] for event in self.events if event.get("message")]
        return [message for message in messages if message["author"]["role"] == "assistant"]


def asked(prompt: str, **fields: Any) -> dict[str, Any]:
    """The body of a first prompt, or of another request with these fields instead."""
    message = {
        "id": PROMPT_ID,
        "author": {"role": "user"},
        "content": {"content_type": "text", "parts": [prompt]},
    }
    return {
        "action": "next",
        "messages": [message],
        "conversation_id": None,
        "parent_message_id": UNKNOWN_ID,
        "model": "auto",
        "history_and_training_disabled": False,
        **fields,
    }


def part(message: Any) -> Any:
    """The last part of a message: its text, on all that have one."""
    return message["content"]["parts"][-1]
