# SPDX-License-Identifier: GPL-2.0-or-later
"""The access token shows nowhere but on the wire."""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import Iterator

import pytest

from chatgpt_rest.errors import MirrorError, UpstreamError
from chatgpt_rest.upstream.protocol import Caller
from chatgpt_rest.upstream.revchatgpt import RevChatGPT
from tests.upstream.far_end import RecordingGate, answering, caller, chunked, closed_port, question, reply

CANARY = "canary-7d1f0c"


def on_behalf() -> Caller:
    """A caller whose token is the canary."""
    return caller(RecordingGate(), CANARY)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that the root logger is told at DEBUG."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.setLevel(level)
    root.removeHandler(handler)


def everything_about(error: BaseException) -> str:
    """All that a log, a debugger or a curious handler could print of an error, local variables included."""
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is not None and each not in seen:
            seen.append(each)
            todo += [each.__cause__, each.__context__]
    told = [
        "".join(traceback.TracebackException.from_exception(each, capture_locals=True).format())
        + f"{each!r} {each!s} {each.args!r} {vars(each)!r} {getattr(each, '__notes__', None)!r}"
        for each in seen
    ]
    return "".join(told)


REPLIES = {
    "reset": b"",
    "half_headers": b"HTTP/1.1 200 OK\r\nContent-",
    "page": reply(b"<html></html>"),
    "bad_token": reply(b'{"detail": "Could not parse your authentication token."}', status="401 Unauthorized"),
    "forbidden": reply(b'{"detail": "forbidden"}', status="403 Forbidden"),
    "limit": reply(b'{"detail": "Too many requests"}', status="429 Too Many Requests"),
    "failed": reply(b"Internal Server Error", status="500 Internal Server Error"),
    "elsewhere": reply(b"", status="302 Found", headers=b"Location: http://127.0.0.1:9/\r\n"),
    "empty_stream": chunked(),
    "broken_stream": chunked(b'data: {"message": ', end=False),
    "error_in_stream": chunked(b'data: {"message": null, "error": "Something went wrong"}\n\n'),
}


@pytest.mark.parametrize("name", sorted(REPLIES))
async def test_no_error_leads_to_the_token(name: str, log: io.StringIO) -> None:
    """Neither its text, its cause, its context, its notes nor the frames it passed through, nor any log line."""
    async with answering(REPLIES[name], then_close=True).serving() as far:
        upstream = RevChatGPT(base_url=far.base_url)
        for method in ("conversation", "list_page", "delete", "ask"):
            with pytest.raises(UpstreamError) as caught:
                await _call(upstream, method)
            assert CANARY not in everything_about(caught.value)
        await upstream.aclose()
        assert all(CANARY.encode() in request for request in far.requests)
    assert CANARY not in log.getvalue()


async def test_no_connection_leads_to_the_token(log: io.StringIO) -> None:
    """Nor where upstream is away."""
    upstream = RevChatGPT(base_url=f"http://127.0.0.1:{closed_port()}/backend-api/")
    with pytest.raises(UpstreamError) as caught:
        await _call(upstream, "ask")
    await upstream.aclose()
    assert CANARY not in everything_about(caught.value)
    assert CANARY not in log.getvalue()


@pytest.mark.parametrize("spoilt", ["\n", "\x00", " ", "ä", "\r\nX: y"])
async def test_a_malformed_token_is_not_repeated(spoilt: str, log: io.StringIO) -> None:
    """What is refused as a token is not shown in the refusal."""
    upstream = RevChatGPT(base_url=f"http://127.0.0.1:{closed_port()}/backend-api/")
    with pytest.raises(MirrorError) as caught:
        await upstream.conversation(caller(RecordingGate(), CANARY + spoilt), "an-id")
    await upstream.aclose()
    assert CANARY not in everything_about(caught.value)
    assert CANARY not in log.getvalue()


async def test_a_success_logs_nothing_of_it(log: io.StringIO) -> None:
    """revChatGPT, httpx and httpcore are quiet: no token, no id, no title at DEBUG."""
    async with answering(reply(b'{"success": true}', headers=b"Set-Cookie: secret-cookie\r\n")).serving() as far:
        upstream = RevChatGPT(base_url=far.base_url)
        await upstream.edit(on_behalf(), "secret-id", title="secret-title")
        await upstream.aclose()
    assert CANARY not in log.getvalue()
    assert "secret" not in log.getvalue()


async def _call(upstream: RevChatGPT, method: str) -> None:
    match method:
        case "conversation":
            await upstream.conversation(on_behalf(), "an-id")
        case "list_page":
            await upstream.list_page(on_behalf(), offset=0, limit=1)
        case "delete":
            await upstream.delete(on_behalf(), "an-id")
            raise UpstreamError("a deletion that an empty stream confirms")
        case _:
            async with upstream.ask(on_behalf(), question()) as answer:
                async for _ in answer:
                    pass
