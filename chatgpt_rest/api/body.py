# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a request's fields: form-encoded, multipart or JSON, as the client likes.

Unknown fields are ignored; a wrong type is a BadRequest that names the field and never repeats its value.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from aiohttp import web

from chatgpt_rest.chatgpt_json import is_id
from chatgpt_rest.context import CONFIG
from chatgpt_rest.errors import BadRequest, RequestTimeout, UnsupportedMediaType

_LONGEST_NAME = 200  # of a model or an idempotency key, in characters


class Fields:
    """The fields of one request. A field that is null counts as absent."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def text(self, name: str) -> str | None:
        """A string. Raises BadRequest where it is something else, or holds what no text can hold."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise BadRequest(f"{name} must be a string")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRequest(f"{name} holds half a character (a lone surrogate)") from None
        return value

    def required_text(self, name: str) -> str:
        """A string that is there and not empty."""
        value = self.text(name)
        if not value:
            raise BadRequest(f"{name} is required")
        return value

    def name(self, name: str) -> str | None:
        """A short printable string; empty counts as absent."""
        value = self.text(name)
        if value and (len(value) > _LONGEST_NAME or not value.isprintable()):
            raise BadRequest(f"{name} must be at most {_LONGEST_NAME} printable characters")
        return value or None

    def id(self, name: str) -> str | None:
        """The id of a message; empty counts as absent."""
        value = self.text(name)
        if value and not is_id(value):
            raise BadRequest(f"{name} must be the id of a message")
        return value or None

    def boolean(self, name: str) -> bool | None:
        """`true` or `false`, as JSON or as text."""
        value = self._values.get(name)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in {"true", "false"}:
            return value.lower() == "true"
        raise BadRequest(f'{name} must be "true" or "false"')


async def read_fields(request: web.Request) -> Fields:
    """The fields of this request's body. Raises BadRequest, UnsupportedMediaType, RequestTimeout; aiohttp raises
    413.
    """
    seconds = request.app[CONFIG].server.body_timeout_seconds
    try:
        # A body that drips in never times out by itself.
        async with asyncio.timeout(seconds):
            return Fields(await _values(request))
    except TimeoutError:
        raise RequestTimeout(f"the body did not come within {seconds:g} seconds") from None


async def _values(request: web.Request) -> Mapping[str, object]:
    kind = request.content_type
    if kind == "application/json" or kind.endswith("+json"):
        return await _json(request)
    if kind in {"application/x-www-form-urlencoded", "multipart/form-data"}:
        return await _form(request)
    if not request.can_read_body or not await request.read():
        return {}
    raise UnsupportedMediaType("send application/json, application/x-www-form-urlencoded or multipart/form-data")


async def _json(request: web.Request) -> Mapping[str, object]:
    body = await request.read()
    try:
        value = json.loads(body.decode(request.charset or "utf-8"))
    except LookupError:
        raise BadRequest("the charset in Content-Type is unknown") from None
    except RecursionError:
        raise BadRequest("the JSON is nested too deeply") from None
    except ValueError:
        raise BadRequest("the body is no valid JSON") from None
    if not isinstance(value, dict):
        raise BadRequest("the JSON must be an object")
    return value


async def _form(request: web.Request) -> Mapping[str, object]:
    try:
        form = await request.post()
    except LookupError:
        raise BadRequest("the charset in Content-Type is unknown") from None
    except web.HTTPException:
        raise
    except (ValueError, AssertionError, RuntimeError, EOFError):
        raise BadRequest("the form is malformed") from None
    return {name: form[name] for name in form}
