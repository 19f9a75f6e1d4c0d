# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands at both ends of a test of the adapter: a gate that writes down, and a server that answers in bytes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from chatgpt_rest.errors import BudgetSpent, UpstreamError
from chatgpt_rest.model import Question, Secret
from chatgpt_rest.upstream.protocol import Caller, Gate

PROMPT_ID = "7f3c1a52-9d0e-4b6f-8a41-2c5d7e9f0b13"
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


class RecordingReceipt:
    """One token, and where its request ended."""

    def __init__(self, taken: str) -> None:
        self.taken = taken
        self.outcomes: list[int | str] = []

    async def arrived(self, outcome: int | str) -> None:
        await asyncio.sleep(0)  # as any real log would: a cancellation can fall into it
        self.outcomes.append(outcome)


class RecordingGate:
    """Gives `tokens` tokens and remembers for what."""

    def __init__(self, tokens: int = 1_000) -> None:
        self.tokens = tokens
        self.receipts: list[RecordingReceipt] = []
        self.refusals: list[tuple[UpstreamError, str | None]] = []

    @property
    def taken(self) -> list[str]:
        return [receipt.taken for receipt in self.receipts]

    @property
    def outcomes(self) -> list[int | str]:
        """One for each token; a token without exactly one fails here."""
        return [outcome for receipt in self.receipts for (outcome,) in [receipt.outcomes]]

    async def take(self, method: str, path: str) -> RecordingReceipt:
        await asyncio.sleep(0)
        if len(self.receipts) >= self.tokens:
            raise BudgetSpent(retry_after_seconds=60)
        self.receipts.append(RecordingReceipt(f"{method} {path}"))
        return self.receipts[-1]

    async def refused(self, error: UpstreamError, *, model: str | None = None) -> None:
        self.refusals.append((error, model))


def caller(gate: Gate, token: str = "a-token") -> Caller:
    """Alice, with this gate and this token."""
    return Caller("alice", Secret(token), gate)


def question(
    prompt: str = "Hello?",
    *,
    message_id: str = PROMPT_ID,
    conversation_id: str | None = None,
    parent_id: str | None = None,
    model: str | None = None,
) -> Question:
    """A question with an id; without a conversation it opens one."""
    return Question(message_id, prompt, conversation_id, parent_id, model)


def chunked(*chunks: bytes, end: bool = True) -> bytes:
    """A stream's response, one HTTP chunk for each of `chunks`; without its end where that is not to come."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return SSE + b"Transfer-Encoding: chunked\r\n\r\n" + body + (b"0\r\n\r\n" if end else b"")


def reply(body: bytes, *, status: str = "200 OK", headers: bytes = b"") -> bytes:
    """A whole response."""
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n".encode()
        + headers
        + b"\r\n"
        + body
    )


class RawUpstream:
    """A server that answers each request with exactly the bytes `answer` writes, and remembers what came."""

    def __init__(self, answer: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.connections = 0
        self.was_asked = asyncio.Event()
        """A whole request has come."""
        self.was_reset = asyncio.Event()
        """A client closed its connection with a reset."""
        self.was_closed = asyncio.Event()
        """A client closed its connection, in whatever way."""
        self.base_url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[RawUpstream]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/backend-api/"
        self._tasks: set[asyncio.Task[None]] = set()
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        self.connections += 1
        try:
            while await self._receive(reader):
                await self.answer(writer)
                await writer.drain()
        except ConnectionError:
            self.was_reset.set()
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            self.was_closed.set()

    async def _receive(self, reader: asyncio.StreamReader) -> bool:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        self.requests.append(head + await reader.readexactly(length))
        self.was_asked.set()
        return True


def answering(*replies: bytes, then_close: bool = False) -> RawUpstream:
    """A server that sends these replies in turn, the last of them for ever."""
    left = list(replies)

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        if then_close:
            writer.close()

    return RawUpstream(answer)


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
