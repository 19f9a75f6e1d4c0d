# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers that broke off and prompts that may not have arrived: marked as such, and looked up before anyone builds on
them.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatgpt_rest.upstream.simulated import SimConversation, SimulatedChatGPT
from tests.house import Answered, Client


@pytest.fixture
async def groceries(client: Client, chatgpt: SimulatedChatGPT) -> SimConversation:
    """A conversation of two turns that the mirror holds."""
    conversation = chatgpt.alice.add_conversation("Groceries", [("What?", "Milk."), ("And then?", "Bread.")])
    assert len(await messages(client, conversation.id)) == 4
    return conversation


async def ask(client: Client, conversation_id: str, prompt: str = "Eggs?", **fields: str) -> Answered:
    """Go on with a conversation."""
    return await client.post(f"/conversations/{conversation_id}/ask", json={"prompt": prompt, **fields})


async def messages(client: Client, conversation_id: str) -> list[dict[str, Any]]:
    """What `GET messages` answers."""
    return list((await client.get(f"/conversations/{conversation_id}/messages")).json)


async def marked(client: Client, conversation_id: str) -> tuple[list[str], list[str]]:
    """The ids of what is marked as partial among the messages, and in the mapping."""
    shown = await messages(client, conversation_id)
    mapping = (await client.get(f"/conversations/{conversation_id}")).json["mapping"]
    return (
        [each["id"] for each in shown if each.get("is_partial")],
        [key for key, node in mapping.items() if node.get("is_partial")],
    )


async def broken_off(client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation) -> str:
    """The id of an answer that broke off after its first events."""
    fault = chatgpt.fault("conversation", stream="error_event")
    broken = await ask(client, groceries.id)
    assert (broken.status, broken.json["code"]) == (502, "answer_incomplete")
    chatgpt.faults.remove(fault.id)
    return str(broken.json["message_id"])


async def test_an_answer_that_broke_off_is_marked_and_nothing_else_is(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """`is_partial` stands at that message and node alone, and is there for no other, not even as false."""
    partial = await broken_off(client, chatgpt, groceries)
    assert await marked(client, groceries.id) == ([partial], [partial])
    whole = await client.get(f"/conversations/{groceries.id}")
    assert whole.body.count(b'"is_partial"') == 1


async def test_a_prompt_that_may_not_have_arrived_is_marked(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """Where the line broke before any answer, the prompt is the one marked message."""
    chatgpt.fault("conversation", reset=True)
    broken = await ask(client, groceries.id)
    assert broken.json["code"] == "ask_uncertain"
    *before, prompt = await messages(client, groceries.id)
    assert (prompt["message"], len(before)) == ("Eggs?", 4)
    assert await marked(client, groceries.id) == ([prompt["id"]], [prompt["id"]])


async def test_an_answer_that_broke_off_is_fetched_once_before_it_is_built_on(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """The next ask costs one request more, goes on from what upstream has, and the one after it costs none more."""
    await broken_off(client, chatgpt, groceries)
    end = groceries.current_node
    chatgpt.requests.clear()
    assert [(await ask(client, groceries.id, prompt)).status for prompt in ("More?", "Still more?")] == [201, 201]
    asked = [json.loads(each.body) for each in chatgpt.requests if each.method == "POST"]
    assert [each.method for each in chatgpt.requests] == ["GET", "POST", "POST"]
    assert asked[0]["parent_message_id"] == end
    assert await marked(client, groceries.id) == ([], [])
    whole = (await client.get(f"/conversations/{groceries.id}")).json
    assert whole["mapping"] == groceries.detail()["mapping"]


async def test_an_explicit_parent_that_broke_off_is_fetched_too(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """Naming the broken answer is building on it."""
    partial = await broken_off(client, chatgpt, groceries)
    chatgpt.requests.clear()
    assert (await ask(client, groceries.id, parent_id=partial)).status == 201
    assert [each.method for each in chatgpt.requests] == ["GET", "POST"]


async def test_a_branch_beside_a_broken_answer_needs_no_fetch(
    client: Client, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """A parent that is whole is asked with as it is, whatever broke off elsewhere."""
    await broken_off(client, chatgpt, groceries)
    first = (await messages(client, groceries.id))[1]
    chatgpt.requests.clear()
    assert (await ask(client, groceries.id, parent_id=first["id"])).status == 201
    assert [each.method for each in chatgpt.requests] == ["POST"]
