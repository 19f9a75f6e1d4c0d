# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers as server-sent events: `POST /conversations/new` and `ask` where a client wishes so, and joining one that is
under way. `follow` is what every stream of answers goes through.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Final

from aiohttp import web

from chatgpt_rest import chatgpt_json
from chatgpt_rest.api.answers import PRIVATE
from chatgpt_rest.api.conversations import conversation_id_of
from chatgpt_rest.context import ASKING, MIRROR
from chatgpt_rest.errors import MirrorError, NotFound
from chatgpt_rest.live import LiveAsk
from chatgpt_rest.mirror import Standing
from chatgpt_rest.refusing import Refusal, refusal

EVENT_STREAM: Final = "text/event-stream"

KEEP_ALIVE_SECONDS: Final = 15.0
"""How long nothing may come from us: proxies and clients give a silent connection up after 30 to 60 s."""

_KEEP_ALIVE: Final = b": keep-alive\n\n"
_STALLED_SECONDS: Final = 30.0  # a reader that does not take one event within this is dropped
_SEND_BUFFER_BYTES: Final = 64 * 1024  # of the kernel's memory, for each reader; its own choice would be megabytes

log = logging.getLogger(__name__)


def wants_stream(request: web.Request) -> bool:
    """Whether the client asks for events: by name, not with the `*/*` that everybody sends."""
    accepted = request.headers.get("Accept", "").lower().split(",")
    return any(each.partition(";")[0].strip() == EVENT_STREAM for each in accepted)


async def join(request: web.Request) -> web.StreamResponse:
    """`GET /conversations/{id}/stream`: the answer under way there, from its beginning; 204 where there is none."""
    conversation_id = conversation_id_of(request)
    live = request.app[ASKING].under_way(request[MIRROR].account, conversation_id)
    if live is not None:
        return await stream_answer(request, live, status=200)
    if await request[MIRROR].conversations.standing(conversation_id) in {Standing.UNKNOWN, Standing.DELETED}:
        raise NotFound("conversation")
    return web.Response(status=204, headers={"Cache-Control": "no-store", "Vary": PRIVATE["Vary"]})


async def stream_answer(request: web.Request, live: LiveAsk, *, status: int) -> web.StreamResponse:
    """An answer as `delta` events (`replace` where ChatGPT rewrote one), and the whole `message` or an `error` last."""
    return await follow(request, live, _events(request, live), status=status)


async def follow(
    request: web.Request,
    live: LiveAsk,
    frames: AsyncGenerator[bytes],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Send `frames`, each a whole event, as they come, with a comment wherever nothing else was sent for a while.

    Where the ask fails before anything came of it, this raises its error, so that the client gets an honest status. It
    waits for that as long as a client can be left with nothing. A reader that stops reading is cut off, and the answer
    goes on without it.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(KEEP_ALIVE_SECONDS):
            await live.begun()
    if live.has_ended and not live.has_said:
        await live.result()
    response = web.StreamResponse(status=status, headers={**_headers(live), **(headers or {})})
    response.content_type = EVENT_STREAM
    response.charset = "utf-8"
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    reader = _Reader(request, response)
    watch = asyncio.create_task(reader.watch())
    try:
        with suppress(ConnectionError):  # it hung up, or was dropped; the answer goes on
            if not live.has_said:
                await reader.write(_KEEP_ALIVE)  # the headers leave with the first bytes of the body
            async with aclosing(frames):
                async for frame in frames:
                    await reader.write(frame)
            await response.write_eof()
    finally:
        watch.cancel()
        await asyncio.wait((watch,))
        reader.release()
    return response


class _Reader:
    """One client that reads a stream. No event of it waits in this process, and few wait in the kernel: a reader that
    stalls is noticed, and costs little.
    """

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response
        self._now = asyncio.get_running_loop().time
        self._wrote_at = self._now()
        self._is_writing = False
        if request.transport is not None:
            request.transport.set_write_buffer_limits(high=0)
            connection = request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    async def write(self, frame: bytes) -> None:
        """Send a whole event; it is with the kernel when this returns. Raises ConnectionError where the client went."""
        self._wrote_at = self._now()
        self._is_writing = True
        await self._response.write(frame)
        # As the response itself waits, but it does so only once in 64 KiB.
        await self._request.protocol._drain_helper()
        self._is_writing = False

    async def watch(self) -> None:
        """Keep the connection alive where there is nothing to say, and end it where nothing is taken."""
        while True:
            rest = self._wrote_at + (_STALLED_SECONDS if self._is_writing else KEEP_ALIVE_SECONDS) - self._now()
            if rest > 0:
                await asyncio.sleep(min(rest, KEEP_ALIVE_SECONDS))
            elif self._is_writing:
                log.info("dropped a client that stopped reading an answer")
                self._drop()
                return
            else:
                with suppress(ConnectionError):  # the next event finds it out, and so does the end
                    await self.write(_KEEP_ALIVE)

    def _drop(self) -> None:
        if self._request.transport is not None:
            # Else the kernel would keep what it has for this client, for as long as it says nothing.
            connection = self._request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._request.transport.abort()

    def release(self) -> None:
        """What comes over this connection next may be written as usual."""
        if self._request.transport is not None:
            self._request.transport.set_write_buffer_limits()


async def _events(request: web.Request, live: LiveAsk) -> AsyncGenerator[bytes]:
    async for piece in live.pieces():
        members = {"text": piece.text, "message_id": piece.message_id, "conversation_id": live.conversation_id}
        yield _event("replace" if piece.is_rewrite else "delta", members)
    try:
        yield _event("message", await live.result())
    except MirrorError as error:
        told = await refusal(request, error)
        retry_after = told.headers.get("Retry-After")
        more = {} if retry_after is None else {"retry_after_seconds": int(retry_after)}
        yield _event("error", {**told.members(), **more})
    except Exception:
        log.exception("an ask failed in mid-answer")
        yield _event("error", Refusal(500, "something went wrong here; the log says what", "internal").members())


def _event(name: str, members: Mapping[str, object]) -> bytes:
    return b"event: " + name.encode("ascii") + b"\ndata: " + chatgpt_json.dump(members) + b"\n\n"


def _headers(live: LiveAsk) -> dict[str, str]:
    headers = {
        "Cache-Control": "no-store",
        "Vary": PRIVATE["Vary"],
        "X-Accel-Buffering": "no",  # nginx would hold events back until it has a bufferful
    }
    return headers if live.conversation_id is None else {**headers, "X-Conversation-Id": live.conversation_id}
