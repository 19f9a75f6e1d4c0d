# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers as server-sent events: `POST /conversations/new` and `ask` where a client wishes so, and joining one that is
under way. `follow` is what every stream of answers goes through.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Final

from aiohttp import HttpVersion11, web

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
    waits for that as long as a client can be left with nothing. From then on it raises nothing: where `frames` fails,
    the connection is cut in the middle of the body, which no client takes for its end. A reader that stops reading is
    dropped by the listener; the answer goes on without it.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(KEEP_ALIVE_SECONDS):
            await live.begun()
    if live.has_ended and not live.has_said:
        await live.result()
    response = web.StreamResponse(status=status, headers={**_headers(live), **(headers or {})})
    response.content_type = EVENT_STREAM
    response.charset = "utf-8"
    if request.version < HttpVersion11:
        response.force_close()  # nothing else marks the end of a body there
    if request.transport is None or request.transport.is_closing():
        return response  # it hung up before the first word
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    reader = _Reader(request, response)
    keeping_alive = asyncio.create_task(reader.keep_alive())
    try:
        if not live.has_said:
            await reader.write(_KEEP_ALIVE)  # the headers leave with the first bytes of the body
        async with aclosing(frames):
            async for frame in frames:
                await reader.write(frame)
        await reader.end()
    except ConnectionError:
        pass  # it hung up, or was dropped; the answer goes on
    except Exception:
        # Whoever answers for errors would write a second response into this one.
        log.exception("a stream of an answer failed")
        reader.break_off()
    finally:
        keeping_alive.cancel()
        await asyncio.wait((keeping_alive,))
        reader.release()
    return response


class _Reader:
    """One client that reads a stream. No event of it waits in this process, and few wait in the kernel: one that stalls
    costs little, and the listener sees it stall at once, and drops it.
    """

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response
        self._sending = asyncio.Lock()
        self._now = asyncio.get_running_loop().time
        self._wrote_at = self._now()
        if request.transport is not None:
            request.transport.set_write_buffer_limits(high=0)
            connection = request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    async def write(self, frame: bytes) -> None:
        """Send a whole event; it is with the kernel when this returns. Raises ConnectionError where the client went."""
        async with self._sending:
            self._wrote_at = self._now()
            await self._response.write(frame)
            # As the response itself waits, but it does so only once in 64 KiB. Of two who wait there, one that is
            # cancelled would cancel the other (aiohttp 3.14).
            await self._request.protocol._drain_helper()

    async def keep_alive(self) -> None:
        """Say something wherever nothing was said for a while, until the connection ends."""
        with suppress(ConnectionError):  # the next event finds it out, and so does the end
            while True:
                rest = self._wrote_at + KEEP_ALIVE_SECONDS - self._now()
                if rest > 0:
                    await asyncio.sleep(rest)
                else:
                    await self.write(_KEEP_ALIVE)

    async def end(self) -> None:
        """Say that this was all. Raises ConnectionError."""
        async with self._sending:
            await self._response.write_eof()

    def break_off(self) -> None:
        """End the connection, so that what came so far cannot be taken for all."""
        if self._request.transport is not None:
            self._request.transport.abort()

    def release(self) -> None:
        """What comes over this connection next may be written as usual."""
        if self._request.transport is not None:
            self._request.transport.set_write_buffer_limits()


async def _events(request: web.Request, live: LiveAsk) -> AsyncGenerator[bytes]:
    async for piece in live.pieces():
        members = {"text": piece.text, "message_id": piece.message_id, "conversation_id": live.conversation_id}
        yield _event("replace" if piece.is_rewrite else "delta", members)
    yield await _last_event(request, live)


async def _last_event(request: web.Request, live: LiveAsk) -> bytes:
    """The whole message, or what a client is told in its place. Of a fault of ours, be it one in telling an error, the
    log alone has more.
    """
    try:
        try:
            return _event("message", await live.result())
        except MirrorError as error:
            told = await refusal(request, error)
    except Exception:
        log.exception("an ask failed in mid-answer")
        told = Refusal(500, "something went wrong here; the log says what", "internal")
    retry_after = told.headers.get("Retry-After")
    more = {} if retry_after is None else {"retry_after_seconds": int(retry_after)}
    return _event("error", {**told.members(), **more})


def _event(name: str, members: Mapping[str, object]) -> bytes:
    return b"event: " + name.encode("ascii") + b"\ndata: " + chatgpt_json.dump(members) + b"\n\n"


def _headers(live: LiveAsk) -> dict[str, str]:
    headers = {
        "Cache-Control": "no-store",
        "Vary": PRIVATE["Vary"],
        "X-Accel-Buffering": "no",  # nginx would hold events back until it has a bufferful
    }
    return headers if live.conversation_id is None else {**headers, "X-Conversation-Id": live.conversation_id}
