# SPDX-License-Identifier: GPL-2.0-or-later
"""What every request passes on its way in: errors, then auth, then budget. Nothing a client sent is ever repeated
here.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import re
from typing import Any, Final

from aiohttp import web

from chatgpt_rest import chatgpt_json, errors
from chatgpt_rest.budget import WINDOW, Budget
from chatgpt_rest.clock import SECOND
from chatgpt_rest.context import (
    ALLOWED_HOSTS,
    AUTH,
    CANONICAL,
    CONFIG,
    MIRROR,
    MIRROR_OF_ALL,
    PRINCIPAL,
    ROUTES,
    Handler,
    Route,
)
from chatgpt_rest.errors import (
    BudgetSpent,
    MirrorError,
    Misdirected,
    StorageFailed,
    Unavailable,
    UpstreamLimit,
    UpstreamRefusedToken,
)

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

_CODES: Final = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 417: "expectation_failed"}

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHORTEST_SECRET: Final = 16  # in characters; what is shorter may well be a word of upstream's own

log = logging.getLogger(__name__)


@web.middleware
async def errors_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception into an answer. What is unknown is logged with its traceback and opaque to the client."""
    resource = request.match_info.route.resource
    request[CANONICAL] = "(unknown)" if resource is None else resource.canonical
    try:
        return await handler(request)
    except MirrorError as error:
        if isinstance(error, StorageFailed):
            log.warning("the mirror cannot be used reason=%s", error.text)
        return await _refusal(request, error)
    except web.HTTPException as error:
        return refusal_of_aiohttp(error)
    except ConnectionError:
        raise  # the client is gone, and aiohttp closes up after it
    except Exception:
        log.exception("a request failed method=%s path=%s", request.method, request[CANONICAL])
        return error_response(500, "something went wrong here; the log says what", "internal")


@web.middleware
async def auth_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let in only what is meant for this server and, but for public routes, comes with a credential."""
    _check_host(request)
    route = _route(request)
    if route is None or route.is_public:  # an unknown path is answered 404 by its own handler
        return await handler(request)
    headers = request.headers.getall("Authorization", [])
    if len(headers) > 1:
        raise errors.BadRequest("there is more than one Authorization header")
    principal = await request.app[AUTH].principal(headers[0] if headers else None)
    request[PRINCIPAL] = principal
    request[MIRROR] = request.app[MIRROR_OF_ALL].of(principal.account)
    return await handler(request)


@web.middleware
async def budget_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn away what needs upstream, before any work, when the account has nothing left.

    The bucket itself is at the transport: this only spares the work. A retry under an Idempotency-Key passes, as its
    answer may be here already, and so do edits and deletions of what lives here only.
    """
    route = _route(request)
    if route is None or not route.needs_upstream:
        return await handler(request)
    requests, account = request.app[MIRROR_OF_ALL].requests, request[PRINCIPAL].account
    is_spared = "Idempotency-Key" in request.headers or await _is_local(request)
    if not is_spared and not await requests.has_left(account):
        raise await requests.refusal(account)
    response = await handler(request)
    response.headers.update(budget_headers(await requests.budget(account)))
    return response


def budget_headers(budget: Budget, *, refused_for_seconds: int | None = None) -> dict[str, str]:
    """The IETF's RateLimit fields: what is left, and in how many seconds more of it comes back. To one who was refused
    nothing is left: what others wait for already is theirs.
    """
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


def refusal_of_aiohttp(error: web.HTTPException) -> web.Response:
    """aiohttp's own refusals, without the words in them that it took from the request."""
    response = error_response(error.status, error.reason.lower(), _CODES.get(error.status, "bad_request"))
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


async def _refusal(request: web.Request, error: MirrorError) -> web.Response:
    if isinstance(error, UpstreamRefusedToken) and PRINCIPAL in request and request[PRINCIPAL].token is None:
        # The client's own key is as good as before: it is the token behind it that upstream takes no more.
        error = Unavailable("ChatGPT refused the access token of this account", code="no_access_token")
    is_limit = isinstance(error, BudgetSpent | UpstreamLimit)
    exceeded_status = request.app[CONFIG].rate_limit.exceeded_status
    status = exceeded_status if is_limit else _status(error)
    try:
        said = error.text if error.body is None else _without_id(error.body, request.match_info.get("id", ""))
        response = error_response(status, said, error.code, **error.details)
    except ValueError:  # upstream's JSON holds what JSON cannot (NaN, infinities)
        response = error_response(status, error.text, error.code, **error.details)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    if is_limit and PRINCIPAL in request:
        requests = request.app[MIRROR_OF_ALL].requests
        budget = await requests.budget(request[PRINCIPAL].account)
        is_of_one_model = isinstance(error, UpstreamLimit) and error.is_of_one_model
        refused_for_seconds = None if is_of_one_model else error.retry_after_seconds
        response.headers.update(budget_headers(budget, refused_for_seconds=refused_for_seconds))
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="chatgpt_rest"'
    return response


def _without_id(said: object, conversation_id: str) -> object:
    """Upstream's JSON without the id that the client named: it could be anything, a token in the wrong place too."""
    if len(conversation_id) < _SHORTEST_SECRET or _UUID.fullmatch(conversation_id):
        return said
    without: object = json.loads(chatgpt_json.dump(said).replace(conversation_id.encode(), b"[id]"))
    return without


def _status(error: MirrorError) -> int:
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def _check_host(request: web.Request) -> None:
    """A page that points its own name at this machine must not be able to use a browser to talk to us."""
    name = request.host.rsplit(":", 1)[0] if request.host.rpartition(":")[2].isdigit() else request.host
    name = name.strip("[]").lower()
    if name in request.app[ALLOWED_HOSTS] or _is_own_address(name, request):
        return
    raise Misdirected("this Host is not served here; name it in [server] allowed_hosts")


def _is_own_address(name: str, request: web.Request) -> bool:
    # An address cannot be pointed elsewhere by a name server: the one that was connected to is always meant.
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    connected = request.get_extra_info("sockname")
    return isinstance(connected, tuple) and address == ipaddress.ip_address(str(connected[0]).partition("%")[0])


async def _is_local(request: web.Request) -> bool:
    conversation_id = request.match_info.get("id", "")
    if request.method not in {"DELETE", "PATCH"} or not chatgpt_json.is_id(conversation_id):
        return False
    return await request[MIRROR].conversations.needs_no_upstream(conversation_id)


def _route(request: web.Request) -> Route | None:
    routes: dict[Any, Route] = request.app[ROUTES]
    return routes.get(request.match_info.handler)
