# SPDX-License-Identifier: GPL-2.0-or-later
"""`/conversations`: reading from the mirror, editing and deleting through upstream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, cast

from aiohttp import web

from chatgpt_rest.api.answers import page_links, rendered_response
from chatgpt_rest.api.body import read_fields
from chatgpt_rest.auth import looks_like_credential
from chatgpt_rest.chatgpt_json import is_id
from chatgpt_rest.context import CONFIG, EDITS, FETCHES, MIRROR, PRINCIPAL, SYNC, find_caller
from chatgpt_rest.errors import BadRequest, MirrorError, NotFetched
from chatgpt_rest.mirror import ListQuery, Rendered, Standing
from chatgpt_rest.mirror.conversations import Choice

_T = TypeVar("_T")

_RESERVED: Final = frozenset({"all", "new"})  # words of our own paths
_LARGEST_LIMIT: Final = 10_000
_LARGEST_OFFSET: Final = 2**31


async def list_conversations(request: web.Request) -> web.Response:
    """`GET /conversations`: newest update first; `limit` and `offset` page it."""
    query = _list_query(request)
    mirror = request[MIRROR]
    has_more_upstream = request.app[CONFIG].upstream.keeps_conversations
    try:
        rendered = await mirror.conversations.list_json(query, even_if_never_read=not has_more_upstream)
    except NotFetched:
        await _read_first_page(request)
        rendered = await mirror.conversations.list_json(query, even_if_never_read=True)
    response = rendered_response(request, rendered)
    if has_more_upstream and not rendered.is_whole:
        response.headers["X-Mirror-Complete"] = "false"
    if query.limit is not None or query.offset:
        response.headers["X-Total-Count"] = str(rendered.total)
        asked = {name: value for name, value in request.query.items() if name not in {"limit", "offset"}}
        known = {name: value for name, value in asked.items() if name in {"order", "archived", "deleted", "project"}}
        limit = query.limit or max(1, rendered.total)
        if links := page_links("/conversations", limit=limit, offset=query.offset, total=rendered.total, query=known):
            response.headers["Link"] = links
    return response


async def messages(request: web.Request) -> web.Response:
    """`GET /conversations/{id}/messages`: the visible messages of the current branch, oldest first."""
    return await _read(request, request[MIRROR].conversations.messages_json)


async def whole(request: web.Request) -> web.Response:
    """`GET /conversations/{id}`: the whole tree in ChatGPT's own shape."""
    return await _read(request, request[MIRROR].conversations.whole_json)


async def edit(request: web.Request) -> web.Response:
    """`PATCH /conversations/{id}`: `title`, `is_archived`."""
    conversation_id = conversation_id_of(request)
    fields = await read_fields(request)
    title, is_archived = fields.text("title"), fields.boolean("is_archived")
    if title is None and is_archived is None:
        raise BadRequest("title or is_archived is required")
    conversations = request[MIRROR].conversations
    if await conversations.standing(conversation_id) is Standing.UNKNOWN:
        await request.app[FETCHES].fetch(request[MIRROR], conversation_id, find_caller(request), unless_here=True)
    await request.app[EDITS].edit(
        request[MIRROR], conversation_id, title=title, is_archived=is_archived, find_caller=find_caller(request)
    )
    return rendered_response(request, await conversations.entry_json(conversation_id))


async def delete(request: web.Request) -> web.Response:
    """`DELETE /conversations/{id}`."""
    conversation_id = conversation_id_of(request)
    await request.app[EDITS].delete(request[MIRROR], conversation_id, find_caller=find_caller(request))
    return web.Response(status=204)


async def delete_all(request: web.Request) -> web.Response:
    """`DELETE /conversations/all`."""
    await request.app[EDITS].delete_all(request[MIRROR], find_caller=find_caller(request))
    return web.Response(status=204)


async def read_or_fetch(request: web.Request, read: Callable[[str], Awaitable[_T]]) -> _T:
    """What `read` answers for the conversation in the path, which is fetched once where it is not here yet."""
    conversation_id = conversation_id_of(request)
    mirror = request[MIRROR]
    request.app[SYNC].was_read(mirror.account, conversation_id)
    try:
        return await read(conversation_id)
    except NotFetched:
        await request.app[FETCHES].fetch(mirror, conversation_id, find_caller(request), unless_here=True)
        return await read(conversation_id)


def conversation_id_of(request: web.Request) -> str:
    """The id in the path, checked on its decoded value: what is pasted into an upstream path must not leave it."""
    value = request.match_info["id"]
    if not is_id(value) or value in _RESERVED or looks_like_credential(value):
        raise BadRequest("this is no id of a conversation")
    return value


async def _read(request: web.Request, read: Callable[[str], Awaitable[Rendered]]) -> web.Response:
    return rendered_response(request, await read_or_fetch(request, read))


async def _read_first_page(request: web.Request) -> None:
    try:
        await request.app[FETCHES].fetch_first_page(request[MIRROR], find_caller(request))
    except MirrorError:
        # A key reads what is here although upstream is away; the list says of itself that it is not whole.
        if request[PRINCIPAL].token is not None:
            raise


def _list_query(request: web.Request) -> ListQuery:
    order = request.query.get("order", "updated")
    if order not in {"updated", "created"}:
        raise BadRequest("order must be updated or created")
    project = request.query.get("project")
    if project is not None and not is_id(project):
        raise BadRequest("project must be the id of a project or GPT")
    return ListQuery(
        limit=_number(request, "limit", lowest=1, highest=_LARGEST_LIMIT),
        offset=_number(request, "offset", lowest=0, highest=_LARGEST_OFFSET) or 0,
        order="created" if order == "created" else "updated",
        archived=_choice(request, "archived"),
        deleted=_choice(request, "deleted"),
        project=project,
    )


def _number(request: web.Request, name: str, *, lowest: int, highest: int) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and lowest <= int(text) <= highest):
        raise BadRequest(f"{name} must be a number from {lowest} to {highest}")
    return int(text)


def _choice(request: web.Request, name: str) -> Choice:
    value = request.query.get(name, "none")
    if value not in {"none", "only", "all"}:
        raise BadRequest(f"{name} must be none, only or all")
    return cast(Choice, value)
