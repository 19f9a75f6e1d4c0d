# SPDX-License-Identifier: GPL-2.0-or-later
"""An upload of any size, from the socket to the disk: never all of it in memory, and never more than is allowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from chatgpt_rest.api.body import Fields
from chatgpt_rest.archive.spool import Spool
from chatgpt_rest.context import CONFIG
from chatgpt_rest.errors import BadRequest, RequestTimeout, TooLarge, UnsupportedMediaType

_CHUNK_BYTES: Final = 1024 * 1024
_LONGEST_FIELD_BYTES: Final = 100  # of `dry_run`
_MOST_PARTS: Final = 2_000
_NAMES: Final = {"application/zip": "export.zip", "application/json": "export.json"}
"""What the file is called that is the whole body, by its Content-Type."""

_T = TypeVar("_T")


async def receive(request: web.Request, spool: Spool) -> Fields:
    """Take in the parts called `file`, or a body that is the file itself, and answer the other fields: the form's, or
    the query's.

    Raises TooLarge as soon as it is known, RequestTimeout where nothing comes any more, StorageFailed where the disk
    has no room, BadRequest and UnsupportedMediaType.
    """
    limit_bytes = request.app[CONFIG].archive.max_upload_bytes
    if (request.content_length or 0) > limit_bytes:
        raise _too_large()
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("send the body as it is: what is in it is compressed already")
    await spool.check_room(request.content_length or 0)
    body = _Body(request, limit_bytes=limit_bytes)
    try:
        if request.content_type == "multipart/form-data":
            return Fields(await body.form(spool))
        if request.content_type not in _NAMES:
            raise UnsupportedMediaType("send multipart/form-data with a part called file, or application/zip")
        await body.file(spool, _NAMES[request.content_type])
        return Fields(dict(request.query))
    except (
        ValueError,
        AssertionError,
        RuntimeError,
        EOFError,
        ConnectionError,
        HttpProcessingError,
        web.RequestPayloadError,
    ):
        raise BadRequest("the upload is malformed, or was cut short") from None


class _Body:
    """A request's body on its way in, counted."""

    def __init__(self, request: web.Request, *, limit_bytes: int) -> None:
        self._request = request
        self._left_bytes = limit_bytes
        self._patience_seconds = request.app[CONFIG].server.body_timeout_seconds

    async def file(self, spool: Spool, name: str) -> None:
        """The body is one file."""
        content = self._request.content
        async with spool.file(name) as file:
            async for chunk in self._chunks(partial(content.read, _CHUNK_BYTES)):
                await file.write(chunk)

    async def form(self, spool: Spool) -> dict[str, object]:
        """The body is a form. What is no file and no field that anybody reads is passed over."""
        values: dict[str, object] = {}
        reader = await self._request.multipart()
        for _ in range(_MOST_PARTS):
            part = await self._patiently(reader.next)
            if part is None:
                break
            if not isinstance(part, BodyPartReader):
                raise BadRequest("the form is malformed")
            chunks = self._chunks(partial(part.read_chunk, _CHUNK_BYTES))
            if part.name == "file":
                async with spool.file(part.filename or "export") as file:
                    async for chunk in chunks:
                        await file.write(chunk)
            elif part.name == "dry_run":
                values["dry_run"] = await _short_text(chunks)
            else:
                async for _chunk in chunks:
                    pass
        else:
            raise TooLarge(f"a form has at most {_MOST_PARTS} parts")
        if not spool.paths:
            raise BadRequest("file is required")
        return values

    async def _chunks(self, read: Callable[[], Awaitable[bytes]]) -> AsyncIterator[bytes]:
        while chunk := await self._patiently(read):
            self._left_bytes -= len(chunk)
            if self._left_bytes < 0:
                raise _too_large()
            yield chunk

    async def _patiently(self, read: Callable[[], Awaitable[_T]]) -> _T:
        try:
            async with asyncio.timeout(self._patience_seconds):
                return await read()
        except TimeoutError:
            raise RequestTimeout(f"nothing came for {self._patience_seconds:g} seconds") from None


async def _short_text(chunks: AsyncIterator[bytes]) -> str:
    text = b""
    async for chunk in chunks:
        text += chunk
        if len(text) > _LONGEST_FIELD_BYTES:
            raise BadRequest("a field of the form is too long")
    return text.decode()


def _too_large() -> TooLarge:
    return TooLarge("the upload is larger than [archive] max_upload_bytes")
