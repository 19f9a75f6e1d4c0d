# SPDX-License-Identifier: GPL-2.0-or-later
"""Sync while upstream fails: what each fault costs at the far end, what it holds up, and that it is over with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chatgpt_rest.clock import HOUR, MINUTE
from chatgpt_rest.context import SYNC
from chatgpt_rest.mirror import Counts, SetAside
from chatgpt_rest.upstream.simulated import SimConversation, SimulatedChatGPT
from tests.disks import small_disk
from tests.house import House, ManualClock, open_house
from tests.rows import rows
from tests.syncing import FarEnd, content, join, live, sync, sync_later

OUTAGES: list[dict[str, Any]] = [
    {"error": "server_error"},
    {"error": "bad_gateway"},
    {"error": "unavailable"},
    {"error": "html_403"},
    {"error": "unusual_activity"},
    {"status": 408},
    {"reset": True},
    {"reset_after_bytes": 20},
    {"status": 200, "body": "<html>Welcome</html>", "content_type": "text/html"},
]


@pytest.fixture
async def house(tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock) -> AsyncIterator[House]:
    """The server with more tokens than any test here needs."""
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="10000") as opened:
        yield opened


@pytest.fixture
async def ten(house: House, chatgpt: SimulatedChatGPT) -> list[SimConversation]:
    """Ten conversations, newest first, all of them in the mirror."""
    chatgpt.alice.many(10)
    await join(house)
    await sync(house)
    return chatgpt.alice.conversations


async def counts(house: House) -> Counts:
    """How Alice's conversations stand."""
    return await house.mirror.of(house.chatgpt.alice.user_id).backlog.counts()


async def last_error(house: House) -> str | None:
    """The code of what went wrong last for Alice, until a pass went right."""
    error = (await house.mirror.of(house.chatgpt.alice.user_id).sync.load()).error
    return None if error is None else error.code


def change_all(conversations: list[SimConversation]) -> None:
    """Somebody wrote in each of them."""
    for each in conversations:
        each.add_turn("More?")


# ------------------------------------------------------------------------------------------------------ refused tokens


async def test_a_refused_token_pauses_its_account_alone(
    house: House, chatgpt: SimulatedChatGPT, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once in the log and in the last error; reading goes on, and so does everybody else's sync."""
    chatgpt.alice.many(3)
    chatgpt.bob.many(3)
    await join(house)
    await join(house, chatgpt.bob)
    chatgpt.alice.revoke(str(house.client.authorization))
    far_end = FarEnd(chatgpt)
    for _ in range(5):
        await sync_later(house)
        await sync(house, chatgpt.bob)
    assert chatgpt.received(account=chatgpt.bob.user_id) >= 4 + 5
    refused = [path for path in far_end.asked if path.startswith("conversation/")]
    assert len(refused) == 3  # Bob's
    assert sum(request.account is None for request in chatgpt.requests) == 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] != []
    assert caplog.text.count("upstream refused an access token") == 1
    assert await last_error(house) == "access_token_refused"
    assert (await sync(house)).waits_for == "no_access_token"
    assert (await house.client.as_(None).get("/readyz")).status == 200


async def test_reading_goes_on_while_an_account_is_paused(
    house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation]
) -> None:
    """With an API key, which no refusal of upstream's touches."""
    key, digest = house.auth.create_key()
    await house.mirror.accounts.create_key(chatgpt.alice.user_id, digest, name="laptop")
    chatgpt.alice.revoke(str(house.client.authorization))
    await sync_later(house)
    reader = house.client.as_(key.reveal())
    assert len((await reader.get("/conversations")).json) == 10
    assert (await reader.get(f"/conversations/{ten[0].id}/messages")).status == 200


async def test_a_new_token_goes_on_where_the_refused_one_stopped(house: House, chatgpt: SimulatedChatGPT) -> None:
    """And once a pass went right nothing is wrong any more."""
    chatgpt.alice.many(3)
    await join(house)
    chatgpt.alice.revoke(str(house.client.authorization))
    await sync(house)
    await join(house, chatgpt.alice)
    this = await sync(house)
    assert (this.fetched, this.ended_at, await last_error(house)) == (3, house.clock.now(), None)


# -------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ({}, 3_600),
        ({"retry_after_seconds": 600}, 600),
        ({"status": 400}, 3_600),
        ({"status": 400, "text": "You have reached the hourly limit. Please wait."}, 3_600),
        ({"status": 403, "text": "Rate limit exceeded"}, 3_600),
    ],
    ids=["429", "429 with a time", "400 by its text", "400 in other words", "403 by its text"],
)
async def test_upstreams_own_limit_blocks_the_account_until_it_clears(
    house: House, chatgpt: SimulatedChatGPT, limit: dict[str, Any], seconds: int
) -> None:
    """One request learns of it; nothing else leaves before, and then the pass goes on. Another account is not held."""
    chatgpt.alice.many(5)
    chatgpt.bob.many(1)
    await join(house)
    await join(house, chatgpt.bob)
    chatgpt.limit(after=0, account=chatgpt.alice.user_id, **limit)
    far_end = FarEnd(chatgpt)
    this = await sync(house)
    assert (len(far_end.asked), this.waits_for) == (1, "upstream_rate_limit")
    for _ in range(3):
        await sync_later(house, seconds=(seconds - 10) / 3)
    assert (len(far_end.asked), await last_error(house)) == (1, "upstream_rate_limit")
    assert (await sync(house, chatgpt.bob)).fetched == 1
    chatgpt.clear_faults()
    this = await sync_later(house, seconds=11)
    assert (this.fetched, this.waits_for, await last_error(house)) == (5, None, None)
    assert (await counts(house)).set_aside == 0


# ------------------------------------------------------------------------------------------------------------ outages


@pytest.mark.parametrize("fault", OUTAGES, ids=lambda fault: str(next(iter(fault.items()))))
async def test_an_outage_costs_a_few_requests_an_hour_and_sets_nothing_aside(
    house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation], fault: dict[str, Any]
) -> None:
    """The pauses grow to an hour; what was here is untouched, and afterwards everything is fetched."""
    change_all(ten)
    before = content(house)
    chatgpt.fault("*", **fault)
    house.clock.move(seconds=1_000)
    for most in (5, 3, 3, 3):
        far_end = FarEnd(chatgpt)
        await live(house, hours=1)
        assert len(far_end.asked) <= most
    assert content(house) == before
    assert (await counts(house)).set_aside == 0
    assert await last_error(house) is not None
    chatgpt.clear_faults()
    await live(house, hours=1.5)
    assert (await counts(house)) == Counts(known=10, current=10, stale=0, missing_upstream=0, set_aside=0)
    assert await last_error(house) is None


@pytest.mark.parametrize("fault", OUTAGES, ids=lambda fault: str(next(iter(fault.items()))))
async def test_an_outage_of_conversations_alone_costs_little(
    house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation], fault: dict[str, Any]
) -> None:
    """The list still tells what changed; what it names is asked for now and then, and once it is over all of it."""
    chatgpt.alice.many(30)
    chatgpt.fault("conversation/*", **fault)
    far_end = FarEnd(chatgpt)
    await live(house, hours=2)
    assert len(far_end.fetched) <= 40
    chatgpt.clear_faults()
    await house.app[SYNC].start(chatgpt.alice.user_id, is_full=True)
    await live(house, hours=0.1)
    assert (await counts(house)).current == 40


async def test_a_restart_does_not_ask_an_upstream_that_is_down(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """The pause is written down: a server that is started twenty times in an outage costs no more than one."""
    chatgpt.alice.many(3)
    token = chatgpt.alice.token()
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        house.client.authorization = token
        await join(house)
        chatgpt.fault("*", error="server_error")
        await sync(house)
    far_end = FarEnd(chatgpt)
    for _ in range(20):
        async with open_house(tmp_path, chatgpt, base_url, clock) as house:
            house.client.authorization = token
            assert (await house.client.get("/budget")).status == 200
            this = await sync(house)
            assert (this.requests, this.waits_for) == (0, "upstream_broken")
        clock.move(seconds=10)
    assert far_end.asked == []


async def test_the_pauses_differ_from_account_to_account(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Many servers do not come back all at once: each pause is longer or shorter by chance, and never by much."""
    pauses = []
    for number in range(12):
        chatgpt.clear_faults()
        person = chatgpt.add_account(f"Person {number}")
        await join(house, person)
        chatgpt.fault("*", error="server_error")
        this = await sync_later(house, account=person)
        assert this.waits_until is not None
        pauses.append(this.waits_until - house.clock.now())
    assert len(set(pauses)) == 12
    assert all(6 * MINUTE <= pause <= 10 * MINUTE for pause in pauses)


async def test_a_pause_that_upstream_asks_for_is_kept(
    house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation]
) -> None:
    """Longer than our own it may be, but not shorter."""
    chatgpt.fault("*", error="unavailable", headers={"Retry-After": "7200"})
    this = await sync_later(house)
    assert this.waits_until is not None
    assert this.waits_until - house.clock.now() == 2 * HOUR


async def test_a_person_who_asks_for_a_pass_does_not_wait_for_the_pause_to_end(
    house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation]
) -> None:
    """They may know that upstream is back."""
    fault = chatgpt.fault("*", error="server_error")
    await sync_later(house)
    chatgpt.faults.remove(fault.id)
    ten[0].add_turn("More?")
    await house.app[SYNC].start(chatgpt.alice.user_id)
    assert (await sync(house)).waits_for is None
    assert (await counts(house)).stale == 0


# ----------------------------------------------------------------------------------------------------- conversations


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"error": "server_error"}, "upstream_broken"),
        ({"status": 408}, "upstream_slow"),
        ({"reset": True}, "upstream_reset"),
        ({"truncate_after_bytes": 100}, "upstream_reset"),
        ({"error": "invalid"}, "upstream_rejected"),
        ({"error": "forbidden"}, "upstream_forbidden"),
        ({"status": 200, "body": "<html></html>", "content_type": "text/html"}, "upstream_broken"),
        ({"status": 200, "body": {"mapping": None}}, "upstream_broken"),
        ({"status": 404, "body": {"detail": "Not Found"}}, "conversation_inaccessible"),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_a_conversation_that_fails_three_times_is_set_aside_with_its_reason(
    house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation], fault: dict[str, Any], reason: str
) -> None:
    """The others are fetched at once, and it is not asked for a fourth time."""
    change_all(ten)
    chatgpt.fault(f"conversation/{ten[9].id}", **fault)
    far_end = FarEnd(chatgpt)
    assert (await sync_later(house)).fetched == 9
    await live(house, hours=3)
    assert await counts(house) == Counts(known=10, current=9, stale=0, missing_upstream=0, set_aside=1)
    aside = await house.mirror.of(chatgpt.alice.user_id).backlog.set_aside(limit=20)
    assert aside == [SetAside(ten[9].id, ten[9].title, reason)]
    assert far_end.fetched.count(ten[9].id) == 3


@pytest.mark.parametrize("number", [2, 3, 6])
async def test_conversations_that_always_fail_side_by_side_hold_nothing_up(
    house: House, chatgpt: SimulatedChatGPT, number: int
) -> None:
    """However many of them stand at the top of the list: they may look like an outage, and are none."""
    chatgpt.alice.many(12)
    there = chatgpt.alice.conversations
    for bad in there[:number]:
        chatgpt.fault(f"conversation/{bad.id}", error="server_error")
    await join(house)
    far_end = FarEnd(chatgpt)
    await live(house, hours=2)
    assert {each.id for each in there[number:]} <= set(far_end.fetched)
    await live(house, hours=4)
    expected = Counts(known=12, current=12 - number, stale=0, missing_upstream=0, set_aside=number)
    assert await counts(house) == expected
    far_end = FarEnd(chatgpt)
    await live(house, hours=1)
    assert far_end.fetched == []


async def test_what_was_set_aside_is_tried_again_when_it_changes_or_somebody_asks(
    house: House, chatgpt: SimulatedChatGPT
) -> None:
    """And then it is as good as any other."""
    changing, waiting, _ = sorted(chatgpt.alice.many(3), key=lambda each: -each.update_time)
    for bad in (changing, waiting):
        chatgpt.fault(f"conversation/{bad.id}", error="server_error")
    await join(house)
    await live(house, hours=3)
    assert (await counts(house)).set_aside == 2
    chatgpt.clear_faults()
    changing.rename("Mended")
    await live(house, hours=0.5)
    assert (await counts(house)).set_aside == 1
    await house.app[SYNC].start(chatgpt.alice.user_id, is_full=True)
    await sync(house)
    assert (await counts(house)).current == 3


async def test_what_cannot_be_fetched_can_still_be_read_as_it_was(
    house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation]
) -> None:
    """It is only older than upstream's."""
    before = (await house.client.get(f"/conversations/{ten[0].id}/messages")).json
    ten[0].add_turn("More?")
    chatgpt.fault(f"conversation/{ten[0].id}", error="server_error")
    await live(house, hours=3)
    assert (await counts(house)).set_aside == 1
    assert (await house.client.get(f"/conversations/{ten[0].id}/messages")).json == before


# --------------------------------------------------------------------------------------------------- our own troubles


async def test_a_full_disk_pauses_sync_and_no_longer_than_it_is_full(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """Nothing that was here is lost, reading goes on, and upstream is not asked for what could not be written down."""
    chatgpt.alice.many(2)
    chatgpt.alice.add_conversation("Large", [("Tell me all.", "All. " * 400_000)])
    with small_disk(tmp_path / "disk", size_mib=6) as disk:
        ballast = disk / "ballast"
        async with open_house(disk, chatgpt, base_url, clock) as house:
            await join(house)
            with ballast.open("wb") as file:
                file.write(b"x" * 4_400_000)
            this = await sync(house)
            assert this.waits_for in {"storage_full", "storage_failed"}
            assert this.waits_until == clock.now() + 10 * MINUTE
            assert (await house.client.get("/conversations")).status == 200
            asked = chatgpt.received()
            await live(house, hours=0.5)
            assert chatgpt.received() <= asked + 4
            ballast.unlink()
            await live(house, hours=0.2)
            assert (await counts(house)).current == 3


async def test_a_process_that_ends_in_mid_request_loses_only_that_one(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """What was fetched before is here, and the next process goes on with what was under way."""
    chatgpt.alice.many(6)
    token = chatgpt.alice.token()
    far_end = FarEnd(chatgpt)
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        house.client.authorization = token
        await join(house)
        fault = chatgpt.fault("conversation/*", hold=True, after=3)
        passing = asyncio.create_task(sync(house))
        await fault.until_held()
        passing.cancel()
        await asyncio.gather(passing, return_exceptions=True)
        assert rows(house, "select count(*) from conversation where has_content") == [(3,)]
    chatgpt.clear_faults()
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        house.client.authorization = token
        await join(house)
        assert (await sync(house)).fetched == 3
    assert len(far_end.fetched) == 7
    assert {each.id for each in chatgpt.alice.conversations} == set(far_end.fetched)


async def test_the_house_closes_while_upstream_keeps_sync_waiting(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """What is under way is cancelled and nothing of it stored: no conversation is half here."""
    chatgpt.alice.many(3)
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        await join(house)
        fault = chatgpt.fault("conversation/*", hold=True)
        house.app[SYNC].tend()
        await fault.until_held()
    assert rows(house, "select count(*) from conversation where has_content or failures") == [(0,)]
    assert rows(house, "select count(*) from sync where failures or rests_until") == [(0,)]
