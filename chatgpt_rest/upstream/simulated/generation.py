# SPDX-License-Identifier: GPL-2.0-or-later
"""POST conversation: a prompt is kept, answered, and the answer streamed as it grows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from aiohttp import web

from . import refusals
from .answers import SEPARATORS, cuts_in, segments
from .backend import find, read_json
from .conversations import NEW_TITLE, SimConversation
from .delivery import Delivery, Gone
from .faults import Fault
from .keys import ACCOUNT, DELIVERY, SETTINGS
from .messages import Json, assistant_message, message, text_of, user_message
from .streams import Answer, frames, trailing_frame

ACTIONS: Final = ("next", "continue", "variant")
ROLES: Final = ("system", "user", "assistant")
NOTHING_LEFT: Final = "That was all I had to say about it."
TRAILING_SECONDS: Final = 30.0
TRAILING_PAUSE_SECONDS: Final = 0.05


async def converse(request: web.Request) -> web.StreamResponse:
    """Keep the prompt, answer it, stream the answer. One at a time for each account."""
    account = request[ACCOUNT]
    asked = await read_json(request)
    action = asked.get("action")
    if action not in ACTIONS:
        raise refusals.invalid("body", "action", why=f"must be one of {', '.join(ACTIONS)}", kind="type_error.enum")
    parent_id = asked.get("parent_message_id")
    if not isinstance(parent_id, str):
        raise refusals.invalid("body", "parent_message_id", why="field required", kind="value_error.missing")
    model = asked.get("model") or ""
    if not isinstance(model, str):
        raise refusals.invalid("body", "model", why="str type expected", kind="type_error.str")
    sent = _sent(asked) if action == "next" else []
    conversation = _conversation(request, asked, parent_id)
    if account.generation is not None:
        raise refusals.one_at_a_time()
    generation = account.generation = object()
    try:
        if conversation is None:
            conversation = account.add_conversation(NEW_TITLE)
            parent_id = conversation.current_node
        else:
            conversation.touch()
        if model not in {"", "auto"}:
            conversation.model = model
        answer = _answer(conversation, action, sent, parent_id, request[DELIVERY].fault)
        return await _stream(request, answer, lambda: account.finish(generation))
    finally:
        account.finish(generation)


def _sent(asked: Json) -> list[Json]:
    """The messages as sent, the last one to be answered; raises the 422 that says what is wrong with them."""
    sent = asked.get("messages")
    if not isinstance(sent, list) or not sent:
        raise refusals.invalid("body", "messages", why="field required", kind="value_error.missing")
    for index, each in enumerate(sent):
        where = ("body", "messages", index)
        if not isinstance(each, dict) or not isinstance(each.get("id"), str):
            raise refusals.invalid(*where, "id", why="field required", kind="value_error.missing")
        author, content = each.get("author"), each.get("content")
        role = author.get("role") if isinstance(author, dict) else None
        if role not in ROLES or (role != "user" and each is sent[-1]):
            raise refusals.invalid(*where, "author", "role", why="must be user", kind="type_error.enum")
        if not isinstance(content, dict) or not isinstance(content.get("content_type"), str):
            raise refusals.invalid(*where, "content", why="field required", kind="value_error.missing")
        if not isinstance(content.get("parts"), list):
            raise refusals.invalid(*where, "content", "parts", why="value is not a valid list", kind="type_error.list")
    return sent


def _conversation(request: web.Request, asked: Json, parent_id: str) -> SimConversation | None:
    """The conversation to go on with; None for a new one. Raises 404 for one that is unknown or lacks the parent."""
    conversation_id = asked.get("conversation_id")
    if conversation_id is None:
        if asked["action"] != "next":
            raise refusals.invalid("body", "conversation_id", why="field required", kind="value_error.missing")
        return None
    if not isinstance(conversation_id, str):
        raise refusals.invalid("body", "conversation_id", why="str type expected", kind="type_error.str")
    conversation = find(request, conversation_id)
    if parent_id not in conversation.mapping:
        raise refusals.not_found()
    if asked["action"] == "variant" and "user" not in conversation.roles_to(parent_id):
        raise refusals.invalid("body", "parent_message_id", why="there is no prompt to answer again")
    return conversation


def _answer(conversation: SimConversation, action: str, sent: list[Json], parent_id: str, fault: Fault) -> Answer:
    """Grow the tree by what was sent, each message below the one before, and the answer, which is whole from the start;
    only the stream takes its time.
    """
    at = conversation.update_time
    conversation.current_node = parent_id
    echoes = [_kept(each, at) for each in sent]
    for echo in echoes:
        conversation.append(echo)
    if action == "variant":
        conversation.current_node = conversation.last("user")
    between = _tool_messages(conversation, at) if fault.stream == "tool_messages_between" else []
    if action == "continue":
        pieces = conversation.unfinished.pop(parent_id, [NOTHING_LEFT])
    else:
        asked = text_of(conversation.mapping[conversation.last("user")]["message"]["content"])
        pieces = segments(asked, cuts=max(cuts_in(asked), fault.max_tokens))
    if fault.stream == "raw_separators":
        pieces = [
            *pieces[:-1],
            f"{pieces[-1]}\n\nOdd separators: one{SEPARATORS[0]}two{SEPARATORS[1]}three{SEPARATORS[2]}four",
        ]
    final = assistant_message(
        conversation.new_id(),
        pieces[0],
        at=at,
        model=conversation.model,
        parent_id=conversation.current_node,
        cut=len(pieces) > 1,
    )
    node_id = conversation.append(final)
    if len(pieces) > 1:
        conversation.unfinished[node_id] = pieces[1:]
    return Answer(
        conversation_id=conversation.id, title=conversation.title, final=final, echoes=echoes, between=between
    )


def _kept(sent: Json, at: float) -> Json:
    role = sent["author"]["role"]
    if role == "user":
        return user_message(sent["id"], sent["content"], at=at)
    return message(sent["id"], role, sent["content"], at=at, metadata=sent.get("metadata"))


def _tool_messages(conversation: SimConversation, at: float) -> list[Json]:
    """A search the model makes before it answers: its call and the tool's result."""
    call: Json = {
        "content_type": "code",
        "language": "unknown",
        "response_format_name": None,
        "text": 'search("the prompt")',
    }
    result: Json = {
        "content_type": "tether_browsing_display",
        "result": "# Search results\n\n0. A page about it (example.org)",
        "summary": None,
        "assets": None,
        "tether_id": None,
    }
    metadata: Json = {"model_slug": conversation.model, "finish_details": {"type": "stop"}}
    messages = [
        message(
            conversation.new_id(), "assistant", call, at=at, recipient="browser", metadata=metadata, end_turn=False
        ),
        message(
            conversation.new_id(),
            "tool",
            result,
            at=at,
            name="browser",
            recipient="all",
            metadata={"command": "search"},
        ),
    ]
    for said in messages:
        conversation.append(said)
    return messages


async def _stream(request: web.Request, answer: Answer, finish: Callable[[], None]) -> web.StreamResponse:
    """Send the answer as it grows, and `finish` when the last of it goes out."""
    delivery = request[DELIVERY]
    fault = delivery.fault
    if fault.stream == "204":
        return web.Response(status=204)
    if fault.stream == "html_200":
        return await delivery.send(web.Response(text=refusals.CDN_PAGE, content_type="text/html"))
    if fault.stream == "json_200":
        return await delivery.send(web.json_response({"detail": "Something went wrong"}))
    response = web.StreamResponse(headers={"Cache-Control": "no-cache"})
    response.content_type = "text/event-stream"
    response.charset = "utf-8"
    await delivery.begin(response)
    stream = frames(answer, fault)
    pause_seconds = request.app[SETTINGS].event_pause_seconds
    with suppress(Gone):
        for index, frame in enumerate(stream.frames):
            if fault.hold_after_events is not None and index == stream.first + fault.hold_after_events:
                await fault.wait_for_release()
            if index >= len(stream.frames) - 2:
                # Over before its last event is on the wire: whoever has read that may ask again at once.
                finish()
            await delivery.write(frame)
            if pause_seconds and index >= stream.first:
                await asyncio.sleep(pause_seconds)
        if fault.stream == "trailing_after_done":
            await _trail(delivery, trailing_frame(answer))
    return response


async def _trail(delivery: Delivery, frame: bytes) -> None:
    """Keep sending until the client leaves; raises Gone when it does."""
    until = time.monotonic() + TRAILING_SECONDS
    while time.monotonic() < until:
        await delivery.write(frame)
        await asyncio.sleep(TRAILING_PAUSE_SECONDS)
