"""Measure the stall."""
from __future__ import annotations
import asyncio, os, time, resource
from tests.belongings import add_asset
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import House, Client

async def test_stall(house: House, client: Client, chatgpt: SimulatedChatGPT) -> None:
    talk = chatgpt.alice.add_conversation("Groceries", [("What? 世界 🌍", "Milk.")], at=1_714_557_600)
    place = f"/conversations/{talk.id}/export?format=html"
    await client.get(place)
    for n in range(5):
        await add_asset(house.mirror, f"file-{n}", b"\x89PNG\r\n\x1a\n" + os.urandom(4_000_000), conversation_id=talk.id, name=f"{n}.png", account=chatgpt.alice.user_id)
    worst = 0.0
    async def tick():
        nonlocal worst
        while True:
            t = time.perf_counter(); await asyncio.sleep(0.005); worst = max(worst, time.perf_counter() - t)
    task = asyncio.create_task(tick())
    t = time.perf_counter()
    for headers in ({"Accept-Encoding": "identity"}, {"Accept-Encoding": "gzip"}):
        r = await client.get(place, headers=headers)
        print("STALL", round(worst, 3), "total", round(time.perf_counter() - t, 2), r.status, len(r.body), r.headers.get("Content-Encoding"), "rss", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, flush=True)
        worst = 0.0
    task.cancel()
