# SPDX-License-Identifier: GPL-2.0-or-later
"""The official `openai` package, made safe. Importing this module imports it (about a second): only when needed.

It is given a client of ours, whose transport rebuilds each request from what the API needs to know. So nothing of the
machine is told (the package sends its system, its Python, headers from the environment), the package never holds the
key, which is added at the door, and what upstream refuses is read here, within bounds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final, Self, cast

import httpx
import openai

from chatgpt_rest.errors import UpstreamBroken
from chatgpt_rest.upstream import openai_refusals
from chatgpt_rest.upstream.limits import DRAIN_SECONDS, LARGEST_REFUSAL_BYTES, MIB, REQUEST_SECONDS
from chatgpt_rest.upstream.openai_answer import CompletionAnswer
from chatgpt_rest.upstream.openai_events import ChunkReader
from chatgpt_rest.upstream.protocol import Caller
from chatgpt_rest.upstream.refusals import parsed
from chatgpt_rest.upstream.transport import ERRAND, Errand, fault_of, open_client, open_door

_CHATTY: Final = ("openai", "httpx", "httpcore", "httpx2", "httpcore2")
_TOLD: Final = frozenset({"host", "accept", "content-type", "content-length"})
"""The package's headers that a request leaves with."""
_COMPLETIONS: Final = "chat/completions"
_NOT_THE_KEY: Final = "-"  # the package insists on one
_LARGEST_STEP_BYTES: Final = 128 * 1024  # of an answer, before others have a turn: reading them takes about 20 ms
_LARGEST_LIST_BYTES: Final = 16 * MIB  # of models: the longest known ones have a few thousand

_errand: ContextVar[Errand | None] = ContextVar("errand", default=None)


class OpenAIClient:
    """The API at `base_url`, for any caller. Raises MirrorError alone."""

    def __init__(self, *, base_url: str, user_agent: str) -> None:
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)  # as for revChatGPT
        transport = _Envelope(open_door(base_url), user_agent=user_agent)
        self._client = openai.AsyncOpenAI(
            # Each of these would else come from the environment.
            api_key=_NOT_THE_KEY,
            admin_api_key="",
            organization="",
            project="",
            webhook_secret="",
            base_url=base_url,
            max_retries=0,
            # The package takes a client of httpx as well as of its successor; the door is made of the former.
            http_client=cast(Any, open_client(base_url, user_agent=user_agent, transport=transport)),
        )
        # Else it would find that out with a thread and a program of the system's, for a header that is thrown away.
        self._client._platform = "Unknown"

    @asynccontextmanager
    async def completing(
        self, caller: Caller, answer: CompletionAnswer, body: dict[str, Any], *, timeout_seconds: float
    ) -> AsyncGenerator[AsyncIterator[Iterable[object]]]:
        """The chunks of a streamed completion, those that came at once together; the response's headers are in as the
        context is entered. One request.
        """
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        async with AsyncExitStack() as stack:
            creating = self._client.chat.completions.with_streaming_response.create(**body, stream=True)
            response = await _begun(stack, creating, Errand(caller, _COMPLETIONS), deadline=deadline)
            reads = Reads(response, answer, deadline=deadline)
            yield reads
            await reads.drain()

    async def models(self, caller: Caller) -> list[Any]:
        """The list's items, each of them whatever upstream made it."""
        with _on(Errand(caller, "models")):
            # Raw, as the package's own reading fails in many ways where this is no such list.
            response = await self._client.models.with_raw_response.list()
        page, _ = parsed(response.content)
        items = page.get("data") if isinstance(page, dict) else None
        if not isinstance(items, list):
            raise UpstreamBroken("upstream's list of models cannot be read; is base_url right?")
        return items

    async def aclose(self) -> None:
        await self._client.close()


class Reads:
    """A response as chunks, those of each read from the network together. No generator, so that a reader that leaves
    early leaves nothing behind to be finalised.
    """

    def __init__(self, response: httpx.Response, answer: CompletionAnswer, *, deadline: float) -> None:
        self._bytes = response.aiter_bytes()
        self._answer = answer
        self._deadline = deadline
        self._reader = ChunkReader()
        self._waiting = memoryview(b"")  # what came in one read and was not looked at yet
        self._has_ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Iterable[object]:
        if self._has_ended or self._reader.is_done:
            self._answer.is_done = self._reader.is_done
            if not self._answer.has_begun:
                raise openai_refusals.no_answer(bytes(self._reader.stray))
            raise StopAsyncIteration
        # What lies ready is read without waiting: from a fast server, an answer to its end, and nobody else had a turn.
        await asyncio.sleep(0)
        if not self._waiting:
            received = await self._received()
            if received is None:
                self._has_ended = True
                return self._reader.end()
            self._waiting = memoryview(received)
        step, self._waiting = self._waiting[:_LARGEST_STEP_BYTES], self._waiting[_LARGEST_STEP_BYTES:]
        return self._reader.feed(bytes(step))

    async def drain(self) -> None:
        """Read what follows `[DONE]`, so that the connection can be used again."""
        with suppress(TimeoutError, httpx.HTTPError):
            async with asyncio.timeout(DRAIN_SECONDS):
                async for _ in self._bytes:
                    pass

    async def _received(self) -> bytes | None:
        """The next bytes, None at the end. A connection that breaks after all is said has ended, too."""
        try:
            async with asyncio.timeout_at(self._deadline):
                return await anext(self._bytes, None)
        except (httpx.HTTPError, TimeoutError) as error:
            fault = fault_of(error)
        if self._answer.is_complete:
            return None
        raise fault


class _Envelope(httpx.AsyncBaseTransport):
    """Stands between the package and the door. Raises what upstream refuses with, right through the package."""

    def __init__(self, door: httpx.AsyncBaseTransport, *, user_agent: str) -> None:
        self._door = door
        self._own_headers = [(b"Accept-Encoding", b"identity"), (b"User-Agent", user_agent.encode("ascii"))]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        errand = _errand.get()
        headers = [(name, value) for name, value in request.headers.raw if name.decode("ascii").lower() in _TOLD]
        outgoing = httpx.Request(
            request.method,
            request.url,
            headers=[*headers, *self._own_headers],
            stream=request.stream,
            extensions={"timeout": request.extensions["timeout"], ERRAND: errand},
        )
        response = await self._door.handle_async_request(outgoing)
        is_answer = errand is not None and errand.path == _COMPLETIONS
        if response.is_success and is_answer:
            return response
        body = await _read(response, limit=_LARGEST_LIST_BYTES if response.is_success else LARGEST_REFUSAL_BYTES)
        if response.is_success:
            content_type = response.headers.get("Content-Type", "")
            return httpx.Response(response.status_code, headers={"Content-Type": content_type}, content=body)
        if (
            errand is not None
        ):  # some servers repeat the request's headers in an error, and the error goes to the client
            body = body.replace(errand.caller.token.reveal().encode("ascii"), b"[API key]")
        raise openai_refusals.refusal(response.status_code, body, response.headers)

    async def aclose(self) -> None:
        await self._door.aclose()


@contextmanager
def _on(errand: Errand) -> Iterator[None]:
    """Requests made within are this errand's."""
    before = _errand.set(errand)
    try:
        yield
    finally:
        _errand.reset(before)


async def _begun(
    stack: AsyncExitStack,
    creating: AbstractAsyncContextManager[openai.AsyncAPIResponse[Any]],
    errand: Errand,
    *,
    deadline: float,
) -> httpx.Response:
    """The response, its headers in, open until `stack` ends."""
    try:
        async with asyncio.timeout_at(deadline):
            with _on(errand):
                response = await stack.enter_async_context(creating)
            return cast(Any, response.http_response)  # type: ignore[no-any-return]  # of the client it was given
    except TimeoutError as error:
        fault = fault_of(error)
    raise fault


async def _read(response: httpx.Response, *, limit: int) -> bytes:
    """The whole body; nothing of one that breaks off or is too large, as the status alone says enough."""
    body = bytearray()
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            async for received in response.aiter_raw():
                body += received
                if len(body) > limit:
                    return b""
    except (httpx.HTTPError, TimeoutError):
        return b""
    finally:
        await response.aclose()
    return bytes(body)
