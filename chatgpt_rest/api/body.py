# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a request's fields: form-encoded, multipart or JSON, as the client likes.

Unknown fields are ignored; a wrong type is a BadRequest that names the field and never repeats its value.
"""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from chatgpt_rest.auth import looks_like_credential
from chatgpt_rest.chatgpt_json import is_id
from chatgpt_rest.context import CONFIG
from chatgpt_rest.errors import BadRequest, RequestTimeout, TooLarge, UnsupportedMediaType

_LONGEST_NAME: Final = 200  # of a model, in characters
_MOST_PARTS: Final = 1000  # of a multipart form
_ENCODINGS: Final = frozenset({"identity", "gzip", "deflate"})
_CHARSETS: Final = frozenset({"utf-8", "ascii", "iso8859-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be"})
"""By Python's names. Not any that Python knows: some of them (punycode, idna) take minutes for a body that is large."""


class Fields:
    """The fields of one request. A field that is null counts as absent."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def raw(self, name: str) -> object:
        """Whatever it is: for what JSON alone can say."""
        return self._values.get(name)

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
        if value and (len(value) > _LONGEST_NAME or not value.isprintable() or looks_like_credential(value)):
            raise BadRequest(f"{name} must be at most {_LONGEST_NAME} printable characters, and no credential")
        return value or None

    def id(self, name: str) -> str | None:
        """The id of a message; empty counts as absent."""
        value = self.text(name)
        if value and (not is_id(value) or looks_like_credential(value)):
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
    _check_charset(request.charset)
    if request.headers.get("Content-Encoding", "identity").lower() not in _ENCODINGS:
        raise UnsupportedMediaType("send the body as it is, or with Content-Encoding gzip or deflate")
    if (request.content_length or 0) > request.app[CONFIG].server.max_body_bytes:
        raise TooLarge("the body is larger than [server] max_body_bytes")  # said before anybody waits for all of it
    try:
        return await _values_of(request, kind)
    except web.RequestPayloadError:
        raise BadRequest("the body is malformed: its encoding or its chunks are broken") from None


def _check_charset(charset: str | None) -> None:
    try:
        is_known = codecs.lookup(charset or "utf-8").name in _CHARSETS
    except (LookupError, ValueError):
        is_known = False
    if not is_known:
        raise BadRequest("the charset in Content-Type is unknown")


async def _values_of(request: web.Request, kind: str) -> Mapping[str, object]:
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
    except RecursionError:
        raise BadRequest("the JSON is nested too deeply") from None
    except ValueError:
        raise BadRequest("the body is no valid JSON") from None
    if not isinstance(value, dict):
        raise BadRequest("the JSON must be an object")
    return value


async def _form(request: web.Request) -> Mapping[str, object]:
    try:
        if request.content_type == "multipart/form-data":
            return await _parts(request)
        return await _pairs(request)
    except (ValueError, AssertionError, RuntimeError, EOFError, HttpProcessingError):
        raise BadRequest("the form is malformed") from None


async def _pairs(request: web.Request) -> Mapping[str, object]:
    """The fields of an urlencoded form. Not aiohttp's `post`, which puts U+FFFD where bytes are no text: a prompt must
    not change on its way. Of several values of a field the first one counts.
    """
    charset = request.charset or "utf-8"
    body = (await request.read()).decode(charset)
    pairs = parse_qsl(body.rstrip(), keep_blank_values=True, encoding=charset, errors="strict")
    return dict(reversed(pairs))


async def _parts(request: web.Request) -> Mapping[str, object]:
    """The fields of a multipart form; files stay bytes. Not aiohttp's `post`, which decodes a part in any charset."""
    limit_bytes = request.app[CONFIG].server.max_body_bytes
    values: dict[str, object] = {}
    size_bytes = parts = 0
    reader = await request.multipart()
    while (part := await reader.next()) is not None:
        if not isinstance(part, BodyPartReader) or part.name is None:
            raise BadRequest("the form is malformed")
        content = await part.read(decode=True)
        parts, size_bytes = parts + 1, size_bytes + len(content)
        if size_bytes > limit_bytes or parts > _MOST_PARTS:
            raise TooLarge("the form is too large")
        charset = part.get_charset("utf-8")
        _check_charset(charset)
        values.setdefault(part.name, content.decode(charset) if part.filename is None else content)
    return values
