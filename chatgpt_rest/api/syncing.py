# SPDX-License-Identifier: GPL-2.0-or-later
"""`/sync`: how the account stands with ChatGPT, and asking for a pass now."""

from __future__ import annotations

from aiohttp import web

from chatgpt_rest.api.answers import json_response
from chatgpt_rest.api.body import read_fields
from chatgpt_rest.context import AUTH, MIRROR_OF_ALL, PRINCIPAL, SYNC
from chatgpt_rest.sync_status import read_status, status_json


async def status(request: web.Request) -> web.Response:
    """`GET /sync`: what is stale, what it costs, when it will be done, and what stands in the way."""
    return await _status_response(request)


async def start(request: web.Request) -> web.Response:
    """`POST /sync`: a pass now; with `full` one that reads every list to its end. Raises Unavailable where no token
    is at hand.
    """
    fields = await read_fields(request)
    await request.app[SYNC].start(request[PRINCIPAL].account, is_full=fields.boolean("full") or False)
    return await _status_response(request, status=202)


async def _status_response(request: web.Request, *, status: int = 200) -> web.Response:
    found = await read_status(
        request[PRINCIPAL].account,
        mirror=request.app[MIRROR_OF_ALL],
        sync=request.app[SYNC],
        tokens=request.app[AUTH],
    )
    return json_response(status_json(found), status=status)
