# SPDX-License-Identifier: GPL-2.0-or-later
"""How an error is told to a client: its status, its words, its headers. The one table of them is here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from chatgpt_rest import chatgpt_json, errors
from chatgpt_rest.budget import WINDOW, Budget
from chatgpt_rest.clock import SECOND
from chatgpt_rest.config import KEY_WAYS
from chatgpt_rest.context import CONFIG, MIRROR_OF_ALL, PRINCIPAL
from chatgpt_rest.errors import BudgetSpent, MirrorError, Unavailable, UpstreamLimit, UpstreamRefusedToken

STATUS: Final[dict[type[MirrorError], int]] = {
    errors.BadRequest: 400,
    errors.Unauthorized: 401,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.RequestTimeout: 408,
    errors.TooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.Misdirected: 421,
    errors.UpstreamRefusedToken: 401,
    errors.UpstreamNotFound: 404,
    errors.UpstreamRejected: 400,
    errors.UpstreamBusy: 503,
    errors.UpstreamRefusesPrograms: 502,
    errors.UpstreamBroken: 502,
    errors.UpstreamAway: 503,
    errors.UpstreamSlow: 504,
    errors.AnswerIncomplete: 502,
    errors.AskUncertain: 502,
    errors.Unavailable: 503,
    errors.StorageFailed: 503,
}
"""Every error a client can meet, but the two of a spent budget: their status is `[rate_limit] exceeded_status`."""

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHORTEST_SECRET: Final = 16  # in characters; what is shorter may well be a word of upstream's own


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a client is told. `said` is our text, or upstream's own JSON."""

    status: int
    said: object
    code: str
    details: dict[str, object] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def members(self) -> dict[str, object]:
        """As the body of an answer, or of an `error` event. It can be written as JSON."""
        return {"error": self.said, "code": self.code, **self.details}


async def refusal(request: web.Request, error: MirrorError) -> Refusal:
    """What the client that sent `request` is told of `error`."""
    if isinstance(error, UpstreamRefusedToken) and PRINCIPAL in request and request[PRINCIPAL].token is None:
        # The client's own key is as good as before: it is the token behind it that upstream takes no more.
        is_of_token = error.code == UpstreamRefusedToken.code
        error = Unavailable(
            "ChatGPT refused the access token of this account" if is_of_token else f"{error.text}; {KEY_WAYS}",
            code="no_access_token" if is_of_token else error.code,
            retry_after_seconds=error.retry_after_seconds,
        )
    is_limit = isinstance(error, BudgetSpent | UpstreamLimit)
    status = request.app[CONFIG].rate_limit.exceeded_status if is_limit else _status(error)
    headers = {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    if is_limit and PRINCIPAL in request:
        budget = await request.app[MIRROR_OF_ALL].requests.budget(request[PRINCIPAL].account)
        is_of_one_model = isinstance(error, UpstreamLimit) and error.is_of_one_model
        refused_for_seconds = None if is_of_one_model else error.retry_after_seconds
        headers.update(budget_headers(budget, refused_for_seconds=refused_for_seconds))
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="chatgpt_rest"'
    return Refusal(status, _said(error, request.match_info.get("id", "")), error.code, dict(error.details), headers)


def budget_headers(budget: Budget, *, refused_for_seconds: int | None = None) -> dict[str, str]:
    """The IETF's RateLimit fields: what is left, and in how many seconds more of it comes back. To one who was refused
    nothing is left: what others wait for already is theirs. Nothing is said where there is no limit of ours.
    """
    if not budget.is_limited:
        return {}
    remaining, seconds = budget.remaining, -(-(budget.more_at - budget.now) // SECOND)
    if refused_for_seconds is not None:
        remaining, seconds = 0, refused_for_seconds
    return {
        "RateLimit-Policy": f'"hour";q={budget.capacity};w={WINDOW // SECOND}',
        "RateLimit": f'"hour";r={remaining};t={seconds}',
    }


def error_response(status: int, error: object, code: str, **details: object) -> web.Response:
    """The one shape of an error: `{"error": …, "code": …}`."""
    body = chatgpt_json.dump({"error": error, "code": code, **details})
    return web.Response(
        status=status, body=body, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def _said(error: MirrorError, conversation_id: str) -> object:
    if error.body is None:
        return error.text
    try:
        return _without_id(error.body, conversation_id)
    except ValueError:  # upstream's JSON holds what JSON cannot (NaN, infinities)
        return error.text


def _without_id(said: object, conversation_id: str) -> object:
    """Upstream's JSON without the id that the client named: it could be anything, a token in the wrong place too."""
    if len(conversation_id) < _SHORTEST_SECRET or _UUID.fullmatch(conversation_id):
        chatgpt_json.dump(said)
        return said
    without: object = json.loads(chatgpt_json.dump(said).replace(conversation_id.encode(), b"[id]"))
    return without


def _status(error: MirrorError) -> int:
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
