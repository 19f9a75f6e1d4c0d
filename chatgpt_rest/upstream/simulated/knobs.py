# SPDX-License-Identifier: GPL-2.0-or-later
"""The routes under /simulated/: what ChatGPT does not have, for tests and people who want to see it misbehave."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Final, get_args

from aiohttp import web

from .accounts import TEN_DAYS_SECONDS, Account
from .conversations import TimeForm
from .faults import BadKnob, Fault
from .keys import ACCOUNTS, FAULTS, REQUESTS, SETTINGS
from .limits import hourly_limit
from .requests import ReceivedRequest

PREFIX: Final = "/simulated/"
RESET: Final[web.AppKey[Callable[[], None]]] = web.AppKey("reset")

INDEX: Final = {
    "what": "A simulated ChatGPT. Its API is below /backend-api/; the routes here turn its knobs.",
    "GET /simulated/requests": "every request received, oldest first; ?method=&path=&account= narrow it",
    "DELETE /simulated/requests": "forget them",
    "GET /simulated/faults": "the faults that are on",
    "POST /simulated/faults": "turn one on: {path, method, account, after, times, error, status, body, stream, …}",
    "DELETE /simulated/faults": "turn all off, releasing what they hold",
    "DELETE /simulated/faults/{id}": "turn one off",
    "POST /simulated/limits": "429 after n: {after, text, status, retry_after_seconds, clears_in, path, account}",
    "GET /simulated/accounts": "the accounts, each with a fresh access token",
    "POST /simulated/accounts": "add one: {name, user_id, email, conversations}",
    "POST /simulated/tokens": "a token: {account, expires_in_seconds}; account is a user id, email or name",
    "POST /simulated/tokens/revoke": "{access_token} is answered 401 from now on",
    "GET /simulated/settings": "{event_pause_seconds, times}",
    "PATCH /simulated/settings": "change them; times is one of " + ", ".join(get_args(TimeForm)),
    "POST /simulated/reset": "everything as it was at the start",
}


def routes() -> list[web.RouteDef]:
    """All of them, for the application's router."""
    return [
        web.get("/", index),
        web.get("/simulated/", index),
        web.get("/simulated/requests", list_requests),
        web.delete("/simulated/requests", forget_requests),
        web.get("/simulated/faults", list_faults),
        web.post("/simulated/faults", add_fault),
        web.delete("/simulated/faults", clear_faults),
        web.delete("/simulated/faults/{id:[0-9]{1,9}}", remove_fault),
        web.post("/simulated/limits", add_limit),
        web.get("/simulated/accounts", list_accounts),
        web.post("/simulated/accounts", add_account),
        web.post("/simulated/tokens", issue_token),
        web.post("/simulated/tokens/revoke", revoke_token),
        web.get("/simulated/settings", show_settings),
        web.patch("/simulated/settings", change_settings),
        web.post("/simulated/reset", reset),
    ]


@web.middleware
async def bad_knobs(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
    """Answer a knob that cannot be turned that way with 400, naming it."""
    try:
        response: web.StreamResponse = await handler(request)
    except BadKnob as error:
        return web.json_response({"error": str(error), "field": error.field}, status=400)
    return response


async def index(request: web.Request) -> web.Response:
    """GET /: what there is."""
    return web.json_response(INDEX)


async def list_requests(request: web.Request) -> web.Response:
    """GET requests: what arrived, oldest first, and how many that were."""
    method, path, account = (request.query.get(name) for name in ("method", "path", "account"))
    received = [each for each in request.app[REQUESTS] if each.matches(method, path, account)]
    return web.json_response({"count": len(received), "requests": [_row(each) for each in received]})


async def forget_requests(request: web.Request) -> web.Response:
    """DELETE requests."""
    request.app[REQUESTS].clear()
    return web.Response(status=204)


async def list_faults(request: web.Request) -> web.Response:
    """GET faults."""
    return web.json_response({"faults": [fault.to_json() for fault in request.app[FAULTS]]})


async def add_fault(request: web.Request) -> web.Response:
    """POST faults: turn one on."""
    fault = request.app[FAULTS].add(Fault.parse(await _read(request)))
    return web.json_response(fault.to_json(), status=201)


async def clear_faults(request: web.Request) -> web.Response:
    """DELETE faults: all of them."""
    request.app[FAULTS].clear()
    return web.Response(status=204)


async def remove_fault(request: web.Request) -> web.Response:
    """DELETE faults/{id}."""
    if not request.app[FAULTS].remove(int(request.match_info["id"])):
        return web.json_response({"error": "there is no such fault"}, status=404)
    return web.Response(status=204)


async def add_limit(request: web.Request) -> web.Response:
    """POST limits: refuse with 429 after so many requests."""
    asked = await _read(request)
    known = {"after", "text", "status", "retry_after_seconds", "clears_in", "path", "account"}
    for name in asked:
        if name not in known:
            raise BadKnob(name, f"unknown; the knobs are {', '.join(sorted(known))}")
    limit = hourly_limit(
        after=_number(asked, "after", default=0),
        text=_text(asked, "text"),
        status=_number(asked, "status", default=429),
        retry_after_seconds=_number(asked, "retry_after_seconds") if "retry_after_seconds" in asked else None,
        clears_in=_number(asked, "clears_in") if "clears_in" in asked else None,
        path=_text(asked, "path") or "*",
        account=_text(asked, "account"),
    )
    return web.json_response(request.app[FAULTS].add(limit).to_json(), status=201)


async def list_accounts(request: web.Request) -> web.Response:
    """GET accounts: each with a fresh access token."""
    return web.json_response({"accounts": [_account_row(account) for account in request.app[ACCOUNTS]]})


async def add_account(request: web.Request) -> web.Response:
    """POST accounts: a new one, with a number of small conversations."""
    asked = await _read(request)
    name = _text(asked, "name")
    if not name or not name.strip():
        raise BadKnob("name", "is required")
    conversations = _number(asked, "conversations", default=0)
    try:
        account = request.app[ACCOUNTS].add(name, user_id=_text(asked, "user_id"), email=_text(asked, "email"))
    except ValueError as error:
        raise BadKnob("user_id", str(error)) from error
    account.many(conversations)
    return web.json_response(_account_row(account), status=201)


async def issue_token(request: web.Request) -> web.Response:
    """POST tokens: one more for an account."""
    asked = await _read(request)
    account = request.app[ACCOUNTS].find(_text(asked, "account") or "")
    if account is None:
        raise BadKnob("account", "must be a user id, an email address or a name that exists")
    seconds = asked.get("expires_in_seconds", TEN_DAYS_SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise BadKnob("expires_in_seconds", "must be a number; a negative one makes a token that has expired")
    return web.json_response({"access_token": account.token(expires_in_seconds=seconds)}, status=201)


async def revoke_token(request: web.Request) -> web.Response:
    """POST tokens/revoke."""
    token = _text(await _read(request), "access_token")
    if not token:
        raise BadKnob("access_token", "is required")
    request.app[ACCOUNTS].tokens.revoke(token)
    return web.Response(status=204)


async def show_settings(request: web.Request) -> web.Response:
    """GET settings."""
    settings = request.app[SETTINGS]
    return web.json_response({"event_pause_seconds": settings.event_pause_seconds, "times": settings.times})


async def change_settings(request: web.Request) -> web.Response:
    """PATCH settings: only what is named changes."""
    settings = request.app[SETTINGS]
    asked = await _read(request)
    for name in asked:
        if name not in {"event_pause_seconds", "times"}:
            raise BadKnob(name, "unknown; the settings are event_pause_seconds, times")
    pause = asked.get("event_pause_seconds", settings.event_pause_seconds)
    if isinstance(pause, bool) or not isinstance(pause, int | float) or not 0 <= pause <= 60:
        raise BadKnob("event_pause_seconds", "must be a number from 0 to 60")
    times = asked.get("times", settings.times)
    if times not in get_args(TimeForm):
        raise BadKnob("times", f"must be one of {', '.join(get_args(TimeForm))}")
    settings.event_pause_seconds, settings.times = pause, times
    return await show_settings(request)


async def reset(request: web.Request) -> web.Response:
    """POST reset: everything as it was at the start."""
    request.app[RESET]()
    return web.Response(status=204)


async def _read(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except ValueError as error:
        raise BadKnob("body", "must be JSON") from error
    if not isinstance(body, dict):
        raise BadKnob("body", "must be a JSON object")
    return body


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise BadKnob(name, "must be a string")
    return value


def _number(body: dict[str, Any], name: str, *, default: int = 0) -> int:
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadKnob(name, "must be an integer from 0 up")
    return value


def _row(received: ReceivedRequest) -> dict[str, Any]:
    """Without headers and body: those hold tokens and prompts."""
    return {
        "sequence": received.sequence,
        "method": received.method,
        "path": received.path,
        "account": received.account,
        "arrived_at": received.arrived_at,
        "status": received.status,
    }


def _account_row(account: Account) -> dict[str, Any]:
    return {
        "user_id": account.user_id,
        "email": account.email,
        "name": account.name,
        "conversations": len(account.conversations),
        "access_token": account.token(),
    }
