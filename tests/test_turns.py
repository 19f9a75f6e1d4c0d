# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks that wait for their turn, while there are fewer tokens left than people who wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import Answered, Client, House, ManualClock, open_house


@pytest.fixture
async def poor(tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock) -> AsyncIterator[House]:
    """A house whose accounts have four requests an hour, of which Alice spent one a minute ago."""
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="4") as house:
        await house.client.get("/conversations")
        clock.move(seconds=60)
        yield house


def asking(client: Client, number: int) -> asyncio.Task[Answered]:
    """An ask under way."""
    return asyncio.create_task(client.post("/conversations/new", json={"prompt": f"Number {number}?"}))


async def first_of(asks: list[asyncio.Task[Answered]], number: int) -> list[Answered]:
    """The answers of those so many that are answered first."""
    answered: set[asyncio.Task[Answered]] = set()
    async with asyncio.timeout(5):
        while len(answered) < number:
            await asyncio.wait(set(asks) - answered, return_when=asyncio.FIRST_COMPLETED)
            answered = {each for each in asks if each.done()}
    return [each.result() for each in answered]


async def test_who_waits_in_vain_is_told_at_once(poor: House, chatgpt: SimulatedChatGPT) -> None:
    """With two tokens left two asks wait; the others are refused while the answer before them is still written."""
    held = chatgpt.fault("conversation", hold_after_events=1)
    under_way = asking(poor.client, 0)
    await held.until_held()
    waiting = [asking(poor.client, number) for number in range(1, 6)]
    refused = await first_of(waiting, 3)
    assert {(each.status, each.json["code"]) for each in refused} == {(500, "rate_limit_exceeded")}
    assert not under_way.done()
    held.release()
    answers = await asyncio.gather(under_way, *waiting)
    assert sorted(each.status for each in answers) == [201] * 3 + [500] * 3
    assert chatgpt.received() == 4


async def test_who_waits_in_vain_is_told_when_to_come_back(poor: House, chatgpt: SimulatedChatGPT) -> None:
    """`Retry-After` is the time until the first token that is away comes back, although some are left."""
    held = chatgpt.fault("conversation", hold_after_events=1)
    waiting = [asking(poor.client, 0)]
    await held.until_held()
    waiting += [asking(poor.client, number) for number in range(1, 4)]
    (refused,) = await first_of(waiting, 1)
    assert refused.headers["Retry-After"] == "3540"
    held.release()
    await asyncio.gather(*waiting)


async def test_a_place_in_the_queue_is_given_back(poor: House, chatgpt: SimulatedChatGPT, clock: ManualClock) -> None:
    """Who waited counts no more once it had its turn: an hour later as many may wait as before."""
    for _ in range(2):
        held = chatgpt.fault("conversation", hold_after_events=1, times=1)
        asks = [asking(poor.client, 0)]
        await held.until_held()
        asks += [asking(poor.client, number) for number in range(1, 3)]
        await asyncio.wait(asks, timeout=0)
        held.release()
        assert [each.status for each in await asyncio.gather(*asks)] == [201] * 3
        clock.move(seconds=3601)


async def test_another_account_waits_in_a_queue_of_its_own(poor: House, chatgpt: SimulatedChatGPT) -> None:
    """However many of Alice's asks wait, Bob's is answered."""
    bob = poor.client_of(chatgpt.bob)
    held = chatgpt.fault("conversation", hold_after_events=1, account=chatgpt.alice.user_id)
    asks = [asking(poor.client, 0)]
    await held.until_held()
    asks += [asking(poor.client, number) for number in range(1, 4)]
    await first_of(asks, 1)
    assert (await bob.post("/conversations/new", json={"prompt": "Bob?"})).status == 201
    held.release()
    await asyncio.gather(*asks)
