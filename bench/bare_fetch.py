# SPDX-License-Identifier: GPL-2.0-or-later
"""The limit of sync: every conversation of an account fetched over httpx, one after another, and thrown away.
`python -m bench.bare_fetch BASE_URL TOKEN` prints how many there were, the seconds it took and those of the processor.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Final

import httpx

from bench.processes import MEASURED

PAGE: Final = 100


async def fetch_all(base_url: str, token: str) -> int:
    """Read the list page by page, then each conversation; answers how many there were."""
    async with httpx.AsyncClient(base_url=base_url, headers={"Authorization": f"Bearer {token}"}) as client:
        ids: list[str] = []
        while len(ids) % PAGE == 0:
            query: dict[str, str | int] = {"offset": len(ids), "limit": PAGE, "order": "updated"}
            page = json.loads((await client.get("conversations", params=query)).content)["items"]
            if not page:
                break
            ids += [item["id"] for item in page]
        for conversation_id in ids:
            (await client.get(f"conversation/{conversation_id}")).raise_for_status()
        return len(ids)


def main() -> None:
    """Measure once."""
    os.sched_setaffinity(0, MEASURED)
    began, cpu = time.perf_counter(), time.process_time()
    number = asyncio.run(fetch_all(sys.argv[1], sys.argv[2]))
    print(number, time.perf_counter() - began, time.process_time() - cpu)


if __name__ == "__main__":
    main()
