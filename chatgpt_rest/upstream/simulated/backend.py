# SPDX-License-Identifier: GPL-2.0-or-later
"""The handlers under /backend-api/ that read and edit; `generation.py` has the one that answers prompts."""

from __future__ import annotations

import base64
import json
import re
from typing import Final, TypeVar

from aiohttp import web

from . import refusals
from .accounts import newest_first
from .answers import title_for
from .conversations import SimConversation
from .keys import ACCOUNT, ACCOUNTS, SETTINGS
from .messages import Json, text_of

T = TypeVar("T")

MOST_PER_PAGE: Final = 100

MODELS: Final = (
    ("gpt-5", 196_000, "GPT-5", "Our smartest model, for everyday work and hard problems", ["gpt5"]),
    ("gpt-5-thinking", 196_000, "GPT-5 Thinking", "Thinks longer for better answers", ["gpt5", "reasoning"]),
    ("gpt-4o", 128_000, "GPT-4o", "Great for most questions", ["gpt4"]),
    (
        "text-davinci-002-render-sha",
        8191,
        "Default (GPT-3.5)",
        "Our fastest model, great for most everyday tasks",
        ["gpt3.5"],
    ),
)


async def list_conversations(request: web.Request) -> web.Response:
    """GET conversations: a page of the list; `total` looks one ahead instead of counting."""
    account = request[ACCOUNT]
    offset = _number(request, "offset", default=0, least=0)
    limit = _number(request, "limit", default=20, least=1, most=MOST_PER_PAGE)
    archived = request.query.get("is_archived", "false").lower() == "true"
    kept = [
        conversation
        for conversation in account.everything
        if conversation.is_visible and not conversation.is_in_project and conversation.is_archived == archived
    ]
    if request.query.get("order") == "updated":
        ordered = newest_first(kept)
    else:
        ordered = sorted(kept, key=lambda conversation: -conversation.create_time)
    items = _items(request, ordered[offset : offset + limit])
    return web.json_response(
        {
            "items": items,
            "total": min(len(ordered), offset + len(items) + 1),
            "limit": limit,
            "offset": offset,
            "has_missing_conversations": False,
        }
    )


async def get_conversation(request: web.Request) -> web.Response:
    """GET conversation/{id}: the whole tree."""
    return web.json_response(find(request, request.match_info["id"], coded=True).detail())


async def patch_conversation(request: web.Request) -> web.Response:
    """PATCH conversation/{id}: rename, archive, delete."""
    conversation = find(request, request.match_info["id"])
    changes = await read_json(request)
    title = _optional(changes, "title", str)
    archived = _optional(changes, "is_archived", bool)
    visible = _optional(changes, "is_visible", bool)
    if title is not None:
        conversation.rename(title)
    if archived is not None:
        conversation.archive(archived=archived)
    if visible is False:
        conversation.delete()
    return web.json_response({"success": True})


async def patch_conversations(request: web.Request) -> web.Response:
    """PATCH conversations: delete them all, those in projects and the archive included."""
    if _optional(await read_json(request), "is_visible", bool) is not False:
        raise refusals.invalid("body", "is_visible", why="field required", kind="value_error.missing")
    for conversation in request[ACCOUNT].everything:
        conversation.delete()
    return web.json_response({"success": True})


async def gen_title(request: web.Request) -> web.Response:
    """POST conversation/gen_title/{id}: a title made from the first prompt, set as well as answered."""
    conversation = find(request, request.match_info["id"])
    asked = await read_json(request)
    if not isinstance(asked.get("message_id"), str):
        raise refusals.invalid("body", "message_id", why="field required", kind="value_error.missing")
    prompts = [message for message in conversation.branch() if message["author"]["role"] == "user"]
    conversation.rename(title_for(text_of(prompts[0]["content"]) if prompts else ""))
    return web.json_response({"title": conversation.title})


async def sidebar(request: web.Request) -> web.Response:
    """GET gizmos/snorlax/sidebar: the account's projects."""
    projects, cursor = _page(request, list(request[ACCOUNT].projects.items()), default=20)
    items = [
        {
            "gizmo": {"gizmo": {"id": project_id, "display": {"name": name, "description": ""}}},
            "conversations": {"items": [], "cursor": None},
        }
        for project_id, name in projects
    ]
    return web.json_response({"items": items, "cursor": cursor})


async def project_conversations(request: web.Request) -> web.Response:
    """GET gizmos/{id}/conversations: what a project holds, newest update first."""
    account = request[ACCOUNT]
    project_id = request.match_info["id"]
    if project_id not in account.projects:
        raise refusals.Refusal(404, {"detail": "Gizmo not found"})
    kept = [
        conversation
        for conversation in account.everything
        if conversation.is_visible and conversation.gizmo_id == project_id
    ]
    conversations, cursor = _page(request, newest_first(kept), default=20)
    return web.json_response({"items": _items(request, conversations), "cursor": cursor})


async def download_file(request: web.Request) -> web.Response:
    """GET files/download/{id}: files are not kept here, and upstream says so with status 200."""
    error = {"status": "error", "error_code": "file_not_found", "error_message": "File not found"}
    return web.json_response(error)


async def models(request: web.Request) -> web.Response:
    """GET models."""
    keys = ("slug", "max_tokens", "title", "description", "tags")
    return web.json_response({"models": [dict(zip(keys, model, strict=True)) for model in MODELS]})


def find(request: web.Request, conversation_id: str, *, coded: bool = False) -> SimConversation:
    """The conversation with this id; raises the 404 that fits (`coded`: the newer form, which says why)."""
    account = request[ACCOUNT]
    conversation = account.find(conversation_id)
    if conversation is not None and conversation.is_visible:
        return conversation
    if not coded:
        raise refusals.not_found()
    if conversation is not None:
        raise refusals.conversation_deleted(conversation_id)
    if request.app[ACCOUNTS].has_conversation(conversation_id):
        raise refusals.conversation_inaccessible(conversation_id)
    raise refusals.conversation_not_found(conversation_id)


async def read_json(request: web.Request) -> Json:
    """The body, which must be a JSON object."""
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise refusals.invalid("body", why="JSON decode error", kind="json_invalid") from error
    if not isinstance(body, dict):
        raise refusals.invalid("body", why="value is not a valid dict", kind="type_error.dict")
    return body


def _optional(body: Json, name: str, kind: type[T]) -> T | None:
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        raise refusals.invalid(
            "body", name, why=f"value is not a valid {kind.__name__}", kind=f"type_error.{kind.__name__}"
        )
    return value


def _number(request: web.Request, name: str, *, default: int, least: int, most: int | None = None) -> int:
    """A whole number of the query; raises the 422 that says what is wrong with it."""
    given = request.query.get(name)
    if given is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,18}", given):
        raise refusals.invalid("query", name, why="value is not a valid integer", kind="type_error.integer")
    number = int(given)
    if number < least:
        why = f"ensure this value is greater than or equal to {least}"
        raise refusals.invalid("query", name, why=why, kind="value_error.number.not_ge")
    if most is not None and number > most:
        why = f"ensure this value is less than or equal to {most}"
        raise refusals.invalid("query", name, why=why, kind="value_error.number.not_le")
    return number


def _items(request: web.Request, conversations: list[SimConversation]) -> list[Json]:
    times = request.app[SETTINGS].times
    return [conversation.list_item(times) for conversation in conversations]


def _page(request: web.Request, items: list[T], *, default: int) -> tuple[list[T], str | None]:
    """The page at the opaque cursor, and the cursor of the next one; null at the end."""
    limit = _number(request, "limit", default=default, least=1, most=MOST_PER_PAGE)
    cursor = request.query.get("cursor") or "0"
    try:
        start = int(cursor if cursor == "0" else base64.urlsafe_b64decode(cursor).removeprefix(b"at:"))
    except ValueError as error:
        raise refusals.invalid("query", "cursor", why="invalid cursor") from error
    end = start + limit
    following = base64.urlsafe_b64encode(f"at:{end}".encode()).decode() if end < len(items) else None
    return items[start:end], following
