# SPDX-License-Identifier: GPL-2.0-or-later
"""When the place of a history is found: in its turn, however long that took, and whatever happened meanwhile."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from chatgpt_rest.context import ASKING
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.chat import asks, assistant, complete, content, sent, user
from tests.house import Client, House

UNKNOWN: Final = [user("Who are you?"), assistant("A parrot."), user("Since when?")]


async def are_waiting(house: House, number: int) -> None:
    """Wait until so many asks of Alice's have been taken in."""
    async with asyncio.timeout(10):
        while True:
            if house.app[ASKING].count(house.chatgpt.alice.user_id) == number:
                return
            await asyncio.sleep(0)


async def heard_of(house: House, conversation_id: str) -> str:
    """The first words of the answer that is being written there."""
    async with asyncio.timeout(10):
        while True:
            live = house.app[ASKING].under_way(house.chatgpt.alice.user_id, conversation_id)
            if live is not None:
                return (await anext(live.pieces())).text
            await asyncio.sleep(0)


async def test_a_client_that_gives_up_while_it_waits_is_not_asked_for_twice(
    house: House, client: Client, chatgpt: SimulatedChatGPT
) -> None:
    """Its own retry joins the ask that waits its turn: one prompt goes upstream."""
    fault = chatgpt.fault("conversation", hold_after_events=2)
    other = asyncio.create_task(complete(client, user("Something long")))
    await fault.until_held()
    waiting = asyncio.create_task(complete(client, *UNKNOWN))
    await are_waiting(house, 2)
    waiting.cancel()
    await asyncio.wait((waiting,))
    retry = asyncio.create_task(complete(client, *UNKNOWN, headers={"X-Stainless-Retry-Count": "1"}))
    fault.release()
    await other
    assert (await retry).status == 200
    assert [sent(asked)[-1][1] for asked in asks(chatgpt)] == ["Something long", "Since when?"]


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "once"}, {"X-Stainless-Retry-Count": "1"}])
async def test_who_goes_on_from_an_answer_under_way_stays_in_its_conversation(
    house: House, client: Client, chatgpt: SimulatedChatGPT, headers: dict[str, str]
) -> None:
    """A history that ends in what has come of an answer so far is known by the time it has its turn, key or none."""
    fault = chatgpt.fault("conversation", hold_after_events=2)
    first = asyncio.create_task(complete(client, user("Who are you?")))
    await fault.until_held()
    heard = await heard_of(house, chatgpt.alice.conversations[0].id)
    told = [user("Who are you?"), assistant(heard), user("Since when?")]
    second = asyncio.create_task(complete(client, *told, headers=headers))
    await are_waiting(house, 2)
    fault.release()
    assert (await second).headers["X-Conversation-Id"] == (await first).headers["X-Conversation-Id"]
    assert len(chatgpt.alice.conversations) == 1


async def test_equal_histories_at_once_are_branches_of_one_conversation(
    client: Client, chatgpt: SimulatedChatGPT
) -> None:
    """The second and third find what the first one began."""
    answers = await asyncio.gather(*(complete(client, *UNKNOWN) for _ in range(3)))
    assert len({answer.headers["X-Conversation-Id"] for answer in answers}) == 1
    assert len(asks(chatgpt)) == 3


async def test_a_conversation_deleted_while_its_history_waits_is_begun_anew(
    house: House, client: Client, chatgpt: SimulatedChatGPT
) -> None:
    """The client sent everything: it gets an answer, in a new conversation."""
    first = await complete(client, user("Who are you?"))
    fault = chatgpt.fault("conversation", hold_after_events=2)
    other = asyncio.create_task(complete(client, user("Something long")))
    await fault.until_held()
    told = [user("Who are you?"), assistant(content(first)), user("Since when?")]
    waiting = asyncio.create_task(complete(client, *told))
    await are_waiting(house, 2)
    assert (await client.delete(f"/conversations/{first.headers['X-Conversation-Id']}")).status == 204
    fault.release()
    await other
    answer = await waiting
    assert answer.status == 200
    assert answer.headers["X-Conversation-Id"] != first.headers["X-Conversation-Id"]


async def test_a_conversation_deleted_at_chatgpt_is_begun_anew(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """Its own 404 proves that it is gone; the same request then opens a new one with all its messages."""
    first = await complete(client, user("Who are you?"))
    chatgpt.alice.conversations[0].delete()
    chatgpt.requests.clear()
    told = [user("Who are you?"), assistant(content(first)), user("Since when?")]
    answer = await complete(client, *told)
    assert answer.status == 200
    assert answer.headers["X-Conversation-Id"] != first.headers["X-Conversation-Id"]
    assert [text for _, text in sent(asks(chatgpt)[-1])] == ["Who are you?", content(first), "Since when?"]
    assert (len(asks(chatgpt)), chatgpt.received("GET", "conversation/*")) == (2, 1)
    again = await complete(client, *told)
    assert again.headers["X-Conversation-Id"] == answer.headers["X-Conversation-Id"]
    assert chatgpt.received("GET", "conversation/*") == 1


async def test_a_message_that_chatgpt_misses_is_no_proof_of_a_deletion(
    client: Client, chatgpt: SimulatedChatGPT
) -> None:
    """Where the conversation itself is there, the refusal stands, and nothing is marked."""
    first = await complete(client, user("Who are you?"))
    chatgpt.fault("conversation", error="not_found", times=1)
    told = [user("Who are you?"), assistant(content(first)), user("Since when?")]
    assert (await complete(client, *told)).status == 404
    after = await complete(client, *told)
    assert after.headers["X-Conversation-Id"] == first.headers["X-Conversation-Id"]
