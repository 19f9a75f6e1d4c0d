# SPDX-License-Identifier: GPL-2.0-or-later
"""A load of GET requests over a few kept-alive connections, in rounds of a fixed number of requests."""

from __future__ import annotations

import asyncio
from typing import Final

CONNECTIONS: Final = 8


async def send(port: int, path: str, headers: dict[str, str], *, requests: int, status: int) -> None:
    """Send `requests` GETs to 127.0.0.1 and read every answer. Raises RuntimeError where one has another status."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    request = "\r\n".join([*lines, "", ""]).encode()
    share = requests // CONNECTIONS
    await asyncio.gather(*(_keep_asking(port, request, share, b"HTTP/1.1 %d" % status) for _ in range(CONNECTIONS)))


async def _keep_asking(port: int, request: bytes, times: int, expected: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024 * 1024)
    try:
        for _ in range(times):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(expected):
                raise RuntimeError(f"unexpected answer: {head[:12]!r}")
            await reader.readexactly(_length(head))
    finally:
        writer.close()


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0
