# SPDX-License-Identifier: GPL-2.0-or-later
"""An OpenAI API of one's own, on loopback: streamed chat completions and the list of models, as the real one words
them.

It keeps nothing but a record of what it was asked. How it answers next is told by `replies`, one for each request.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiohttp import web

from .delivery import reset

BASE_PATH = "/v1/"
SHUTDOWN_SECONDS = 0.05


@dataclass
class Reply:
    """How one request is answered. What counts pieces counts those of the text, each a word with what follows it."""

    text: str | None = None
    """None repeats the last message that came, after `You said: `."""
    finish: str | None = "stop"
    model: str | None = None
    """What it says that answered; None is what was asked for."""
    says_done: bool = True
    status: int = 200
    body: object = None
    """In place of a stream: a page as text, anything else as JSON."""
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    """A stream's bytes as they are."""
    hold: asyncio.Event | None = None
    """What it waits for before the headers, or after `hold_after` pieces."""
    hold_after: int | None = None
    reset_after: int | None = None
    """The connection is reset after so many pieces; 0 is before the headers."""
    error_after: int | None = None
    error: object = None


@dataclass
class Received:
    """One request. `body` is its JSON."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    was_left: asyncio.Event = field(default_factory=asyncio.Event)
    """The client went away before the answer's end."""


class SimulatedOpenAI:
    """An API that accepts `key` and offers `models`."""

    def __init__(self) -> None:
        self.key = f"sk-proj-{secrets.token_urlsafe(32)}"
        self.models = ["gpt-large", "gpt-small"]
        self.replies: deque[Reply] = deque()
        self.received: list[Received] = []
        self.was_asked = asyncio.Event()
        """A request has come."""
        self.knows_stream_options = True

    @property
    def asked(self) -> list[list[tuple[str, str]]]:
        """The messages of each completion asked for, as `(role, content)`."""
        return [
            [(each["role"], each["content"]) for each in request.body["messages"]]
            for request in self.received
            if request.method == "POST"
        ]

    def app(self) -> web.Application:
        """An application that serves this API below /v1/."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get(BASE_PATH + "models", self._list)
        app.router.add_post(BASE_PATH + "chat/completions", self._complete)
        return app

    @asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """Serve until left; gives the base URL, which ends in /v1/."""
        # Cancelled with its connection, a handler says in `was_left` that the client went away.
        runner = web.AppRunner(
            self.app(), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS, handler_cancellation=True
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            yield f"http://{host}:{runner.addresses[0][1]}{BASE_PATH}"
        finally:
            await runner.cleanup()

    async def _list(self, request: web.Request) -> web.StreamResponse:
        _, reply, refusal = await self._receive(request)
        if refusal is not None:
            return refusal
        if reply.body is not None:
            return _whole(reply)
        data = [{"id": each, "object": "model", "created": 1_700_000_000, "owned_by": "sim"} for each in self.models]
        return web.json_response({"object": "list", "data": data})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        received, reply, refusal = await self._receive(request)
        refusal = refusal or self._refuse(received.body)
        if refusal is not None:
            return refusal
        try:
            return await self._answer(request, received, reply)
        except (asyncio.CancelledError, ConnectionError):
            received.was_left.set()
            raise

    async def _receive(self, request: web.Request) -> tuple[Received, Reply, web.Response | None]:
        body = await request.json() if request.can_read_body else None
        received = Received(request.method, request.path, dict(request.headers), body)
        self.received.append(received)
        self.was_asked.set()
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if given != self.key:
            message = f"Incorrect API key provided: {given[:8]}********{given[-4:]}. You can find your API key at …"
            return received, Reply(), error_of(401, message, "invalid_request_error", "invalid_api_key")
        return received, self.replies.popleft() if self.replies else Reply(), None

    def _refuse(self, body: dict[str, Any]) -> web.Response | None:
        if body["model"] not in self.models:
            message = f"The model `{body['model']}` does not exist or you do not have access to it."
            return error_of(404, message, "invalid_request_error", "model_not_found")
        if "stream_options" in body and not self.knows_stream_options:
            return error_of(
                400, "Unrecognized request argument supplied: stream_options", "invalid_request_error", None
            )
        return None

    async def _answer(self, request: web.Request, received: Received, reply: Reply) -> web.StreamResponse:
        if reply.hold is not None and reply.hold_after is None:
            await reply.hold.wait()
        if reply.reset_after == 0:
            reset(request)
        if reply.status != 200 or reply.body is not None:
            return _whole(reply)
        return await self._stream(request, received, reply)

    async def _stream(self, request: web.Request, received: Received, reply: Reply) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **reply.headers})
        await response.prepare(request)
        if reply.raw is not None:
            await response.write(reply.raw)
            return response
        same = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": reply.model or received.body["model"],
        }
        chunk = partial(_chunk, same)
        await response.write(chunk({"role": "assistant", "content": ""}))
        text = f"You said: {received.body['messages'][-1]['content']}" if reply.text is None else reply.text
        for number, piece in enumerate([*re.findall(r"\s*\S+\s*", text), ""]):
            if number == reply.hold_after and reply.hold is not None:
                await reply.hold.wait()
            if number == reply.reset_after:
                reset(request)
                return response
            if number == reply.error_after:
                await response.write(_event({"error": reply.error}))
                return response
            if piece:
                await response.write(chunk({"content": piece}))
        if reply.finish is not None:
            await response.write(chunk({}, finish=reply.finish))
        if received.body.get("stream_options", {}).get("include_usage"):
            usage = {"prompt_tokens": 7, "completion_tokens": len(text.split()), "total_tokens": 7 + len(text.split())}
            await response.write(chunk(None, usage=usage))
        if reply.says_done:
            await response.write(b"data: [DONE]\n\n")
        return response


def error_of(status: int, message: str, kind: str, code: str | None, **headers: str) -> web.Response:
    """An error in OpenAI's shape."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return web.json_response({"error": error}, status=status, headers=headers)


def _whole(reply: Reply) -> web.Response:
    if isinstance(reply.body, str):
        return web.Response(status=reply.status, text=reply.body, content_type="text/html", headers=reply.headers)
    return web.json_response(reply.body, status=reply.status, headers=reply.headers)


def _chunk(
    same: Mapping[str, object],
    delta: dict[str, str] | None,
    *,
    finish: str | None = None,
    usage: dict[str, int] | None = None,
) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return _event({**same, "choices": choices, "usage": usage})


def _event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
