# SPDX-License-Identifier: GPL-2.0-or-later
"""Tokens that upstream revokes while requests wait: it hears of each once, and who has another one is not harmed."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from chatgpt_rest.context import ASKING, FETCHES
from chatgpt_rest.errors import Unauthorized, UpstreamRefusedToken
from chatgpt_rest.mirror import Standing
from chatgpt_rest.model import Secret
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import Answered, Client, House
from tests.rows import rows


async def ask(client: Client, prompt: str) -> Answered:
    """Ask in a new conversation."""
    return await client.post("/conversations/new", json={"prompt": prompt})


async def test_of_asks_that_wait_only_one_meets_the_refusal(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Twenty asks in the queue of a token that is revoked: upstream refuses one, and never hears of the others."""
    await house.client.get("/conversations")
    fault = chatgpt.fault("conversation", hold=True)
    asks = [asyncio.create_task(ask(house.client, f"Number {number}?")) for number in range(20)]
    await fault.until_held()
    async with asyncio.timeout(10):
        while house.app[ASKING]._waiting[chatgpt.alice.user_id] < 19:
            await house.client.as_(None).get("/healthz")  # they are on their way through the server
    chatgpt.alice.revoke(str(house.client.authorization))
    fault.release()
    answers = await asyncio.gather(*asks)
    assert {(answer.status, answer.json["code"]) for answer in answers} == {(401, "access_token_refused")}
    assert chatgpt.received("POST", "conversation") == 1
    assert rows(house, "select count(*) from upstream_request where path = 'conversation'") == [(1,)]
    assert rows(house, "select count(*) from ask where state <> 'refused'") == [(0,)]


@pytest.mark.parametrize("refusal", [UpstreamRefusedToken, Unauthorized])
async def test_a_reader_with_a_good_token_gets_what_another_one_was_refused(
    house: House, chatgpt: SimulatedChatGPT, refusal: type[Exception]
) -> None:
    """Of two readers of one conversation, one with a token that upstream takes no more, the other one reads it."""
    (conversation,) = chatgpt.alice.many(1)
    bad, good = (Secret(chatgpt.alice.token()) for _ in range(2))
    callers = [await house.auth.principal(token.reveal()) for token in (bad, good)]
    mirror, fetches = house.mirror.of(chatgpt.alice.user_id), house.app[FETCHES]
    fault = chatgpt.fault("conversation/*", hold=True, times=1)
    first, second = (
        asyncio.create_task(fetches.fetch(mirror, conversation.id, partial(house.auth.caller, who))) for who in callers
    )
    if refusal is Unauthorized:  # refused in another request, before this one could leave
        await house.auth.forget(mirror.account, bad, UpstreamRefusedToken("revoked"))
        fault.release()
    else:
        await fault.until_held()
        chatgpt.alice.revoke(bad.reveal())
        fault.release()
    refused, heard = await asyncio.gather(first, second, return_exceptions=True)
    assert (type(refused), heard) == (refusal, None)
    assert await mirror.conversations.standing(conversation.id) is Standing.HERE
    assert chatgpt.received("GET", f"conversation/{conversation.id}") == (1 if refusal is Unauthorized else 2)
