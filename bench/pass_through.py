# SPDX-License-Identifier: GPL-2.0-or-later
"""The limit of streams: aiohttp on uvloop that asks upstream and writes every chunk of the answer on to its client.
`python -m bench.pass_through BASE_URL PORT`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web


def main() -> None:
    """Serve on 127.0.0.1:PORT."""
    address = sys.argv[1] + "conversation"
    app = web.Application()
    session_key = web.AppKey("session", aiohttp.ClientSession)

    async def answer(request: web.Request) -> web.StreamResponse:
        prompt = (await request.json())["prompt"]
        body = {"messages": [{"content": {"parts": [prompt]}}]}
        async with request.app[session_key].post(address, data=json.dumps(body)) as asked:
            response = web.StreamResponse(status=201, headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            async for chunk in asked.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    async def session(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession() as app[session_key]:
            yield

    app.cleanup_ctx.append(session)
    app.router.add_post("/conversations/new", answer)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main()
