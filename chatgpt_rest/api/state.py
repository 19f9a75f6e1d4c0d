# SPDX-License-Identifier: GPL-2.0-or-later
"""How things stand: `/budget` of an account, `/healthz` and `/readyz` of the server."""

from __future__ import annotations

from aiohttp import web

from chatgpt_rest.api.answers import json_response
from chatgpt_rest.budget import WINDOW
from chatgpt_rest.clock import SECOND, iso
from chatgpt_rest.context import MIRROR_OF_ALL, PRINCIPAL


async def budget(request: web.Request) -> web.Response:
    """`GET /budget`: what is left of this account's hour, and when the next token comes back. `capacity` and
    `remaining` are null where there is no limit; upstream's own one leaves 0 all the same.
    """
    state = await request.app[MIRROR_OF_ALL].requests.budget(request[PRINCIPAL].account)
    is_full = not state.is_blocked and not (state.is_limited and state.held_until)
    return json_response(
        {
            "capacity": state.capacity if state.is_limited else None,
            "remaining": state.remaining if state.is_limited or state.is_blocked else None,
            "used": state.used,
            "resets_at": None if is_full else iso(state.more_at),
            "full_at": None if is_full else iso(max(state.full_at, state.next_token_at)),
            "window_seconds": WINDOW // SECOND,
            "blocked_until": iso(state.blocked_until) if state.is_blocked and state.blocked_until else None,
        }
    )


async def healthz(_: web.Request) -> web.Response:
    """`GET /healthz`: the process answers."""
    return json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """`GET /readyz`: the mirror answers, and so reading works. Raises StorageFailed where it does not."""
    await request.app[MIRROR_OF_ALL].ping()
    return json_response({"status": "ready"})
