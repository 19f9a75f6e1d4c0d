# SPDX-License-Identifier: GPL-2.0-or-later
"""What a handler is given: by the application for as long as it lives, by the middleware for one request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from chatgpt_rest.archive.jobs import Jobs
from chatgpt_rest.ask import Asking
from chatgpt_rest.auth import Auth, Principal
from chatgpt_rest.clock import Clock
from chatgpt_rest.config import Config
from chatgpt_rest.edits import Edits
from chatgpt_rest.fetch import Fetches
from chatgpt_rest.histories import Histories
from chatgpt_rest.mirror import AccountMirror, Mirror
from chatgpt_rest.models import ModelLists
from chatgpt_rest.sync import Sync
from chatgpt_rest.upstream.protocol import Caller, FindCaller

CONFIG: Final = web.AppKey("config", Config)
MIRROR_OF_ALL: Final = web.AppKey("mirror_of_all", Mirror)
AUTH: Final = web.AppKey("auth", Auth)
CLOCK: Final = web.AppKey("clock", Clock)
FETCHES: Final = web.AppKey("fetches", Fetches)
SYNC: Final = web.AppKey("sync", Sync)
ASKING: Final = web.AppKey("asking", Asking)
EDITS: Final = web.AppKey("edits", Edits)
HISTORIES: Final = web.AppKey("histories", Histories)
MODELS: Final = web.AppKey("models", ModelLists)
JOBS: Final = web.AppKey("jobs", Jobs)

ALLOWED_HOSTS: Final = web.AppKey("allowed_hosts", frozenset[str])
"""What a Host header may name, worked out once."""

PRINCIPAL: Final = web.RequestKey("principal", Principal)
MIRROR: Final = web.RequestKey("mirror", AccountMirror)
"""Bound to the account of this request: no handler can read another's."""

CANONICAL: Final = web.RequestKey("canonical", str)
"""The path as a template, with no ids in it: what the access log may say."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the table of contents in `api/routes.py`."""

    method: str
    path: str
    handler: Handler
    is_public: bool = False
    """Needs no account, and shows nothing of any."""
    needs_upstream: bool = False
    """Turned away before any work when the account's budget is spent."""


ROUTES: Final = web.AppKey("routes", dict[object, Route])
"""By handler, for the middleware."""


def find_caller(request: web.Request) -> FindCaller:
    """How this request would go upstream, worked out only if it has to."""

    async def find() -> Caller:
        return await request.app[AUTH].caller(request[PRINCIPAL])

    return find
