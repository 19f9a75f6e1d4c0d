# SPDX-License-Identifier: GPL-2.0-or-later
"""What keeping an account current costs, counted at ChatGPT's end, and what it leaves to people."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings

from chatgpt_rest.clock import HOUR, SECOND
from chatgpt_rest.context import SYNC
from chatgpt_rest.plan import Pass
from chatgpt_rest.upstream.simulated import ReceivedRequest, SimulatedChatGPT
from tests.house import Client, House, ManualClock, open_house

HOUR_SECONDS: Final = HOUR / SECOND
STEP_SECONDS: Final = 360
STEPS: Final = 10  # in an hour
HOURS: Final = 3
CAPACITY: Final = 50
RESERVE: Final = 10


@pytest.fixture
async def roomy(tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock) -> AsyncIterator[House]:
    """A house whose budget is no matter."""
    lifted = {"rate_limit__requests_per_hour": "10000"}
    async with open_house(tmp_path, chatgpt, base_url, clock, **lifted) as opened:
        yield opened


async def sync(house: House) -> Pass:
    """Have sync do what it can do now for alice, whose token the server has."""
    return await house.app[SYNC].advance(house.chatgpt.alice.user_id)


async def introduce(house: House) -> None:
    """Alice's token arrives; its check brings the first page of her list."""
    assert (await house.client.get("/conversations?limit=1")).status == 200


def fetched(requests: list[ReceivedRequest]) -> list[str]:
    """The ids of the conversations that were fetched, in that order."""
    gets = [request for request in requests if request.method == "GET"]
    return [request.endpoint.removeprefix("conversation/") for request in gets if "conversation/" in request.endpoint]


def listed(requests: list[ReceivedRequest]) -> list[str]:
    """The lists that were asked for, page by page, with their queries."""
    return [request.path for request in requests if request.method == "GET" and "conversation/" not in request.endpoint]


# --------------------------------------------------------------------------------------------------------------- price


async def test_the_first_sync_fetches_everything_once_and_the_next_what_changed(
    roomy: House, chatgpt: SimulatedChatGPT, clock: ManualClock
) -> None:
    """3,000 conversations (in `make soak`; 600 in `make test`) cost 3,000 fetches and 30 pages, give or take two; three
    changes after that cost three fetches and at most two pages.
    """
    number = 3_000 if settings.get_current_profile_name() == "soak" else 600
    chatgpt.alice.many(number)
    everything = {conversation.id for conversation in chatgpt.alice.conversations}
    await introduce(roomy)
    assert (await sync(roomy)).waits_for is None
    assert Counter(fetched(chatgpt.requests)) == Counter(everything)
    plain = [path for path in listed(chatgpt.requests) if "/conversations?" in path and "is_archived" not in path]
    assert abs(len(plain) - number // 100) <= 2
    assert len(listed(chatgpt.requests)) <= len(plain) + 2  # the archive and the projects, which are empty

    before = chatgpt.received()
    clock.move(seconds=1_000)
    changed = [chatgpt.alice.conversations[index] for index in (20, number // 2, number - 1)]
    for conversation in changed:
        conversation.add_turn("And then?")
    assert (await sync(roomy)).waits_for is None
    assert sorted(fetched(chatgpt.requests[before:])) == sorted(conversation.id for conversation in changed)
    assert len(listed(chatgpt.requests[before:])) <= 2


async def test_a_pass_in_which_nothing_changed_costs_one_request(
    roomy: House, chatgpt: SimulatedChatGPT, clock: ManualClock
) -> None:
    """The first page of the list tells that everything is known; before it is due again, not even that is asked."""
    chatgpt.alice.many(300)
    await introduce(roomy)
    await sync(roomy)
    before = chatgpt.received()
    assert (await sync(roomy)).requests == 0
    clock.move(seconds=roomy.config.sync.interval_seconds)
    assert (await sync(roomy)).requests == 1
    assert chatgpt.received() == before + 1


# ------------------------------------------------------------------------------------------------------------- reserve


@dataclass(frozen=True)
class Day:
    """How a person asks ten times an hour: how often at each of the hour's steps, and whether sync goes first."""

    asks: tuple[int, ...]
    sync_goes: str = "first"


DAYS: Final = {
    "first of all": Day((10, *[0] * 9), "last"),
    "at the beginning": Day((10, *[0] * 9)),
    "at the end": Day((*[0] * 9, 10)),
    "in the middle": Day((0, 0, 0, 0, 10, 0, 0, 0, 0, 0)),
    "spread": Day((1,) * 10),
    "spread, before sync": Day((1,) * 10, "last"),
    "while sync works": Day((5, 0, 0, 0, 5, 0, 0, 0, 0, 0), "along"),
}


@pytest.mark.parametrize("day", DAYS.values(), ids=DAYS)
async def test_ten_asks_an_hour_succeed_although_a_sync_is_under_way(
    house: House, chatgpt: SimulatedChatGPT, client: Client, clock: ManualClock, day: Day
) -> None:
    """With 3,000 conversations to come sync takes 40 requests an hour at most, and most of them; a person's ten get
    through whenever they come, and no rolling hour at ChatGPT's end sees more than 50.
    """
    chatgpt.alice.many(3_000)
    await introduce(house)
    for _ in range(HOURS):
        before = chatgpt.received()
        for asks in day.asks:
            if day.sync_goes == "first":
                await sync(house)
            syncing = asyncio.create_task(sync(house)) if day.sync_goes == "along" else None
            answers = await asyncio.gather(
                *(client.post("/conversations/new", data={"prompt": f"Question {number}?"}) for number in range(asks))
            )
            assert [answer.status for answer in answers] == [201] * asks
            this = await (syncing or sync(house))
            assert this.waits_for == "rate_limit_exceeded"
            clock.move(seconds=STEP_SECONDS)
        reads = [request for request in chatgpt.requests[before:] if request.method == "GET"]
        assert CAPACITY - 2 * RESERVE - 1 <= len(reads) <= CAPACITY - RESERVE
    arrivals = [request.arrived_at for request in chatgpt.requests]
    # Fifty arrivals on, an hour has passed: no window of an hour, wherever it begins, holds fifty-one.
    assert all(later - earlier >= HOUR_SECONDS for earlier, later in zip(arrivals, arrivals[CAPACITY:], strict=False))
    assert all(count == 1 for count in Counter(fetched(chatgpt.requests)).values())


async def test_a_reader_is_served_at_once_although_sync_has_spent_its_share(
    house: House, chatgpt: SimulatedChatGPT, client: Client
) -> None:
    """What is not here yet is fetched for who reads it, with one of the tokens that sync leaves."""
    oldest = chatgpt.alice.many(300)[0]
    await introduce(house)
    assert (await sync(house)).waits_for == "rate_limit_exceeded"
    before = chatgpt.received()
    assert before == CAPACITY - RESERVE
    answer = await client.get(f"/conversations/{oldest.id}/messages")
    assert (answer.status, len(answer.json)) == (200, 2)
    assert fetched(chatgpt.requests[before:]) == [oldest.id]


async def test_what_was_read_and_is_stale_comes_first(
    roomy: House, chatgpt: SimulatedChatGPT, clock: ManualClock
) -> None:
    """Of twenty that changed the one that somebody reads is fetched before the newer ones."""
    conversations = chatgpt.alice.many(100)
    await introduce(roomy)
    await sync(roomy)
    clock.move(seconds=1_000)
    for conversation in conversations[:20]:
        conversation.add_turn("And then?")
        clock.move(seconds=1)
    read = conversations[7]
    assert len((await roomy.client.get(f"/conversations/{read.id}/messages")).json) == 2
    before = chatgpt.received()
    await sync(roomy)
    order = fetched(chatgpt.requests[before:])
    newest_first = [conversation.id for conversation in conversations[19::-1]]
    assert order == [read.id, *(each for each in newest_first if each != read.id)]


async def test_the_rest_comes_newest_first(house: House, chatgpt: SimulatedChatGPT, clock: ManualClock) -> None:
    """An account that does not fit into an hour arrives in the order in which a person would look for things."""
    chatgpt.alice.many(100)
    newest_first = [conversation.id for conversation in chatgpt.alice.conversations]
    await introduce(house)
    while (await sync(house)).waits_for is not None:
        clock.move(seconds=HOUR_SECONDS)
    assert fetched(chatgpt.requests) == newest_first
