# SPDX-License-Identifier: GPL-2.0-or-later
"""The limit: aiohttp on uvloop answering every path with bytes it holds. `python -m bench.bare FILE PORT`."""

from __future__ import annotations

import sys
from pathlib import Path

import uvloop
from aiohttp import web


def main() -> None:
    """Serve the bytes of FILE as JSON on 127.0.0.1:PORT."""
    body = Path(sys.argv[1]).read_bytes()

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main()
