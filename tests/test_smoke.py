# SPDX-License-Identifier: GPL-2.0-or-later
"""The server end to end, in one breath."""

from __future__ import annotations

from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import Client


async def test_an_ask_is_readable_at_once(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """The last message of the conversation is the answer that the ask gave, field by field."""
    asked = await client.post("/conversations/new", data={"prompt": "Hello?"})
    assert asked.status == 201
    answer = asked.json["response"]
    read = await client.get(f"/conversations/{answer['conversation_id']}/messages")
    assert read.json[-1] == answer
    assert chatgpt.received() == 2  # the first check of the token, and the ask
