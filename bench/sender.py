# SPDX-License-Identifier: GPL-2.0-or-later
"""A ChatGPT that answers with prepared bytes, so that what is measured is how they are read. `python -m bench.sender
PORT` serves it. The prompt says how they are sent: `at once`, `one by one` or `stamped`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from typing import Any, Final

from aiohttp import web

AT_ONCE: Final = "at once"
ONE_BY_ONE: Final = "one by one"
STAMPED: Final = "stamped"
"""A short answer whose first word is the moment at which it left, in nanoseconds of the machine's monotonic clock."""

EVENTS: Final = 2_000
PAUSE_SECONDS: Final = 0.001  # between events that are to be read one by one

_MESSAGE_ID: Final = "00000000-0000-4000-8000-0000000000aa"
_CONVERSATION_ID: Final = "00000000-0000-4000-8000-0000000000cc"
_WORDS: Final = (
    "It",
    " holds",
    " as",
    " long",
    " as",
    " nobody",
    " says",
    " otherwise",
    ":",
    " so",
    ' "it"',
    " is",
    ".\n",
)


def frames() -> list[bytes]:
    """An answer of 2,000 events, each of which repeats the text so far: about 11 MB."""
    text = ""
    written = []
    for number in range(EVENTS - 1):
        text += _WORDS[number % len(_WORDS)]
        written.append(_frame(text))
    return [*written, _frame(text, is_last=True), b"data: [DONE]\n\n"]


def _frame(text: str, *, is_last: bool = False) -> bytes:
    metadata: dict[str, Any] = {"message_type": "next", "model_slug": "gpt-5", "parent_id": str(uuid.UUID(int=7))}
    if is_last:
        metadata |= {"finish_details": {"type": "stop", "stop_tokens": [200002]}, "is_complete": True}
    message = {
        "id": _MESSAGE_ID,
        "author": {"role": "assistant", "name": None, "metadata": {}},
        "create_time": 1763800000.123456,
        "update_time": None,
        "content": {"content_type": "text", "parts": [text]},
        "status": "finished_successfully" if is_last else "in_progress",
        "end_turn": True if is_last else None,
        "weight": 1.0,
        "metadata": metadata,
        "recipient": "all",
    }
    event = {"message": message, "conversation_id": _CONVERSATION_ID, "error": None}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


class Sender:
    """The routes that an ask needs."""

    def __init__(self) -> None:
        self._frames = frames()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/backend-api/conversations", self._list)
        app.router.add_post("/backend-api/conversation", self._answer)
        return app

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"items": [], "total": 0, "limit": 28, "offset": 0, "has_missing_conversations": False}
        )

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        how = json.loads(await request.read())["messages"][-1]["content"]["parts"][0]
        ids = [(old.encode(), str(uuid.uuid4()).encode()) for old in (_MESSAGE_ID, _CONVERSATION_ID)]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        prepared = [] if how == STAMPED else [_with_ids(frame, ids) for frame in self._frames]
        await response.prepare(request)
        if how == STAMPED:
            await asyncio.sleep(0.005)  # the headers have been read by then
            stamp = f"{time.monotonic_ns()} "
            await response.write(_with_ids(_frame(stamp), ids))
            await asyncio.sleep(0.005)
            prepared = [_with_ids(_frame(stamp + "and on", is_last=True), ids), b"data: [DONE]\n\n"]
        for frame in prepared:
            await response.write(frame)  # an HTTP chunk each
            if how == ONE_BY_ONE:
                await asyncio.sleep(PAUSE_SECONDS)
        await response.write_eof()
        return response


def _with_ids(frame: bytes, ids: list[tuple[bytes, bytes]]) -> bytes:
    for old, new in ids:
        frame = frame.replace(old, new)
    return frame


if __name__ == "__main__":
    web.run_app(Sender().app(), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
