# SPDX-License-Identifier: GPL-2.0-or-later
"""The session revChatGPT is given in place of its own: `get`, `patch` and `stream` over the shared, metered client.

What reaches revChatGPT are replies and streams of ours, never httpx's responses: those lead to the request. And only
successes reach it: refusals are raised here, right through it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final, Self, cast

import httpx

from chatgpt_rest.chatgpt_json import is_id
from chatgpt_rest.errors import BadRequest, Unauthorized, UpstreamBroken, UpstreamError
from chatgpt_rest.upstream import refusals
from chatgpt_rest.upstream.answer import OPENING, LiveAnswer
from chatgpt_rest.upstream.events import EventReader
from chatgpt_rest.upstream.limits import (
    DRAIN_SECONDS,
    LARGEST_REFUSAL_BYTES,
    LARGEST_REPLY_BYTES,
    MIB,
    REQUEST_SECONDS,
)
from chatgpt_rest.upstream.protocol import Caller
from chatgpt_rest.upstream.transport import ERRAND, Errand, fault_of
from chatgpt_rest.upstream.wire import DEADLINE

_TOKEN: Final = re.compile(r"[!-~]{1,16384}")


class Session:
    """One caller's requests. `answer` is what a stream fills; nothing else needs one.

    Every method raises UpstreamError, BadRequest for an id that is none, and what the caller's gate raises.
    """

    def __init__(
        self, client: httpx.AsyncClient, *, base_url: str, caller: Caller, answer: LiveAnswer | None = None
    ) -> None:
        self._client = client
        self._base_url = base_url
        self._caller = caller
        self._answer = answer

    async def get(self, url: str) -> Reply:
        return await self._fetch("GET", url)

    async def patch(self, url: str, data: str) -> Reply:
        """A change. Raises UpstreamBroken also for a success that does not say so: a login page is no deletion."""
        reply = await self._fetch("PATCH", url, data=data)
        if not reply.is_confirmation():
            raise UpstreamBroken("upstream does not confirm the change")
        return reply

    @asynccontextmanager
    async def stream(self, method: str, url: str, *, data: str, timeout: float) -> AsyncGenerator[Stream]:  # noqa: ASYNC109  # revChatGPT's name
        """A response that is read as it comes; `timeout` (seconds) is for the whole of it."""
        if self._answer is None:
            raise TypeError("a stream needs an answer to fill")
        deadline = asyncio.get_running_loop().time() + timeout
        response = await self._send(method, url, data=data, accept="text/event-stream", deadline=deadline)
        stream = Stream(response, self._answer)
        try:
            yield stream
            await stream.drain()
        finally:
            await stream.aclose()

    async def _fetch(self, method: str, url: str, *, data: str | None = None) -> Reply:
        deadline = asyncio.get_running_loop().time() + REQUEST_SECONDS
        response = await self._send(method, url, data=data, accept="application/json", deadline=deadline)
        try:
            body = await _body(response, deadline=deadline, limit=LARGEST_REPLY_BYTES)
        finally:
            await response.aclose()
        if len(body) > LARGEST_REPLY_BYTES:
            raise UpstreamBroken("upstream's reply is larger than any conversation can be")
        return Reply(body)

    async def _send(self, method: str, url: str, *, data: str | None, accept: str, deadline: float) -> httpx.Response:
        """The response to one request, its headers in and its body still to come. Raises what upstream refuses with."""
        token = self._caller.token
        if _TOKEN.fullmatch(token.reveal()) is None:
            raise Unauthorized("the access token holds characters that no token has")
        request = self._client.build_request(
            method,
            url,
            content=data,
            headers={"Accept": accept} | ({} if data is None else {"Content-Type": "application/json"}),
            extensions={ERRAND: Errand(self._caller, self._template(url)), DEADLINE: deadline},
        )
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._client.send(request, stream=True)
        except TimeoutError as error:
            fault = fault_of(error)
        else:
            if response.is_success:
                return response
            fault = await self._refusal(response, deadline=deadline)
        raise fault

    async def _refusal(self, response: httpx.Response, *, deadline: float) -> UpstreamError:
        try:
            body = await _body(response, deadline=deadline, limit=LARGEST_REFUSAL_BYTES)
        except UpstreamError:
            body = b""  # the status alone says enough
        finally:
            await response.aclose()
        # Some servers repeat the request's headers in an error, and the error goes to the client.
        body = body.replace(self._caller.token.reveal().encode("ascii"), b"[access token]")
        return refusals.refusal(response.status_code, body, response.headers)

    def _template(self, url: str) -> str:
        """The path of `url` with no ids in it. Raises BadRequest for any path that this program has no business with:
        httpx resolves dots, and `conversation/../conversations` means all of them.
        """
        path, _, _ = url.removeprefix(self._base_url).partition("?")
        match path.split("/"):
            case ["conversations" | "conversation" | "models"] | ["gizmos", "snorlax", "sidebar"]:
                return path
            case ["conversation", conversation_id] if is_id(conversation_id):
                return "conversation/{id}"
            case ["gizmos", project_id, "conversations"] if is_id(project_id):
                return "gizmos/{id}/conversations"
        raise BadRequest("this is no id of a conversation or a project")


class Reply:
    """A whole response, as far as revChatGPT looks at one."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.encoding = "utf-8"

    @property
    def text(self) -> str:
        return self._body.decode("utf-8-sig", "replace")

    def raise_for_status(self) -> None:
        """Nothing: what is here has succeeded."""

    def is_confirmation(self) -> bool:
        """Whether this says that a change was made: `{"success": true}`, or no content at all."""
        if not self._body:
            return True
        try:
            said = json.loads(self.text)
        except (ValueError, RecursionError):
            return False
        return isinstance(said, dict) and said.get("success", True) is True


class Stream:
    """An answer's response, as far as revChatGPT looks at one: lines that it neither drops nor crashes on.

    No generator, so that a reader that leaves early leaves nothing behind to be finalised at some later time.
    """

    def __init__(self, response: httpx.Response, answer: LiveAnswer) -> None:
        self._response = response
        # Where nothing has to be unpacked httpx adds nothing but its own time, to every event.
        is_packed = "Content-Encoding" in response.headers
        self._chunks = response.aiter_bytes() if is_packed else aiter(cast(httpx.AsyncByteStream, response.stream))
        self._answer = answer
        self._reader = EventReader()
        self._lines = deque([OPENING])
        self._has_ended = False

    def raise_for_status(self) -> None:
        """Nothing: what is here has succeeded."""

    def aiter_lines(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while not self._lines:
            if self._has_ended:
                raise StopAsyncIteration
            await self._read()
        return self._lines.popleft()

    async def drain(self) -> None:
        """Read what follows `[DONE]`, so that the connection can be used again; one that does not end is closed."""
        rest = MIB
        with suppress(TimeoutError, httpx.HTTPError):
            async with asyncio.timeout(DRAIN_SECONDS):
                async for chunk in self._chunks:
                    rest -= len(chunk)
                    if rest < 0:
                        return

    async def aclose(self) -> None:
        await self._response.aclose()

    async def _read(self) -> None:
        """Read once from the network; `_lines` then holds what came of it."""
        chunk = await self._chunk()
        events = self._reader.end() if chunk is None else self._reader.feed(chunk)
        # Of what came together the newest says it all: each event repeats its message's text so far.
        grown = {self._answer.take(event): None for event in events}
        self._lines.extend(self._answer.line(identifier) for identifier in grown if identifier is not None)
        self._answer.is_done = self._reader.is_done
        self._has_ended = chunk is None or self._reader.is_done
        if self._has_ended:
            self._answer.check(bytes(self._reader.stray))

    async def _chunk(self) -> bytes | None:
        """The next bytes, None at the end. A connection that breaks after all is said has ended, too."""
        try:
            return await anext(self._chunks, None)
        except httpx.HTTPError as error:
            fault = fault_of(error)
        if self._answer.is_complete:
            return None
        raise fault


async def _body(response: httpx.Response, *, deadline: float, limit: int) -> bytes:
    """The response's body, or a beginning of it that is larger than `limit`."""
    body = bytearray()
    try:
        async with asyncio.timeout_at(deadline):
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > limit:
                    break
    except (httpx.HTTPError, TimeoutError) as error:
        fault = fault_of(error)
    else:
        return bytes(body)
    raise fault
