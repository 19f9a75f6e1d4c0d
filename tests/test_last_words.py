# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams that go on after the answer, or hold what nobody can read: the answer is what a reader sees last."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import Client
from tests.shapes import message

CONVERSATION: Final = "c0ffee"
ANSWER: Final = message("Blue.", id="answer")
NOTE: Final = message("Likes blue.", id="note", recipient="bio", end_turn=False)
IMAGE: Final = {"content_type": "multimodal_text", "parts": [{"content_type": "image_asset_pointer"}]}

AFTERTHOUGHTS: Final[dict[str, list[dict[str, Any]]]] = {
    "a note to its memory": [NOTE],
    "the memory's reply": [NOTE, message("Model set context updated.", id="reply", role="tool")],
    "a system message": [message("", id="rules", role="system", weight=0)],
    "a message that is not shown": [
        message("Psst.", id="hidden", metadata={"is_visually_hidden_from_conversation": True})
    ],
    "a recap of its thoughts": [
        message(id="recap", content={"content_type": "reasoning_recap", "content": "Thought for 3 seconds"})
    ],
}


def tell(chatgpt: SimulatedChatGPT, *messages: dict[str, Any]) -> None:
    """Have upstream answer the next ask with a stream of these messages, one event each."""
    events = [{"message": each, "conversation_id": CONVERSATION, "error": None} for each in messages]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    chatgpt.fault("conversation", body=stream, content_type="text/event-stream", times=1)


async def last_of_messages(client: Client) -> Any:
    """What `GET messages` ends with."""
    return (await client.get(f"/conversations/{CONVERSATION}/messages")).json[-1]


@pytest.mark.parametrize("afterthoughts", AFTERTHOUGHTS.values(), ids=AFTERTHOUGHTS)
async def test_what_nobody_sees_is_not_the_answer(
    client: Client, chatgpt: SimulatedChatGPT, afterthoughts: list[dict[str, Any]]
) -> None:
    """A stream that ends with hidden messages answers with the last visible one, now and under the same key later."""
    tell(chatgpt, ANSWER, *afterthoughts)
    key = {"Idempotency-Key": "k1"}
    asked = await client.post("/conversations/new", json={"prompt": "My colour?"}, headers=key)
    assert (asked.status, asked.json["response"]["message"]) == (201, "Blue.")
    assert await last_of_messages(client) == asked.json["response"]
    again = await client.post("/conversations/new", json={"prompt": "My colour?"}, headers=key)
    assert (again.status, again.json) == (201, asked.json)


async def test_an_image_is_an_answer(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Where the last that a reader sees is a tool's image, that is the answer, and not the call that made it."""
    tell(
        chatgpt,
        message('{"prompt": "a cat"}', id="call", recipient="dalle.text2im"),
        message(id="image", role="tool", content=IMAGE),
    )
    asked = await client.post("/conversations/new", json={"prompt": "Draw a cat"})
    assert (asked.status, asked.json["response"]["content"]) == (201, IMAGE)
    assert await last_of_messages(client) == asked.json["response"]


async def test_the_next_ask_follows_what_came_last(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Upstream's own branch ends with what is hidden: the next prompt hangs on that."""
    tell(chatgpt, ANSWER, NOTE)
    await client.post("/conversations/new", json={"prompt": "My colour?"})
    tell(chatgpt, message("Sure.", id="second"))
    assert (await client.post(f"/conversations/{CONVERSATION}/ask", json={"prompt": "Sure?"})).status == 201
    assert json.loads(chatgpt.requests[-1].body)["parent_message_id"] == "note"


@pytest.mark.parametrize("depth", [200, 5_000])
async def test_an_event_nested_too_deep_is_passed_over(client: Client, chatgpt: SimulatedChatGPT, depth: int) -> None:
    """A bomb in mid-stream costs its own event, not the answer."""
    bomb = '{"message": {"id": "bomb", "metadata": ' + "[" * depth + "]" * depth + "}}"
    whole = json.dumps({"message": ANSWER, "conversation_id": CONVERSATION})
    stream = f"data: {whole}\n\ndata: {bomb}\n\ndata: [DONE]\n\n"
    chatgpt.fault("conversation", body=stream, content_type="text/event-stream")
    asked = await client.post("/conversations/new", json={"prompt": "My colour?"})
    assert (asked.status, asked.json["response"]["id"]) == (201, "answer")
    whole_here = (await client.get(f"/conversations/{CONVERSATION}")).json
    assert "bomb" not in whole_here["mapping"]
