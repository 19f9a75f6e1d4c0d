# SPDX-License-Identifier: GPL-2.0-or-later
"""Sync with other people's servers: lists that are odd, that lie, that fail or are not there at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from chatgpt_rest.clock import DAY, HOUR, SECOND
from chatgpt_rest.upstream.simulated import Account, SimConversation, SimulatedChatGPT
from chatgpt_rest.upstream.simulated.refusals import Refusal
from tests.house import House, ManualClock, open_house
from tests.rows import rows
from tests.syncing import FarEnd, join, page, sync, sync_later

DAY_SECONDS: Final = DAY / SECOND
NOT_FOUND: Final[dict[str, Any]] = {"status": 404, "body": {"detail": "Not Found"}}


class Poison(SimConversation):
    """A conversation that upstream chokes on wherever a list would name it."""

    is_healed = False

    def list_item(self, times: Any) -> dict[str, Any]:
        if not self.is_healed:
            raise Refusal(500, "Internal Server Error")
        return super().list_item(times)


class Behind(SimConversation):
    """A conversation whose times lists write as a clock on the wall shows them, eight hours behind, with no zone."""

    def list_item(self, times: Any) -> dict[str, Any]:
        there = datetime.fromtimestamp(self.update_time, UTC) - timedelta(hours=8)
        return super().list_item("naive") | {"update_time": there.replace(tzinfo=None).isoformat(timespec="seconds")}


class OfLate(SimConversation):
    """A conversation whose content tells of a later update than its place in the list does."""

    def detail(self) -> dict[str, Any]:
        return super().detail() | {"update_time": self.update_time + 7_200}


def add(account: Account, conversation: SimConversation) -> None:
    """The account has this conversation, with a turn in it."""
    conversation.add_turn("Why?", "Because.", at=conversation.create_time)
    account.everything.append(conversation)


@pytest.fixture
async def house(tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock) -> AsyncIterator[House]:
    """The server with more tokens than most tests here need, and a token of Alice's that lasts for years."""
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="10000") as opened:
        opened.client.authorization = chatgpt.alice.token(expires_in_seconds=1_000 * DAY_SECONDS)
        yield opened


@pytest.fixture
async def frugal(tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock) -> AsyncIterator[House]:
    """The server with the budget that it comes with."""
    async with open_house(tmp_path, chatgpt, base_url, clock) as opened:
        yield opened


@pytest.fixture
async def twenty(house: House, chatgpt: SimulatedChatGPT) -> list[SimConversation]:
    """Twenty conversations, newest first, all of them in the mirror."""
    chatgpt.alice.many(20)
    await join(house)
    await sync(house)
    return chatgpt.alice.conversations


async def wait(house: House, *, hours: float, every_minutes: float = 10) -> None:
    """Let time pass, with a look now and then at what there is to do."""
    for _ in range(round(hours * 60 / every_minutes)):
        await sync_later(house, seconds=60 * every_minutes)


async def status(house: House) -> Any:
    """What `GET /sync` tells."""
    return (await house.client.get("/sync")).json


async def listed(house: House) -> tuple[int, bool]:
    """How many conversations the list names, and whether it says that these are all."""
    answer = await house.client.get("/conversations?limit=1")
    return int(answer.headers["X-Total-Count"]), "X-Mirror-Complete" not in answer.headers


async def last_error(house: House) -> str | None:
    """The code of what is wrong with Alice's sync, if anything is."""
    error = (await status(house))["last_error"]
    return None if error is None else str(error["code"])


# ------------------------------------------------------------------------------------------------- pages that are lost


async def test_an_item_that_no_page_can_show(house: House, chatgpt: SimulatedChatGPT, clock: ManualClock) -> None:
    """What stands behind its page is met all the same, and the list is not called complete before it is."""
    chatgpt.alice.many(120)
    begin = clock.now() / SECOND - 130 * 60
    poison = Poison("Poison", now=lambda: clock.now() / SECOND, at=begin)
    add(chatgpt.alice, poison)
    for number in range(100):
        chatgpt.alice.add_conversation(f"Old {number}", at=begin - 60 * (number + 1))
    await join(house)
    far_end = FarEnd(chatgpt)
    await wait(house, hours=12, every_minutes=15)
    number, is_whole = await listed(house)
    assert (100 < number < 221, is_whole) == (True, False)
    assert chatgpt.alice.conversations[-1].id in far_end.fetched
    assert (await status(house))["last_full_sweep"] is None
    assert far_end.asked.count("conversations") <= 12 * 8
    poison.is_healed = True
    await wait(house, hours=24, every_minutes=30)
    assert await listed(house) == (221, True)
    assert (await status(house))["last_full_sweep"] is not None


async def test_most_of_the_list_is_deleted_while_it_is_read(frugal: House, chatgpt: SimulatedChatGPT) -> None:
    """What is left is listed within a day, and never before is the list called complete."""
    chatgpt.alice.many(1_100)
    await join(frugal)
    fault = chatgpt.fault("conversations", hold=True, after=8, times=1)
    passing = asyncio.create_task(sync(frugal))
    await fault.until_held()
    for each in chatgpt.alice.conversations[:900]:
        each.delete()
    fault.release()
    await passing
    left = {each.id for each in chatgpt.alice.conversations}
    for _ in range(24):
        if (await listed(frugal))[1]:
            break
        await wait(frugal, hours=1)
    assert (await listed(frugal))[1]
    assert left <= {row[0] for row in rows(frugal, "select id from conversation")}


async def test_a_list_that_was_cut_short_is_swept_again_a_day_later(
    house: House, chatgpt: SimulatedChatGPT, twenty: list[SimConversation]
) -> None:
    """By itself: until then it is known that the sweep found out nothing, and then the deletion is found."""
    swept_at = (await status(house))["last_full_sweep"]
    twenty[10].delete()
    chatgpt.fault("conversations", body=page(*twenty[:5]))
    await sync_later(house, seconds=7 * DAY_SECONDS + 1)
    chatgpt.clear_faults()
    told = await status(house)
    assert (told["last_error"]["code"], told["last_full_sweep"]) == ("list_incomplete", swept_at)
    assert told["conversations"]["missing_upstream"] == 0
    await wait(house, hours=23, every_minutes=60)
    assert (await status(house))["last_full_sweep"] == swept_at
    await wait(house, hours=2, every_minutes=60)
    told = await status(house)
    assert (told["last_error"], told["conversations"]["missing_upstream"]) == (None, 1)
    assert told["last_full_sweep"] > swept_at


# ----------------------------------------------------------------------------------------------- lists that are absent


async def test_conversations_in_projects_that_a_server_does_not_list(house: House, chatgpt: SimulatedChatGPT) -> None:
    """They are asked for, are there, and prove nothing: the deletion of another is found."""
    project = chatgpt.alice.add_project("Greenhouse")
    chatgpt.fault("gizmos/*", **NOT_FOUND)
    chatgpt.alice.many(20)
    await join(house)
    await sync(house)
    *moved, deleted = chatgpt.alice.conversations[:6]
    for each in moved:
        each.gizmo_id, each.gizmo_type = project, "snorlax"
        each.touch()
    deleted.delete()
    await sync_later(house, seconds=7 * DAY_SECONDS + 1)
    told = await status(house)
    assert (told["conversations"]["missing_upstream"], told["last_error"]) == (1, None)


async def test_archived_conversations_of_a_server_without_an_archive(
    house: House, chatgpt: SimulatedChatGPT, twenty: list[SimConversation]
) -> None:
    """The same."""
    *archived, deleted = twenty[:6]
    for each in archived:
        each.archive()
    deleted.delete()
    chatgpt.fault("conversations", error="invalid", after=1, times=1)
    await sync_later(house, seconds=7 * DAY_SECONDS + 1)
    told = await status(house)
    assert (told["conversations"]["missing_upstream"], told["last_error"]) == (1, None)


async def test_a_project_whose_list_fails_holds_up_no_other(house: House, chatgpt: SimulatedChatGPT) -> None:
    """A week of it, and a sweep: what was deleted elsewhere is found, and what it holds is not taken for gone."""
    project = chatgpt.alice.add_project("Greenhouse")
    for number in range(4):
        chatgpt.alice.add_conversation(f"Plant {number}", [("Water?", "Yes.")], project=project)
    chatgpt.alice.many(20)
    await join(house)
    await sync(house)
    chatgpt.fault(f"gizmos/{project}/conversations", status=500)
    chatgpt.alice.conversations[10].delete()
    await wait(house, hours=8 * 24, every_minutes=180)
    told = await status(house)
    assert (told["conversations"]["missing_upstream"], told["conversations"]["current"]) == (1, 23)
    assert await last_error(house) != "list_incomplete"


async def test_one_archived_while_a_tiny_archive_is_read(
    house: House, chatgpt: SimulatedChatGPT, twenty: list[SimConversation]
) -> None:
    """It stood in the plain list a moment ago, and makes no plain list of the archive."""
    house.clock.move(seconds=6 * HOUR / SECOND + 10)
    fault = chatgpt.fault("conversations", hold=True, after=1, times=1)
    passing = asyncio.create_task(sync(house))
    await fault.until_held()
    twenty[4].archive()
    fault.release()
    await passing
    assert rows(house, "select list from listing where absent_until is not null") == []
    assert rows(house, "select id from conversation where is_archived") == [(twenty[4].id,)]


# ------------------------------------------------------------------------------------------------- lists that are many


async def test_dozens_of_projects_are_read_less_often_each(frugal: House, chatgpt: SimulatedChatGPT) -> None:
    """All of them together cost a few requests an hour."""
    for number in range(60):
        chatgpt.alice.add_project(f"Project {number}")
    chatgpt.alice.many(10)
    await join(frugal)
    await wait(frugal, hours=6, every_minutes=20)
    assert (await status(frugal))["last_full_sweep"] is not None
    far_end = FarEnd(chatgpt)
    await wait(frugal, hours=36, every_minutes=30)
    assert sum(path.startswith("gizmos/") for path in far_end.asked) <= 36 * 3
    assert {path for path in far_end.asked if path.startswith("gizmos/g-p-")} == {
        f"gizmos/{each}/conversations" for each in chatgpt.alice.projects
    }


async def test_hundreds_of_projects_leave_room_for_conversations(frugal: House, chatgpt: SimulatedChatGPT) -> None:
    """What is stale is here within a day."""
    for number in range(120):
        chatgpt.alice.add_project(f"Project {number}")
    chatgpt.alice.many(200)
    await join(frugal)
    hours = 0
    while (await status(frugal))["conversations"]["current"] < 200:
        await wait(frugal, hours=1, every_minutes=20)
        hours += 1
        assert hours <= 24


# ----------------------------------------------------------------------------------------------------------- odd times


async def test_lists_that_run_behind_their_details(house: House, chatgpt: SimulatedChatGPT, clock: ManualClock) -> None:
    """By eight hours: each change is fetched, though the list dates it before the one that is here, and only once."""
    for number in range(5):
        add(chatgpt.alice, Behind(f"Note {number}", now=lambda: clock.now() / SECOND))
        clock.move(seconds=60)
    await join(house)
    await sync(house)
    far_end = FarEnd(chatgpt)
    changing = chatgpt.alice.conversations[2]
    for _ in range(3):
        clock.move(seconds=3_600)
        changing.add_turn("More?")
        await wait(house, hours=2)
    assert far_end.fetched == [changing.id] * 3
    nodes = rows(house, f"select count(*) from node where conversation = '{changing.id}'")
    assert nodes == [(len(changing.mapping),)]


async def test_lists_that_tell_no_update(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Where nothing changes, a day costs one reading an interval, and a few looks at what stands at the top."""
    chatgpt.settings.times = "absent"
    chatgpt.alice.many(20)
    await join(house)
    await sync(house)
    far_end = FarEnd(chatgpt)
    await wait(house, hours=24, every_minutes=15)
    assert far_end.asked.count("conversations") <= 24 * 4
    assert 1 <= len(far_end.fetched) <= 4
    assert len(far_end.asked) <= 24 * 4 + 3 * 4


async def test_lists_that_tell_no_update_in_an_order_of_their_own(
    house: House, chatgpt: SimulatedChatGPT, clock: ManualClock
) -> None:
    """What seems to have been updated, standing above what was updated later, is fetched once more and then let be."""
    chatgpt.settings.times = "absent"
    for number in range(40):
        kind = OfLate if number % 10 == 0 else SimConversation
        add(chatgpt.alice, kind(f"Note {number}", now=lambda: clock.now() / SECOND))
        clock.move(seconds=60)
    await join(house)
    await sync(house)
    far_end = FarEnd(chatgpt)
    await wait(house, hours=12, every_minutes=15)
    assert len(far_end.fetched) <= 40 + 2
    far_end = FarEnd(chatgpt)
    await wait(house, hours=24, every_minutes=15)
    assert len(far_end.fetched) <= 4
