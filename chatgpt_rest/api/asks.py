# SPDX-License-Identifier: GPL-2.0-or-later
"""`POST /conversations/new` and `/conversations/{id}/ask`."""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from chatgpt_rest.api.answers import json_response
from chatgpt_rest.api.body import Fields, read_fields
from chatgpt_rest.api.conversations import conversation_id_of
from chatgpt_rest.api.streams import stream_answer, wants_stream
from chatgpt_rest.ask import AskRequest
from chatgpt_rest.context import ASKING, MIRROR, find_caller
from chatgpt_rest.errors import BadRequest

_IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")


async def new(request: web.Request) -> web.StreamResponse:
    """`POST /conversations/new`: `prompt`, `title`, `model`, `autocontinue`, `stream`."""
    fields = await read_fields(request)
    return await _ask(request, fields, _asked(fields, title=fields.text("title") or None))


async def ask(request: web.Request) -> web.StreamResponse:
    """`POST /conversations/{id}/ask`: `prompt`, `parent_id`, `model`, `autocontinue`, `stream`."""
    conversation_id = conversation_id_of(request)
    fields = await read_fields(request)
    return await _ask(
        request, fields, _asked(fields, conversation_id=conversation_id, parent_id=fields.id("parent_id"))
    )


def idempotency_key(request: web.Request) -> str | None:
    """What the client calls this request, to have it answered once however often it sends it."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and _IDEMPOTENCY_KEY.fullmatch(key) is None:
        raise BadRequest("Idempotency-Key must be 1 to 255 visible ASCII characters")
    return key


def _asked(
    fields: Fields, *, conversation_id: str | None = None, parent_id: str | None = None, title: str | None = None
) -> AskRequest:
    return AskRequest(
        prompt=fields.required_text("prompt"),
        conversation_id=conversation_id,
        parent_id=parent_id,
        title=title,
        model=fields.name("model"),
        autocontinue=fields.boolean("autocontinue") or False,
    )


async def _ask(request: web.Request, fields: Fields, asked: AskRequest) -> web.StreamResponse:
    is_streamed = fields.boolean("stream")
    if is_streamed is None:
        is_streamed = wants_stream(request)
    key = idempotency_key(request)
    live = request.app[ASKING].start(request[MIRROR], asked, find_caller(request), idempotency_key=key)
    if is_streamed:
        return await stream_answer(request, live, status=201)
    message = await live.result()
    return json_response({"response": message}, status=201)
