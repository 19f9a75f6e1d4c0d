# SPDX-License-Identifier: GPL-2.0-or-later
"""`/conversations/{id}/export`: one conversation as a file for a person."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final

from aiohttp import web

from chatgpt_rest.api.answers import rendered_response, saved_as
from chatgpt_rest.api.conversations import read_or_fetch
from chatgpt_rest.archive import html, names
from chatgpt_rest.archive.attachments import attached_files, attachments, with_placed
from chatgpt_rest.archive.forms import FORMS
from chatgpt_rest.context import CONFIG, MIRROR, MIRROR_OF_ALL
from chatgpt_rest.errors import BadRequest
from chatgpt_rest.mirror import Asset, Rendered

_MOST_EMBEDDED_BYTES: Final = 16 * 1024 * 1024
"""Of files in a page. The others are linked: who came for the page can have them from here, too."""
_FORMS: Final = {
    **FORMS,
    "html": replace(FORMS["html"], render=partial(html.render, most_embedded_bytes=_MOST_EMBEDDED_BYTES)),
}
_RENDERER: Final = ThreadPoolExecutor(1, thread_name_prefix="export")
"""One export at a time: each takes the memory of its pictures several times over."""
_SAFE: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""A browser that shows it all the same runs nothing of it, and asks nobody for anything."""


async def export(request: web.Request) -> web.Response:
    """`GET /conversations/{id}/export`: in the `format` markdown, html or json."""
    form = _FORMS.get(request.query.get("format", "markdown"))
    if form is None:
        raise BadRequest("format must be markdown, html or json")
    mirror, files = request[MIRROR], request.app[MIRROR_OF_ALL].files
    address = request.app[CONFIG].server.public_url.rstrip("/")

    def link(asset: Asset) -> str:
        return f"{address}/assets/{asset.id}"

    tree = await read_or_fetch(request, mirror.conversations.readable)
    attached = await attachments(mirror, tree.id)

    def render() -> bytes:
        return form.render(with_placed(tree, attached), attached=attached_files(attached, files, link=link))

    # In a thread, and not kept: it takes long to render and is read once.
    body = await asyncio.get_running_loop().run_in_executor(_RENDERER, render)
    return rendered_response(
        request,
        Rendered(body),
        content_type=form.content_type,
        charset=form.charset,
        headers={**_SAFE, "Content-Disposition": saved_as(names.file_name(tree, form.suffix))},
    )
