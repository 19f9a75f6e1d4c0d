# SPDX-License-Identifier: GPL-2.0-or-later
"""A pass over an account, against the simulated ChatGPT: what it reads, in which order, and what that costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chatgpt_rest.clock import HOUR
from chatgpt_rest.context import SYNC
from chatgpt_rest.upstream.simulated import SimConversation, SimulatedChatGPT
from tests.house import House, ManualClock, open_house
from tests.rows import rows
from tests.syncing import FarEnd, join, page, shown, sync, sync_later


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


# ---------------------------------------------------------------------------------------------------------- the plan


async def test_a_first_pass_brings_everything_once(house: House, chatgpt: SimulatedChatGPT) -> None:
    """What is archived and what is in projects, too, which the plain list leaves out."""
    garden = chatgpt.alice.add_project("Garden")
    chatgpt.alice.many(5)
    chatgpt.alice.add_conversation("Archived", [("A?", "A.")], archived=True)
    chatgpt.alice.add_conversation("Roses", [("R?", "R.")], project=garden)
    far_end = FarEnd(chatgpt)
    await join(house)
    this = await sync(house)
    assert sorted(far_end.fetched) == sorted(each.id for each in chatgpt.alice.everything)
    lists = [path for path in far_end.asked if not path.startswith("conversation/")]
    expected = [
        "conversations",
        "conversations?is_archived",
        "gizmos/snorlax/sidebar",
        f"gizmos/{garden}/conversations",
    ]
    assert lists == expected
    assert (this.fetched, this.failed, this.waits_for) == (7, 0, None)
    for each in chatgpt.alice.everything:
        assert (await shown(house, each.id))["mapping"] == each.detail()["mapping"]


async def test_what_is_fetched_comes_newest_first(house: House, chatgpt: SimulatedChatGPT) -> None:
    """A reader's newest conversations are there first."""
    chatgpt.alice.many(8)
    await join(house)
    far_end = FarEnd(chatgpt)
    await sync(house)
    assert far_end.fetched == [each.id for each in chatgpt.alice.conversations]


async def test_what_a_reader_asked_for_comes_before_all(
    house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation]
) -> None:
    """Even before the lists: who reads something stale has it current next time."""
    for each in reversed(ten):
        each.add_turn("More?")
    await house.app[SYNC].start(chatgpt.alice.user_id)  # the list tells what is stale …
    chatgpt.fault("conversation/*", error="hourly_limit", times=1)  # … and then nothing goes on
    await sync(house)
    chatgpt.clear_faults()
    oldest = ten[-1]
    assert (await house.client.get(f"/conversations/{oldest.id}/messages")).status == 200
    far_end = FarEnd(chatgpt)
    await sync_later(house, seconds=3_601)
    assert far_end.asked[0] == f"conversation/{oldest.id}"
    assert len(far_end.fetched) == len(set(far_end.fetched)) == 10


async def test_a_pass_with_nothing_new_costs_one_request(
    house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation]
) -> None:
    """The list's first page, once in an interval; before that nothing at all."""
    far_end = FarEnd(chatgpt)
    assert (await sync_later(house, seconds=60)).requests == 0
    assert (await sync_later(house)).requests == 1
    assert far_end.asked == ["conversations"]


async def test_a_pass_costs_what_changed(house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation]) -> None:
    """Three changes are three conversations and a list."""
    ten[3].add_turn("More?")
    ten[7].rename("Another name")
    new = chatgpt.alice.add_conversation("New", [("N?", "N.")])
    this = await sync_later(house)
    assert (this.fetched, this.requests) == (3, 4)
    assert (await shown(house, ten[7].id))["title"] == "Another name"
    assert (await shown(house, new.id))["mapping"] == new.detail()["mapping"]


async def test_somebody_who_asks_for_a_pass_gets_the_list_read_at_once(
    house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation]
) -> None:
    """However short a while ago that was."""
    ten[5].add_turn("More?")
    far_end = FarEnd(chatgpt)
    await house.app[SYNC].start(chatgpt.alice.user_id)
    await sync(house)
    assert far_end.asked == ["conversations", f"conversation/{ten[5].id}"]


async def test_sync_leaves_the_reserve_to_people(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """It waits with its tokens spent, says for what and how long, and goes on when they come back."""
    chatgpt.alice.many(30)
    spare = {"rate_limit__requests_per_hour": "15", "sync__reserve": "10"}
    async with open_house(tmp_path, chatgpt, base_url, clock, **spare) as house:
        await join(house)
        this = await sync(house)
        assert (chatgpt.received(), this.waits_for) == (5, "rate_limit_exceeded")
        assert this.waits_until == clock.now() + HOUR
        assert (await house.client.get("/budget")).json["remaining"] == 10
        assert (await house.client.post("/conversations/new", json={"prompt": "Hello?"})).status == 201
        await sync_later(house, seconds=3_601)
        assert chatgpt.received() == 11


async def test_a_pass_goes_on_where_the_last_process_ended(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """With every process getting three requests through, nothing is fetched twice."""
    chatgpt.alice.many(10)
    far_end = FarEnd(chatgpt)
    token = chatgpt.alice.token()
    for _ in range(8):
        async with open_house(
            tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="3", sync__reserve="0"
        ) as house:
            house.client.authorization = token
            await house.client.get("/budget")
            await sync(house)
        clock.move(seconds=3_601)
    assert sorted(far_end.fetched) == sorted(each.id for each in chatgpt.alice.conversations)


async def test_two_passes_at_once_are_one(house: House, chatgpt: SimulatedChatGPT) -> None:
    """One request at a time goes upstream for an account, whoever asks."""
    chatgpt.alice.many(5)
    await join(house)
    await asyncio.gather(*(sync(house) for _ in range(3)))
    assert chatgpt.received("GET", "conversation/*") == 5


async def test_the_lists_beside_the_plain_one_have_a_cadence_of_their_own(
    house: House, chatgpt: SimulatedChatGPT
) -> None:
    """Every six hours, and not with every pass: what they hold seldom changes."""
    garden = chatgpt.alice.add_project("Garden")
    await join(house)
    await sync(house)
    far_end = FarEnd(chatgpt)
    for _ in range(24):
        await sync_later(house)
    assert far_end.asked.count("conversations") == 24
    for name in ("conversations?is_archived", "gizmos/snorlax/sidebar", f"gizmos/{garden}/conversations"):
        assert far_end.asked.count(name) == 1


async def test_archiving_there_shows_here(house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation]) -> None:
    """And so does bringing back."""
    ten[4].archive()
    await sync_later(house, seconds=6 * 3_600 + 1)
    assert (await shown(house, ten[4].id))["is_archived"] is True
    assert ten[4].id not in {each["id"] for each in (await house.client.get("/conversations")).json}
    ten[4].archive(archived=False)
    await sync_later(house)
    assert (await shown(house, ten[4].id))["is_archived"] is False


# -------------------------------------------------------------------------------------------- lists that are not there

NO_SUCH_PATH = {"status": 404, "body": "<html><h1>Not Found</h1></html>", "content_type": "text/html"}


@pytest.mark.parametrize(
    "refusal",
    [{"status": 404, "body": {"detail": "Not Found"}}, {"error": "invalid"}, NO_SUCH_PATH],
    ids=["404", "422", "a page with 404"],
)
async def test_a_server_without_projects_is_asked_for_them_once_a_day(
    house: House, chatgpt: SimulatedChatGPT, refusal: dict[str, Any]
) -> None:
    """That it has none is no error, and hides nothing."""
    chatgpt.alice.many(3)
    chatgpt.fault("gizmos/*", **refusal)
    await join(house)
    this = await sync(house)
    assert (this.fetched, this.failed, this.waits_for) == (3, 0, None)
    for _ in range(23):
        await sync_later(house, seconds=3_600)
    assert chatgpt.received("GET", "gizmos/*") == 1
    await sync_later(house, seconds=2 * 3_600)
    assert chatgpt.received("GET", "gizmos/*") == 2
    assert (await house.mirror.of(chatgpt.alice.user_id).sync.load()).error is None


async def test_a_server_without_an_archive_is_asked_for_it_once_a_day(house: House, chatgpt: SimulatedChatGPT) -> None:
    """It finds the parameter wrong."""
    chatgpt.alice.many(3)
    await join(house)
    far_end = FarEnd(chatgpt)
    chatgpt.fault("conversations", error="invalid", times=1)
    this = await sync(house)
    assert (this.fetched, this.failed, far_end.asked[0]) == (3, 0, "conversations?is_archived")
    for _ in range(23):
        await sync_later(house, seconds=3_600)
    assert far_end.asked.count("conversations?is_archived") == 1
    await sync_later(house, seconds=2 * 3_600)
    assert far_end.asked.count("conversations?is_archived") == 2


@pytest.mark.parametrize("tells", [True, False], ids=["flags", "no flags"])
async def test_a_server_that_ignores_what_it_does_not_know_archives_nothing(
    house: House, chatgpt: SimulatedChatGPT, *, tells: bool
) -> None:
    """It shows its plain list for the archive, with or without a word on what is archived."""
    chatgpt.alice.many(5)
    plain = page(*chatgpt.alice.conversations)
    for item in plain["items"] if not tells else []:
        del item["is_archived"]
    chatgpt.fault("conversations", body=plain)
    await join(house)
    await sync(house)
    assert rows(house, "select count(*) from conversation where is_archived") == [(0,)]
    assert len((await house.client.get("/conversations")).json) == 5
    far_end = FarEnd(chatgpt)
    for _ in range(22):
        await sync_later(house, seconds=3_600)
    assert "conversations?is_archived" not in far_end.asked


async def test_a_project_that_vanished_takes_nothing_along(house: House, chatgpt: SimulatedChatGPT) -> None:
    """What was in it stays, and the project is not asked for again."""
    garden = chatgpt.alice.add_project("Garden")
    roses = chatgpt.alice.add_conversation("Roses", [("R?", "R.")], project=garden)
    await join(house)
    await sync(house)
    del chatgpt.alice.projects[garden]
    for _ in range(5):
        this = await sync_later(house, seconds=6 * 3_600 + 1)
        assert (this.failed, this.waits_for) == (0, None)
    assert chatgpt.received("GET", f"gizmos/{garden}/conversations") == 2
    assert (await shown(house, roses.id))["title"] == "Roses"


@pytest.mark.parametrize("error", ["server_error", "html_403", "forbidden"])
@pytest.mark.parametrize("path", ["gizmos/snorlax/*", "gizmos/g-p-*", "conversations?"])
async def test_a_side_list_that_always_fails_holds_nothing_up(
    house: House, chatgpt: SimulatedChatGPT, path: str, error: str
) -> None:
    """The conversations of the plain list are all there within the hour, and it is not asked for all the time."""
    chatgpt.alice.add_project("Garden")
    chatgpt.alice.many(5)
    await join(house)
    far_end = FarEnd(chatgpt)
    if path == "conversations?":
        chatgpt.fault("conversations", error=error, times=1)  # the archive is what comes next
    else:
        chatgpt.fault(path, error=error)
    for _ in range(60):
        await sync_later(house, seconds=60)
    assert len(far_end.fetched) == 5
    assert sum(path.startswith("gizmos/") for path in far_end.asked) <= 8
