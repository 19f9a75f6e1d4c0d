# SPDX-License-Identifier: GPL-2.0-or-later
"""`/assets/{id}`: the images, recordings and documents of conversations, to their account only.

They are strangers' files on the address that a person trusts. What they are was told by their bytes, never by a name;
only what a browser shows without running anything is shown, and even that in a sandbox.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import BinaryIO, Final

from aiohttp import web

from chatgpt_rest.api.answers import PRIVATE, is_known, saved_as
from chatgpt_rest.chatgpt_json import is_id
from chatgpt_rest.context import MIRROR, MIRROR_OF_ALL
from chatgpt_rest.errors import AssetLost, NotFound
from chatgpt_rest.mirror import Asset

_CHUNK_BYTES: Final = 256 * 1024
_LONGEST_NAME: Final = 150
_SHOWN: Final = ("image/", "audio/", "video/", "application/pdf")
_LAST_NONE: Final = re.compile(r"bytes=-0+")
_RUNS_SCRIPTS: Final = "image/svg+xml"
_EXTENSIONS: Final = {
    "image/png": (".png",),
    "image/jpeg": (".jpg", ".jpeg"),
    "image/gif": (".gif",),
    "image/webp": (".webp",),
    "image/avif": (".avif",),
    "image/heic": (".heic", ".heif"),
    "image/bmp": (".bmp",),
    "image/tiff": (".tiff", ".tif"),
    "image/svg+xml": (".svg",),
    "application/pdf": (".pdf",),
    "audio/mpeg": (".mp3",),
    "audio/wav": (".wav",),
    "audio/ogg": (".ogg", ".oga", ".opus"),
    "audio/flac": (".flac",),
    "audio/mp4": (".m4a",),
    "video/mp4": (".mp4", ".m4a", ".m4v", ".mov"),
    "video/ogg": (".ogv", ".ogg"),
    "video/quicktime": (".mov",),
    "video/webm": (".webm", ".weba"),
}
"""What a name ends in, the usual one first. A type that is not here says nothing about names: plain text is of many."""

_SAFE: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Accept-Ranges": "bytes",
}


async def asset(request: web.Request) -> web.StreamResponse:
    """`GET /assets/{id}`: its bytes, or the range of them that is asked for. Raises NotFound, AssetLost."""
    asset_id = request.match_info["id"]
    if not is_id(asset_id):
        raise NotFound("asset")
    found = await request[MIRROR].assets.find(asset_id)
    etag = f'"{found.digest.hex()}"'
    headers = {**PRIVATE, **_SAFE, "ETag": etag}
    if is_known(request, etag):
        return web.Response(status=304, headers=headers)
    try:
        file = await asyncio.to_thread(request.app[MIRROR_OF_ALL].files.path(found.digest).open, "rb")
    except FileNotFoundError:
        raise AssetLost from None
    try:
        headers |= {
            "Content-Type": found.media_type,
            "Content-Disposition": saved_as(_file_name(found), is_shown=_is_shown(found)),
        }
        return await _send(request, file, headers, etag=etag)
    finally:
        await asyncio.shield(asyncio.to_thread(file.close))


async def _send(request: web.Request, file: BinaryIO, headers: dict[str, str], *, etag: str) -> web.StreamResponse:
    size_bytes = os.fstat(file.fileno()).st_size
    part = _range(request, size_bytes, etag=etag)
    if part is not None and not part:
        return web.Response(status=416, headers={**PRIVATE, "Content-Range": f"bytes */{size_bytes}"})
    response = web.StreamResponse(status=200 if part is None else 206, headers=headers)
    if part is None:
        part = range(size_bytes)
    else:
        response.headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size_bytes}"
    response.content_length = len(part)
    await response.prepare(request)
    if request.method != "HEAD":
        await asyncio.to_thread(file.seek, part.start)
        left = len(part)
        while left and (chunk := await asyncio.to_thread(file.read, min(left, _CHUNK_BYTES))):
            await response.write(chunk)
            left -= len(chunk)
    await response.write_eof()
    return response


def _range(request: web.Request, size_bytes: int, *, etag: str) -> range | None:
    """The bytes that are asked for, none where there are no such ones; None for all of them, as also where the client
    has another version's first half, or asks in a way that is not understood.
    """
    if request.headers.get("If-Range", etag) != etag:
        return None
    try:
        asked = request.http_range
    except ValueError:
        return None
    if _LAST_NONE.fullmatch(request.headers.get("Range", "")):  # which aiohttp takes for all
        return range(0)
    return None if asked.start is None else range(size_bytes)[asked]


def _is_shown(asset: Asset) -> bool:
    return asset.media_type.startswith(_SHOWN) and asset.media_type != _RUNS_SCRIPTS


def _file_name(asset: Asset) -> str:
    """A name that is no path and steers no terminal, and says what the file is."""
    last = (asset.name or "").replace("\\", "/").rpartition("/")[2]
    name = "".join(each for each in last if each.isprintable()).strip(". ") or asset.id
    endings = _EXTENSIONS.get(asset.media_type, ("",))
    if name.lower().endswith(endings):
        return name[-_LONGEST_NAME:]
    return name[:_LONGEST_NAME] + endings[0]
