# SPDX-License-Identifier: GPL-2.0-or-later
"""What every request passes on its way in: errors, then auth, then budget. Nothing a client sent is ever repeated
here.
"""

from __future__ import annotations

import ipaddress
import logging
from typing import Any, Final

from aiohttp import web

from chatgpt_rest import chatgpt_json, errors
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
from chatgpt_rest.errors import MirrorError, Misdirected, StorageFailed
from chatgpt_rest.refusing import budget_headers, error_response, refusal
from chatgpt_rest.refusing_openai import FAULT, OpenAIRefusal, is_automatic_retry, openai_refusal, speaks_openai

_CODES: Final = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 417: "expectation_failed"}

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
        return await _answer(request, error)
    except web.HTTPException as error:
        return refusal_of_aiohttp(request, error)
    except ConnectionError:
        raise  # the client is gone, and aiohttp closes up after it
    except Exception:
        log.exception("a request failed method=%s path=%s", request.method, request[CANONICAL])
        if speaks_openai(request):
            return FAULT.response()
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

    The bucket itself is at the transport: this only spares the work. A retry passes, under an Idempotency-Key or as
    OpenAI's clients make them, since its answer may be here already, and so do edits and deletions of what lives here
    only.
    """
    route = _route(request)
    if route is None or not route.needs_upstream:
        return await handler(request)
    requests, account = request.app[MIRROR_OF_ALL].requests, request[PRINCIPAL].account
    is_spared = "Idempotency-Key" in request.headers or is_automatic_retry(request) or await _is_local(request)
    if not is_spared and not await requests.has_left(account):
        raise await requests.refusal(account)
    response = await handler(request)
    if not response.prepared:  # a stream's headers are long gone
        response.headers.update(budget_headers(await requests.budget(account)))
    return response


def refusal_of_aiohttp(request: web.BaseRequest, error: web.HTTPException) -> web.Response:
    """aiohttp's own refusals, without the words in them that it took from the request."""
    code = _CODES.get(error.status, "bad_request")
    headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    if speaks_openai(request):
        return OpenAIRefusal(error.status, error.reason.lower(), code, headers=headers).response()
    response = error_response(error.status, error.reason.lower(), code)
    response.headers.update(headers)
    return response


async def _answer(request: web.Request, error: MirrorError) -> web.Response:
    if speaks_openai(request):
        return (await openai_refusal(request, error)).response()
    told = await refusal(request, error)
    response = error_response(told.status, told.said, told.code, **told.details)
    response.headers.update(told.headers)
    return response


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
    if request.method not in {"DELETE", "PATCH"}:
        return False
    if not request.app[CONFIG].upstream.keeps_conversations:
        return True
    if not chatgpt_json.is_id(conversation_id):
        return False
    return await request[MIRROR].conversations.needs_no_upstream(conversation_id)


def _route(request: web.Request) -> Route | None:
    routes: dict[Any, Route] = request.app[ROUTES]
    return routes.get(request.match_info.handler)
