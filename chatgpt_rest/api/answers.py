# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes back: JSON with its validators, 304 where the client has it already, pages with their neighbours."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from chatgpt_rest import chatgpt_json
from chatgpt_rest.mirror import Rendered

_PRIVATE: Final = {"Cache-Control": "private, no-cache", "Vary": "Authorization, Cookie, Accept-Encoding"}
_WORTH_COMPRESSING_BYTES: Final = 4096


def json_response(value: object, *, status: int = 200) -> web.Response:
    """`value` as JSON that nobody may keep."""
    return web.Response(
        status=status,
        body=chatgpt_json.dump(value),
        content_type="application/json",
        headers={"Cache-Control": "no-store", "Vary": _PRIVATE["Vary"]},
    )


def rendered_response(request: web.Request, rendered: Rendered) -> web.Response:
    """What the mirror rendered, or 304 where the client's copy is still true."""
    headers = {**_PRIVATE, "ETag": rendered.etag}
    if _matches(request, rendered.etag):
        return web.Response(status=304, headers=headers)
    response = web.Response(body=rendered.body, content_type="application/json", headers=headers)
    if len(rendered.body) >= _WORTH_COMPRESSING_BYTES and _accepts_gzip(request):
        response.enable_compression(web.ContentCoding.gzip)
    return response


def page_links(path: str, *, limit: int, offset: int, total: int, query: dict[str, str]) -> str:
    """The Link header of a page: `next` and `prev`, as far as there are any. Values are checked before they come
    here.
    """
    neighbours = []
    if offset + limit < total:
        neighbours.append((offset + limit, "next"))
    if offset > 0:
        neighbours.append((max(0, offset - limit), "prev"))
    return ", ".join(
        f'<{path}?{urlencode({**query, "limit": limit, "offset": start})}>; rel="{relation}"'
        for start, relation in neighbours
    )


def _accepts_gzip(request: web.Request) -> bool:
    for offer in request.headers.get("Accept-Encoding", "").split(","):
        coding, _, weight = offer.replace(" ", "").lower().partition(";")
        if coding == "gzip":
            return re.fullmatch(r"q=0(\.0*)?", weight) is None
    return False


def _matches(request: web.Request, etag: str) -> bool:
    if request.method not in {"GET", "HEAD"}:
        return False  # an edit that was made is told, whatever the client has
    wanted = request.headers.get("If-None-Match")
    if wanted is None:
        return False
    bare = etag.removeprefix("W/")
    return wanted.strip() == "*" or bare in {tag.strip().removeprefix("W/") for tag in wanted.split(",")}
