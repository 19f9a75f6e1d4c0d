# SPDX-License-Identifier: GPL-2.0-or-later
"""Sync over days and weeks of a clock that is moved: what it costs while upstream is away, once the clock was wrong,
and while somebody keeps asking for more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from chatgpt_rest.clock import DAY, SECOND
from chatgpt_rest.context import SYNC
from chatgpt_rest.mirror import AccountMirror, SetAside
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import NOON, Client, House, ManualClock, open_house
from tests.syncing import FarEnd, join, page, sync, sync_later

YEAR_SECONDS: Final = 365 * DAY / SECOND
PLENTY: Final = "10000"


@pytest.fixture
def chatgpt(clock: ManualClock) -> SimulatedChatGPT:
    """A ChatGPT whose own clock is right whatever is done to ours: it moves as time passes, and never jumps."""
    begin = uptime(clock)
    return SimulatedChatGPT(now=lambda: NOON / SECOND + uptime(clock) - begin, conversations=False)


def uptime(clock: ManualClock) -> float:
    """For how many seconds the machine has been up."""
    boot = clock.boot()
    assert boot is not None
    return boot.elapsed / SECOND


async def wait(house: House, *, hours: float, every_minutes: float = 5) -> None:
    """Let time pass, with a look now and then at what there is to do."""
    for _ in range(round(hours * 60 / every_minutes)):
        await sync_later(house, seconds=60 * every_minutes)


async def requests_by_hour(house: House, hours: int) -> list[int]:
    """How many requests reached upstream in each of the next hours."""
    numbers = []
    for _ in range(hours):
        far_end = FarEnd(house.chatgpt)
        await wait(house, hours=1)
        numbers.append(len(far_end.asked))
    return numbers


async def status(client: Client) -> Any:
    """What `GET /sync` tells."""
    answer = await client.get("/sync")
    assert answer.status == 200
    return answer.json


async def is_complete(house: House) -> bool:
    """Whether the list says that it names everything there is."""
    answer = await house.client.get("/conversations?limit=1")
    assert answer.status == 200
    return "X-Mirror-Complete" not in answer.headers


def mirror_of_alice(house: House) -> AccountMirror:
    """Alice's mirror."""
    return house.mirror.of(house.chatgpt.alice.user_id)


async def begin(house: House, token: str) -> None:
    """Alice comes with the token that she keeps for years."""
    house.client.authorization = token
    await join(house)


@pytest.fixture
def token(chatgpt: SimulatedChatGPT) -> str:
    """A token of Alice's that outlives every test here."""
    return chatgpt.alice.token(expires_in_seconds=10 * YEAR_SECONDS)


# -------------------------------------------------------------------------------------------- a clock that was ahead


async def test_a_clock_put_right_in_the_middle_of_the_first_reading(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, token: str
) -> None:
    """It was eight hours ahead: no list is read over and over until then, and all is here after some hours."""
    chatgpt.alice.many(150)
    clock.jump(seconds=8 * 3_600)
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        await begin(house, token)
    clock.jump(seconds=-8 * 3_600)
    far_end = FarEnd(chatgpt)
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        await begin(house, token)
        await wait(house, hours=6)
        assert (await status(house.client))["conversations"]["current"] == 150
        assert await is_complete(house)
    assert far_end.asked.count("conversations?is_archived") <= 2
    assert len(far_end.fetched) == 150
    assert len(far_end.asked) <= 150 + 6 * 5


async def test_a_clock_put_right_after_a_year(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, token: str
) -> None:
    """What changes is here within an interval of the restart, and the next sweep finds what was deleted."""
    chatgpt.alice.many(20)
    clock.jump(seconds=YEAR_SECONDS)
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour=PLENTY) as house:
        await begin(house, token)
        await sync(house)
    clock.jump(seconds=-YEAR_SECONDS)
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour=PLENTY) as house:
        await begin(house, token)
        changed, deleted = chatgpt.alice.conversations[5], chatgpt.alice.conversations[10]
        changed.add_turn("More?")
        deleted.delete()
        far_end = FarEnd(chatgpt)
        await wait(house, hours=1 / 3)
        assert far_end.asked == ["conversations", f"conversation/{changed.id}"]
        await wait(house, hours=7 * 24 + 2, every_minutes=60)
        assert (await status(house.client))["conversations"]["missing_upstream"] == 1
        assert far_end.fetched == [changed.id, deleted.id]
        assert len(far_end.asked) <= 7 * (24 + 2 * 4) + 10


async def test_a_rest_that_a_clock_ahead_began_ends(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, token: str
) -> None:
    """Upstream was away at the time; within two hours of the restart it is tried."""
    chatgpt.alice.many(3)
    clock.jump(seconds=YEAR_SECONDS)
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        await begin(house, token)
        chatgpt.fault(status=500)
        await wait(house, hours=5, every_minutes=30)
    chatgpt.clear_faults()
    clock.jump(seconds=-YEAR_SECONDS)
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        await begin(house, token)
        await wait(house, hours=2.1)
        told = await status(house.client)
        assert (told["state"], told["conversations"]["current"]) == ("idle", 3)


async def test_a_list_that_a_clock_ahead_found_absent_is_asked_for_again(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, token: str
) -> None:
    """A day after the restart, as any other."""
    chatgpt.alice.many(3)
    clock.jump(seconds=YEAR_SECONDS)
    chatgpt.fault("gizmos/*", status=404, body={"detail": "Not Found"})
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour=PLENTY) as house:
        await begin(house, token)
        await sync(house)
    chatgpt.clear_faults()
    clock.jump(seconds=-YEAR_SECONDS)
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour=PLENTY) as house:
        await begin(house, token)
        far_end = FarEnd(chatgpt)
        await wait(house, hours=25, every_minutes=60)
    assert far_end.asked.count("gizmos/snorlax/sidebar") == 1


async def test_a_sweep_that_a_clock_ahead_began_comes_to_its_end(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, token: str
) -> None:
    """It goes through each list once, finds what was deleted, and is over."""
    deleted = chatgpt.alice.many(20)[7]
    clock.jump(seconds=YEAR_SECONDS)
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour=PLENTY) as house:
        await begin(house, token)
        await sync(house)
        clock.move(seconds=60)
        await mirror_of_alice(house).sync.begin_sweep(clock.now())
    clock.jump(seconds=-YEAR_SECONDS)
    deleted.delete()
    clock.move(seconds=60)
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour=PLENTY) as house:
        await begin(house, token)
        far_end = FarEnd(chatgpt)
        await wait(house, hours=1)
        state = await mirror_of_alice(house).sync.load()
    assert far_end.fetched == [deleted.id]
    assert len(far_end.asked) <= 10
    assert (state.sweep_began_at, (state.swept_at or 0) <= clock.now()) == (None, True)


async def test_a_sweep_that_a_clock_ahead_put_off_comes(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, token: str
) -> None:
    """A list was cut short while the clock was ahead: the next sweep is due within the week after it was put right."""
    chatgpt.alice.many(20)
    clock.jump(seconds=YEAR_SECONDS)
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour=PLENTY) as house:
        await begin(house, token)
        await sync(house)
        fault = chatgpt.fault("conversations", body=page(*chatgpt.alice.conversations[:5]))
        await sync_later(house, seconds=7 * DAY / SECOND + 1)
        assert (await status(house.client))["last_error"]["code"] == "list_incomplete"
    chatgpt.faults.remove(fault.id)
    clock.jump(seconds=-YEAR_SECONDS)
    chatgpt.alice.conversations[10].delete()
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour=PLENTY) as house:
        await begin(house, token)
        await wait(house, hours=7 * 24 + 2, every_minutes=60)
        assert (await status(house.client))["conversations"]["missing_upstream"] == 1


# ------------------------------------------------------------------------------------------------------------ outages

REFUSING: Final[list[dict[str, Any]]] = [
    {"status": 500},
    {"status": 403, "body": {"detail": "forbidden"}},
    {"error": "html_403"},
]


@pytest.mark.parametrize("number", [10, 80])
@pytest.mark.parametrize("fault", REFUSING, ids=["500", "json 403", "bot check"])
async def test_new_conversations_that_are_refused_for_half_a_day(
    house: House, chatgpt: SimulatedChatGPT, token: str, fault: dict[str, Any], number: int
) -> None:
    """While the lists work: that costs little, blames no conversation, and a few hours later all is here."""
    chatgpt.alice.many(number)
    chatgpt.fault("conversation/*", **fault)
    await begin(house, token)
    first, *later = await requests_by_hour(house, 12)
    assert first <= 13  # the first reading of every list among them
    assert max(later) <= 7  # every six hours the archive and the projects are among them
    assert sum(later) <= 11 * 3
    assert (await status(house.client))["conversations"]["set_aside"] == 0
    chatgpt.clear_faults()
    await wait(house, hours=7, every_minutes=15)
    assert (await status(house.client))["conversations"]["current"] == number


@pytest.mark.parametrize("fault", REFUSING, ids=["500", "json 403", "bot check"])
async def test_two_conversations_that_are_refused_for_half_a_day(
    house: House, chatgpt: SimulatedChatGPT, token: str, fault: dict[str, Any]
) -> None:
    """There are too few of them to tell: what is here already tells that no conversation can be had."""
    chatgpt.alice.many(10)
    await begin(house, token)
    await sync(house)
    for each in chatgpt.alice.conversations[3:5]:
        each.add_turn("More?")
    chatgpt.fault("conversation/*", **fault)
    house.clock.move(seconds=3_600)
    first, *later = await requests_by_hour(house, 12)
    assert first <= 13
    assert max(later) <= 7
    assert sum(later) <= 11 * 3
    assert (await status(house.client))["conversations"]["set_aside"] == 0
    chatgpt.clear_faults()
    await wait(house, hours=2)
    assert (await status(house.client))["conversations"]["current"] == 10


async def test_a_limit_that_clears_in_seconds_again_and_again(house: House, chatgpt: SimulatedChatGPT) -> None:
    """It is believed once, and then rested longer and longer."""
    chatgpt.alice.many(200)
    await join(house)
    chatgpt.limit(after=0, retry_after_seconds=5)
    first, *later = await requests_by_hour(house, 12)
    assert first <= 6
    assert max(later) <= 3
    chatgpt.clear_faults()
    await wait(house, hours=8)
    assert (await status(house.client))["conversations"]["current"] == 200


async def test_upstreams_own_limit_is_said_once(
    house: House, chatgpt: SimulatedChatGPT, caplog: pytest.LogCaptureFixture
) -> None:
    """However often there is a look until it clears."""
    chatgpt.alice.many(3)
    await join(house)
    chatgpt.limit(after=0, retry_after_seconds=3_600)
    with caplog.at_level(logging.WARNING):
        await wait(house, hours=0.9)
    assert caplog.text.count("upstream's own limit") == 1


async def test_a_refused_token_of_the_configuration_is_tried_again_after_a_day(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, token: str
) -> None:
    """Upstream may have been wrong, that once."""
    chatgpt.alice.many(3)
    async with open_house(tmp_path, chatgpt, base_url, clock, upstream__access_token=token) as house:
        house.client.authorization = token
        await house.auth.adopt_configured()
        chatgpt.fault(error="bad_token", times=1)
        this = await sync(house)
        assert (this.waits_for, house.auth.has_new_configured()) == ("no_access_token", False)
        await wait(house, hours=23, every_minutes=60)
        assert chatgpt.received() == 2
        await wait(house, hours=2, every_minutes=60)
        assert (await status(house.client))["conversations"]["current"] == 3


# ------------------------------------------------------------------------------------------- somebody who keeps asking


async def test_asking_every_ten_seconds_while_upstream_is_away(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Each asking is taken, and one in five minutes goes upstream."""
    chatgpt.alice.many(20)
    await join(house)
    chatgpt.fault(status=503)
    far_end = FarEnd(chatgpt)
    for _ in range(360):
        house.clock.move(seconds=10)
        assert (await house.client.post("/sync")).status == 202
        await sync(house)
    assert len(far_end.asked) <= 12 + 6


async def test_asking_for_full_passes_faster_than_one_takes(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, token: str
) -> None:
    """Sweeps come to their end all the same, and most of the budget brings conversations."""
    chatgpt.alice.many(120)
    settings = {"rate_limit__requests_per_hour": "16", "sync__reserve": "8"}
    async with open_house(tmp_path, chatgpt, base_url, clock, **settings) as house:
        await begin(house, token)
        far_end = FarEnd(chatgpt)
        for _ in range(24 * 3):
            assert (await house.client.post("/sync", data={"full": "true"})).status == 202
            await sync_later(house, seconds=20 * 60)
        told = await status(house.client)
        assert told["last_full_sweep"] is not None
        assert told["conversations"]["current"] == len(far_end.fetched) == 120


async def test_where_the_reserve_is_the_whole_budget(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, token: str
) -> None:
    """Conversations come all the same, and most of the budget is left to people."""
    chatgpt.alice.many(5)
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="10") as house:
        await begin(house, token)
        for _ in range(6):
            await wait(house, hours=1)
            assert (await status(house.client))["budget"]["remaining"] >= 8
        assert (await status(house.client))["conversations"]["current"] == 5


# ---------------------------------------------------------------------------------------------------- where sync is off


@pytest.fixture
async def off(tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock) -> AsyncIterator[House]:
    """A server that goes upstream by itself for nothing."""
    async with open_house(tmp_path, chatgpt, base_url, clock, sync__enabled="false") as opened:
        yield opened


async def test_a_pass_asked_for_just_as_one_ends_goes_on(off: House, chatgpt: SimulatedChatGPT) -> None:
    """Whoever carried the first one out does not leave with it."""
    chatgpt.alice.many(3)
    await join(off)
    alice = chatgpt.alice.user_id
    far_end = FarEnd(chatgpt)
    await off.app[SYNC].start(alice)
    desk = off.app[SYNC].desk(alice)
    while desk.current is not None:  # noqa: ASYNC110 - then it is only written down how it went, which nothing tells of
        await asyncio.sleep(0)
    await off.app[SYNC].start(alice)
    assert desk.keeper is not None
    await desk.keeper
    assert desk.current is None
    assert far_end.asked.count("conversations") == 2


async def test_a_pass_goes_on_with_the_next_token(off: House, chatgpt: SimulatedChatGPT, clock: ManualClock) -> None:
    """The first one expired in the middle of it, and the server keeps nothing current of its own accord."""
    chatgpt.alice.many(5)
    off.client.authorization = chatgpt.alice.token(expires_in_seconds=600)
    await join(off)
    alice = chatgpt.alice.user_id
    fault = chatgpt.fault("conversation/*", hold=True, times=1)
    await off.app[SYNC].start(alice)
    await fault.until_held()
    clock.move(seconds=700)
    fault.release()
    desk = off.app[SYNC].desk(alice)
    assert desk.keeper is not None
    await desk.keeper
    assert desk.current is not None
    assert desk.current.waits_for == "no_access_token"
    await join(off, chatgpt.alice)
    off.app[SYNC].tend()
    await desk.keeper
    assert desk.current is None
    assert (await mirror_of_alice(off).backlog.counts()).current == 5


# ------------------------------------------------------------------------------------------------- a process that dies


async def test_a_conversation_that_ends_the_process_is_set_aside(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock, token: str
) -> None:
    """Each time it is fetched the process dies: after the first time the others come before it, and after the third
    it is let be.
    """
    chatgpt.alice.many(5)
    deadly, *others = [each.id for each in chatgpt.alice.conversations]
    far_end = FarEnd(chatgpt)
    for _ in range(6):
        fault = chatgpt.fault(f"conversation/{deadly}", hold=True)
        async with open_house(tmp_path, chatgpt, base_url, clock) as house:
            await begin(house, token)
            work = {asyncio.create_task(sync(house)), asyncio.create_task(fault.until_held())}
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for each in work:
                each.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        chatgpt.clear_faults()
        clock.move(seconds=60)
    assert far_end.fetched == [deadly, *others, deadly, deadly]
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        assert await mirror_of_alice(house).backlog.set_aside(limit=9) == [SetAside(deadly, "Note 5", "interrupted")]
