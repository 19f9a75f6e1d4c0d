# SPDX-License-Identifier: GPL-2.0-or-later
"""`/v1`: what OpenAI's clients ask for. They send their whole history each time; here it is found again, and the new
message alone goes on in the very conversation and branch that it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from chatgpt_rest.api.answers import json_response
from chatgpt_rest.api.asks import idempotency_key
from chatgpt_rest.api.body import read_fields
from chatgpt_rest.api.openai_answers import chunks, completion
from chatgpt_rest.api.openai_requests import chat_request
from chatgpt_rest.api.streams import follow
from chatgpt_rest.clock import SECOND
from chatgpt_rest.context import ASKING, CLOCK, CONFIG, MIRROR, MODELS, find_caller
from chatgpt_rest.mirror import KnownModels
from chatgpt_rest.model import Model
from chatgpt_rest.models import unknown_model
from chatgpt_rest.refusing_openai import is_automatic_retry


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """`POST /v1/chat/completions`: `messages`, `model`, `stream`, `n` (1), `stream_options`; what else there is is
    ignored.
    """
    chat = chat_request(await read_fields(request))
    key = idempotency_key(request)
    is_repetition = key is None and is_automatic_retry(request)
    live = request.app[ASKING].start(
        request[MIRROR],
        chat.asked(),
        find_caller(request),
        idempotency_key=key,
        is_repetition=is_repetition,
    )
    model, now = chat.model or request.app[CONFIG].upstream.model, request.app[CLOCK].now()
    if chat.is_streamed:
        frames = chunks(request, live, model=model, now=now, wants_usage=chat.wants_usage)
        return await follow(request, live, frames)
    message = await live.result()
    response = json_response(await completion(request, message, model=model, now=now))
    response.headers.update({"X-Conversation-Id": message["conversation_id"], "X-Message-Id": message["id"]})
    return response


async def list_models(request: web.Request) -> web.Response:
    """`GET /v1/models`: what upstream offers this account."""
    known = await request.app[MODELS].read(request[MIRROR], find_caller(request))
    return json_response({"object": "list", "data": [_model(each, known) for each in known.models]})


async def one_model(request: web.Request) -> web.Response:
    """`GET /v1/models/{model}`."""
    known = await request.app[MODELS].read(request[MIRROR], find_caller(request))
    for each in known.models:
        if each.id == request.match_info["model"]:
            return json_response(_model(each, known))
    raise unknown_model(known)


def _model(model: Model, known: KnownModels) -> Mapping[str, object]:
    # Nobody says when a model was made: the time at which upstream offered it is one that is known.
    return {"id": model.id, "object": "model", "created": known.fetched_at // SECOND, "owned_by": "upstream"}
