# SPDX-License-Identifier: GPL-2.0-or-later
"""A ChatGPT with 3,000 conversations, most of a dozen messages, every hundredth of 300. `python -m bench.upstream PORT`
serves it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Final

from chatgpt_rest.upstream.simulated import SimulatedChatGPT

CONVERSATIONS: Final = 3_000
PROMPT: Final = "Why would it do that, if nothing else has changed since yesterday? " * 3
ANSWER: Final = "Because what it was told then still holds, and nobody has told it otherwise. " * 12


async def serve(port: int) -> None:
    """Serve on 127.0.0.1:`port` until the process ends."""
    chatgpt = SimulatedChatGPT(conversations=False)
    end = time.time() - 3_600
    for number in range(CONVERSATIONS):
        turns = 150 if number % 100 == 0 else 6
        at = end - 3_600 * (CONVERSATIONS - number)
        chatgpt.alice.add_conversation(f"Conversation {number}", [(PROMPT, ANSWER)] * turns, at=at)
    async with chatgpt.serving(port=port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
