# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes back: JSON with its validators, 304 where the client has it already, pages with their neighbours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode

from aiohttp import web

from chatgpt_rest import chatgpt_json
from chatgpt_rest.mirror import Rendered

PRIVATE: Final = {"Cache-Control": "private, no-cache", "Vary": "Authorization, Cookie, Accept-Encoding"}
_WORTH_COMPRESSING_BYTES: Final = 4096


def json_response(value: object, *, status: int = 200) -> web.Response:
    """`value` as JSON that nobody may keep."""
    return web.Response(
        status=status,
        body=chatgpt_json.dump(value),
        content_type="application/json",
        headers={"Cache-Control": "no-store", "Vary": PRIVATE["Vary"]},
    )


def rendered_response(
    request: web.Request,
    rendered: Rendered,
    *,
    content_type: str = "application/json",
    charset: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """What the mirror rendered, or 304 where the client's copy is still true. `headers` are those of the body alone."""
    always = {**PRIVATE, "ETag": rendered.etag}
    if is_known(request, rendered.etag):
        return web.Response(status=304, headers=always)
    response = web.Response(
        body=rendered.body, content_type=content_type, charset=charset, headers={**always, **(headers or {})}
    )
    if len(rendered.body) >= _WORTH_COMPRESSING_BYTES and _accepts_gzip(request):
        response.enable_compression(web.ContentCoding.gzip)
    return response


def saved_as(name: str, *, is_shown: bool = False) -> str:
    """The Content-Disposition of what is to be saved under this name, or shown and then saved (RFC 6266); old clients
    get it in ASCII.
    """
    plain = "".join(each if each.isascii() and each.isprintable() and each not in '"\\%' else "_" for each in name)
    return f"{'inline' if is_shown else 'attachment'}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


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


def is_known(request: web.Request, etag: str) -> bool:
    """Whether the client has this already."""
    if request.method not in {"GET", "HEAD"}:
        return False  # an edit that was made is told, whatever the client has
    wanted = request.headers.get("If-None-Match")
    if wanted is None:
        return False
    bare = etag.removeprefix("W/")
    return wanted.strip() == "*" or bare in {tag.strip().removeprefix("W/") for tag in wanted.split(",")}
