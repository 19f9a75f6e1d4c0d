# SPDX-License-Identifier: GPL-2.0-or-later
"""That the mirror tells the truth after a pass, whatever the lists were like, and loses nothing by any of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chatgpt_rest.clock import DAY, SECOND
from chatgpt_rest.context import SYNC
from chatgpt_rest.mirror import AccountMirror, Counts
from chatgpt_rest.upstream.simulated import SimConversation, SimulatedChatGPT
from tests.house import House, ManualClock, open_house
from tests.rows import rows
from tests.shapes import conversation, message
from tests.syncing import FarEnd, content, join, page, shown, sync, sync_later

WEEK_SECONDS = 7 * DAY / SECOND + 1


@pytest.fixture
async def house(tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock) -> AsyncIterator[House]:
    """The server with more tokens than any test here needs."""
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="10000") as opened:
        yield opened


@pytest.fixture
def mirror(house: House) -> AccountMirror:
    """Alice's mirror."""
    return house.mirror.of(house.chatgpt.alice.user_id)


@pytest.fixture
async def ten(house: House, chatgpt: SimulatedChatGPT) -> list[SimConversation]:
    """Ten conversations, newest first, all of them in the mirror."""
    chatgpt.alice.many(10)
    await join(house)
    await sync(house)
    return chatgpt.alice.conversations


# ------------------------------------------------------------------------------------------------------------- truth


@pytest.mark.parametrize("times", ["absent", "naive", "Z", "+00:00", "mixed"])
async def test_however_a_list_writes_times_what_changed_is_fetched(
    house: House, chatgpt: SimulatedChatGPT, times: str
) -> None:
    """Where it tells none, its order does, but for what stands at the top: that is looked at four times a day."""
    chatgpt.settings.times = times  # type: ignore[assignment]  # one of those it knows
    chatgpt.alice.many(6)
    await join(house)
    await sync(house)
    for number in (4, 2, 0, 0):
        house.clock.move(seconds=60)
        there = chatgpt.alice.conversations[number]
        there.add_turn("More?")
        await sync_later(house, seconds=30_000)
        assert (await shown(house, there.id))["mapping"] == there.detail()["mapping"]
    await sync_later(house)
    far_end = FarEnd(chatgpt)
    await sync_later(house)
    assert far_end.asked == ["conversations"]
    counts = await house.mirror.of(chatgpt.alice.user_id).backlog.counts()
    assert counts == Counts(known=6, current=6, stale=0, missing_upstream=0, set_aside=0)


async def test_pages_that_a_server_cuts_are_followed_to_the_end(house: House, chatgpt: SimulatedChatGPT) -> None:
    """It gives ten where a hundred were asked for, and its total tells that there are more."""
    chatgpt.alice.many(24)
    there = chatgpt.alice.conversations
    for number, offset in enumerate((0, 7, 14)):
        body = page(*there[offset : offset + 10], total=24, offset=offset)
        chatgpt.fault("conversations", body=body, after=number, times=1)
    await join(house)
    this = await sync(house)
    assert (this.fetched, chatgpt.received("GET", "conversations")) == (24, 4)  # the last is that of the archive


async def test_a_conversation_that_moves_between_two_pages_is_not_missed(
    house: House, chatgpt: SimulatedChatGPT
) -> None:
    """It jumped from a page not read yet to the one that was: the next pass finds it at the top."""
    chatgpt.alice.many(150)
    await join(house)
    moving = chatgpt.alice.conversations[140]
    fault = chatgpt.fault("conversations", hold=True, times=1)
    passing = asyncio.create_task(sync(house))
    await fault.until_held()
    moving.add_turn("More?")
    fault.release()
    await passing
    await sync_later(house)
    assert (await shown(house, moving.id))["mapping"] == moving.detail()["mapping"]
    assert (await house.mirror.of(chatgpt.alice.user_id).backlog.counts()).current == 150


async def test_conversations_pulled_up_between_two_pages_are_not_missed(
    house: House, chatgpt: SimulatedChatGPT
) -> None:
    """Five of the first page are deleted while the second is on its way."""
    chatgpt.alice.many(150)
    await join(house)
    fault = chatgpt.fault("conversations", hold=True, times=1)
    passing = asyncio.create_task(sync(house))
    await fault.until_held()
    for each in chatgpt.alice.conversations[:5]:
        each.delete()
    fault.release()
    this = await passing
    assert (this.fetched, this.gone) == (145, 5)
    counts = await house.mirror.of(chatgpt.alice.user_id).backlog.counts()
    assert counts == Counts(known=150, current=145, stale=0, missing_upstream=5, set_aside=0)


async def test_a_conversation_deleted_between_list_and_fetch_is_gone(house: House, chatgpt: SimulatedChatGPT) -> None:
    """That is no failure, and it is not asked for again."""
    chatgpt.alice.many(3)
    await join(house)
    deleted = chatgpt.alice.conversations[1]
    deleted.delete()
    this = await sync(house)
    assert (this.fetched, this.gone, this.failed) == (2, 1, 0)
    await sync_later(house)
    assert chatgpt.received("GET", f"conversation/{deleted.id}") == 1
    assert (await house.client.get(f"/conversations/{deleted.id}")).status == 404


async def test_a_sweep_finds_what_was_deleted(
    house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation]
) -> None:
    """Once a week; it costs a request for each, and what is gone stays readable, marked."""
    ten[6].delete()
    await sync_later(house)
    assert "deleted_upstream" not in (await shown(house, ten[6].id))
    far_end = FarEnd(chatgpt)
    this = await sync_later(house, seconds=WEEK_SECONDS)
    assert (this.gone, far_end.fetched) == (1, [ten[6].id])
    detail = await shown(house, ten[6].id)
    assert (detail["deleted_upstream"], detail["mapping"]) == (True, ten[6].detail()["mapping"])
    messages = await house.client.get(f"/conversations/{ten[6].id}/messages")
    assert [each["message"] for each in messages.json] == ["Remember note 4.", "Noted."]
    assert (await sync_later(house)).requests == 1


async def test_a_full_pass_that_somebody_asks_for_sweeps_at_once(
    house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation]
) -> None:
    """Every list is read to its end."""
    ten[6].delete()
    house.clock.move(seconds=1)
    await house.app[SYNC].start(chatgpt.alice.user_id, is_full=True)
    await sync(house)
    assert (await shown(house, ten[6].id))["deleted_upstream"] is True


SAYS_GONE = [
    {"detail": {"code": "conversation_not_found", "message": "…"}},
    {"detail": {"code": "conversation_deleted", "message": "…"}},
    {"detail": "Conversation not found"},
]
SAYS_NOTHING = [
    {"detail": {"code": "conversation_inaccessible", "message": "…"}},
    {"detail": "Not Found"},
    {"detail": {"code": "something_else", "message": "Conversation not found"}},
    {},
    "<html>404</html>",
    "Not Found",
]


@pytest.mark.parametrize(
    ("body", "is_gone"), [(said, True) for said in SAYS_GONE] + [(said, False) for said in SAYS_NOTHING]
)
async def test_only_what_upstream_says_of_this_very_conversation_marks_it(
    house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation], body: object, *, is_gone: bool
) -> None:
    """A 404 may mean many things; only these three mean that it was deleted."""
    ten[6].archive()  # so that the plain list does not show it …
    chatgpt.fault("conversations", error="invalid", after=1, times=1)  # … and no other one does
    chatgpt.fault(f"conversation/{ten[6].id}", status=404, body=body)
    chatgpt.alice.everything.remove(ten[6])
    before = content(house)
    await sync_later(house, seconds=WEEK_SECONDS)
    assert rows(house, "select id from conversation where is_deleted_upstream") == ([(ten[6].id,)] if is_gone else [])
    assert is_gone or content(house) == before
    assert (await shown(house, ten[6].id)).get("deleted_upstream", False) is is_gone


NOTHING = {"items": [], "total": 0, "limit": 100, "offset": 0}


@pytest.mark.parametrize(
    ("fault", "most"),
    [
        ({"body": NOTHING}, 9),
        ({"body": {"items": []}}, 9),
        ({"error": "bad_token"}, 1),
        ({"error": "token_expired"}, 1),
        ({"error": "server_error"}, 4),
        ({"error": "bad_gateway"}, 4),
        ({"error": "html_403"}, 4),
        ({"body": "<html>Welcome</html>", "status": 200, "content_type": "text/html"}, 4),
        ({"body": {"items": None}}, 4),
        ({"body": {}}, 4),
        ({"body": ""}, 4),
        ({"truncate_after_bytes": 200}, 4),
        ({"reset": True}, 4),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_no_list_ever_shrinks_the_mirror(
    house: House,
    chatgpt: SimulatedChatGPT,
    ten: list[SimConversation],
    fault: dict[str, Any],
    most: int,
) -> None:
    """Empty, broken or refused in the middle of a full sweep: every row stays as it was, for a handful of requests."""
    before = content(house)
    chatgpt.fault("conversations", **fault)
    far_end = FarEnd(chatgpt)
    await sync_later(house, seconds=WEEK_SECONDS)
    await sync_later(house, seconds=60)
    assert content(house) == before
    assert len(far_end.asked) <= most


@pytest.mark.parametrize("kept", [1, 5])
async def test_a_list_that_was_cut_short_is_not_believed(house: House, chatgpt: SimulatedChatGPT, kept: int) -> None:
    """Of those that it left out a few are asked for, are there, and end the sweep: the rest is not asked for."""
    chatgpt.alice.many(60)
    await join(house)
    await sync(house)
    before = content(house)
    chatgpt.fault("conversations", body=page(*chatgpt.alice.conversations[:kept]))
    far_end = FarEnd(chatgpt)
    await sync_later(house, seconds=WEEK_SECONDS)
    assert (content(house), len(far_end.fetched)) == (before, 3)
    error = (await house.mirror.of(chatgpt.alice.user_id).sync.load()).error
    assert error is not None
    assert error.code == "list_incomplete"


async def test_a_sweep_of_an_account_that_was_emptied_finds_everything_gone(
    house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation]
) -> None:
    """Every one is asked for, says so, and stays here."""
    for each in ten:
        each.delete()
    this = await sync_later(house, seconds=WEEK_SECONDS)
    assert this.gone == 10
    assert (await shown(house, ten[0].id))["deleted_upstream"] is True


# ----------------------------------------------------------------------------------------------------------- merging


async def test_an_import_that_did_not_change_since_costs_nothing(
    house: House, chatgpt: SimulatedChatGPT, mirror: AccountMirror
) -> None:
    """What an export brought counts as fetched when the export was made."""
    same, changed = chatgpt.alice.many(2)
    for there in (same, changed):
        tree = conversation(message("From an export."), conversation_id=there.id, update_time=there.update_time)
        await mirror.conversations.save_whole(tree)
    changed.add_turn("More?")
    far_end = FarEnd(chatgpt)
    await join(house)
    await sync(house)
    assert far_end.fetched == [changed.id]


async def test_a_branch_that_upstream_stopped_showing_stays(
    house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation]
) -> None:
    """Marked; the branch that is shown now is the current one."""
    there = ten[2]
    old = there.current_node
    there.regenerate("Otherwise.")
    there.mapping[there.mapping[old]["parent"]]["children"].remove(old)
    del there.mapping[old]
    await sync_later(house)
    detail = await shown(house, there.id)
    assert detail["current_node"] == there.current_node
    assert detail["mapping"][old]["message"]["content"]["parts"] == ["Noted."]
    assert rows(house, "select id from node where is_absent_upstream") == [(old,)]


async def test_a_title_set_here_wins_until_it_is_pushed(
    house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation], mirror: AccountMirror
) -> None:
    """Then the newest counts, wherever it was set."""
    there = ten[2]
    await mirror.conversations.edit(there.id, title="Mine", is_pending=True)
    there.rename("Theirs")
    await sync_later(house)
    assert (await shown(house, there.id))["title"] == "Mine"
    await mirror.conversations.settle_title(there.id, "Mine")
    there.rename("Theirs again")
    await sync_later(house)
    assert (await shown(house, there.id))["title"] == "Theirs again"


async def test_what_was_deleted_here_stays_deleted(
    house: House, chatgpt: SimulatedChatGPT, ten: list[SimConversation], mirror: AccountMirror
) -> None:
    """Neither list nor sweep brings it back or asks for it."""
    await mirror.deletions.bury(ten[2].id)
    ten[2].add_turn("More?")
    far_end = FarEnd(chatgpt)
    await sync_later(house)
    await sync_later(house, seconds=WEEK_SECONDS)
    assert far_end.fetched == []
    assert (await house.client.get(f"/conversations/{ten[2].id}")).status == 404


async def test_what_only_lives_here_is_not_looked_for_upstream(house: House, chatgpt: SimulatedChatGPT) -> None:
    """A conversation that upstream never confirmed is no deletion."""
    await house.client.get("/conversations")
    chatgpt.fault("conversation", reset=True)
    await house.client.post("/conversations/new", json={"prompt": "Hello?"})
    chatgpt.clear_faults()
    before = content(house)
    assert len(before[0]) == 1
    await sync_later(house, seconds=WEEK_SECONDS)
    assert (content(house), chatgpt.received("GET", "conversation/*")) == (before, 0)
