# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers that came and could not be written down: they were paid for, and whoever asked gets them."""

from __future__ import annotations

import asyncio
import logging

import pytest

from chatgpt_rest.upstream.simulated import SimulatedChatGPT, answer_to, segments
from tests.disks import read_only
from tests.house import House


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Hello?", answer_to("Hello?")),
        ("[[max_tokens:2]] Go on", "".join(segments("[[max_tokens:2]] Go on", cuts=2)[:1])),
    ],
    ids=["whole", "cut"],
)
async def test_an_answer_that_cannot_be_written_is_given_all_the_same(
    house: House, chatgpt: SimulatedChatGPT, caplog: pytest.LogCaptureFixture, prompt: str, expected: str
) -> None:
    """The client gets the object that upstream's own tree ends with; the log tells of it without its words."""
    await house.client.get("/conversations")
    held = chatgpt.fault("conversation", hold_after_events=1)
    asking = asyncio.create_task(house.client.post("/conversations/new", json={"prompt": prompt, "title": "Mine"}))
    await held.until_held()
    async with read_only(house):
        held.release()
        answer = await asking
    (there,) = chatgpt.alice.conversations
    given = answer.json["response"]
    assert (answer.status, given["message"]) == (201, expected)
    assert (given["id"], given["conversation_id"]) == (there.current_node, there.id)
    assert chatgpt.received("POST") == 1
    (record,) = [record for record in caplog.records if record.name == "chatgpt_rest.ask"]
    assert (record.levelno, record.getMessage()[:30]) == (logging.WARNING, "an answer could not be written")
    assert expected not in caplog.text


async def test_an_answer_that_was_not_written_is_fetched_before_the_next_ask(
    house: House, chatgpt: SimulatedChatGPT
) -> None:
    """Once the mirror can be written again, the conversation has what the client was given, and goes on from there."""
    first = (await house.client.post("/conversations/new", json={"prompt": "One?"})).json["response"]
    path = f"/conversations/{first['conversation_id']}"
    held = chatgpt.fault("conversation", hold_after_events=1)
    asking = asyncio.create_task(house.client.post(f"{path}/ask", json={"prompt": "Two?"}))
    await held.until_held()
    async with read_only(house):
        held.release()
        given = (await asking).json["response"]
    third = await house.client.post(f"{path}/ask", json={"prompt": "Three?"})
    assert third.status == 201
    assert given in (await house.client.get(f"{path}/messages")).json
    (there,) = chatgpt.alice.conversations
    assert there.mapping[there.mapping[there.current_node]["parent"]]["parent"] == given["id"]


async def test_an_answer_is_written_as_soon_as_the_mirror_takes_it(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Nobody has to ask again for the mirror to hold what the client was given; its key answers the same throughout."""
    first = (await house.client.post("/conversations/new", json={"prompt": "One?"})).json["response"]
    path = f"/conversations/{first['conversation_id']}"
    key = {"Idempotency-Key": "k1"}
    held = chatgpt.fault("conversation", hold_after_events=1)
    asking = asyncio.create_task(house.client.post(f"{path}/ask", json={"prompt": "Two?"}, headers=key))
    await held.until_held()
    async with read_only(house):
        held.release()
        given = (await asking).json["response"]
        again = await house.client.post(f"{path}/ask", json={"prompt": "Two?"}, headers=key)
        assert (again.status, again.json["response"]) == (201, given)
        assert (await house.client.get(f"{path}/messages")).json[-1] != given
    async with asyncio.timeout(10):
        while (await house.client.get(f"{path}/messages")).json[-1] != given:
            pass  # the server tries again every two seconds
    again = await house.client.post(f"{path}/ask", json={"prompt": "Two?"}, headers=key)
    assert (again.status, again.json["response"]) == (201, given)
    assert chatgpt.received("POST") == 2
    assert chatgpt.received("GET", "conversation/*") == 0


async def test_what_came_before_a_silence_is_written_during_it(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Upstream falls silent in mid-answer: all that had come is readable, not only what came with the first event."""
    first = (await house.client.post("/conversations/new", json={"prompt": "One?"})).json["response"]
    path = f"/conversations/{first['conversation_id']}"
    held = chatgpt.fault("conversation", hold_after_events=6)
    asking = asyncio.create_task(house.client.post(f"{path}/ask", json={"prompt": "Two?"}))
    await held.until_held()
    last = first
    async with asyncio.timeout(10):
        while last["author"]["role"] != "assistant" or last["id"] == first["id"] or len(last["message"].split()) < 12:
            last = (await house.client.get(f"{path}/messages")).json[-1]  # four words came with each event
    assert last["is_partial"] is True
    held.release()
    assert (await asking).status == 201
