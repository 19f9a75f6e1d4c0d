# SPDX-License-Identifier: GPL-2.0-or-later
"""What sync makes of an account that an import has brought: nothing that is here is fetched but what came slim, and
that comes last.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from chatgpt_rest.context import SYNC
from chatgpt_rest.mirror import AccountMirror, Counts
from chatgpt_rest.upstream.simulated import SimConversation, SimulatedChatGPT
from tests.house import House, ManualClock, open_house
from tests.incoming import incoming_of, take
from tests.rows import rows
from tests.syncing import FarEnd, join, live, sync, sync_later

FULL_ONLY: Final = ("status", "weight", "recipient", "end_turn")


@pytest.fixture
async def house(tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock) -> AsyncIterator[House]:
    """The server with more tokens than any test here needs."""
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="10000") as opened:
        yield opened


@pytest.fixture
def mirror(house: House) -> AccountMirror:
    """Alice's mirror."""
    return house.mirror.of(house.chatgpt.alice.user_id)


def exported(conversation: SimConversation, *, is_slim: bool = False) -> dict[str, Any]:
    """The conversation as an export of now holds it."""
    value = copy.deepcopy(conversation.detail()) | {"id": conversation.id}
    for node in value["mapping"].values() if is_slim else ():
        node.pop("children")
        for member in FULL_ONLY:
            (node["message"] or {}).pop(member, None)
    return value


async def import_all(mirror: AccountMirror, conversations: Sequence[SimConversation], *, is_slim: bool = False) -> None:
    """Import them."""
    await take(
        mirror, *(incoming_of(exported(each, is_slim=is_slim), account=mirror.account) for each in conversations)
    )


async def counts(mirror: AccountMirror) -> Counts:
    """How the account stands."""
    return await mirror.backlog.counts()


async def test_the_first_sync_after_an_import_fetches_nothing(
    house: House, chatgpt: SimulatedChatGPT, mirror: AccountMirror
) -> None:
    """Lists are read, what is archived and in projects too, and nothing has changed; nor does it in the days after."""
    garden = chatgpt.alice.add_project("Garden")
    chatgpt.alice.many(120)
    chatgpt.alice.add_conversation("Archived", [("A?", "A.")], archived=True)
    chatgpt.alice.add_conversation("Roses", [("R?", "R.")], project=garden)
    await house.mirror.accounts.ensure(mirror.account, email=None)
    await import_all(mirror, chatgpt.alice.everything)
    nodes = rows(house, "select * from node")
    far_end = FarEnd(chatgpt)
    await join(house)
    await sync(house)
    await live(house, hours=13)
    assert far_end.fetched == []
    assert await counts(mirror) == Counts(known=122, current=122, stale=0, missing_upstream=0, set_aside=0)
    assert rows(house, "select * from node") == nodes


async def test_what_changed_since_the_export_is_fetched(
    house: House, chatgpt: SimulatedChatGPT, mirror: AccountMirror
) -> None:
    """And what is new, and nothing else; an import of that same export afterwards takes nothing back."""
    old = chatgpt.alice.many(10)
    before = [exported(each) for each in old]
    old[3].add_turn("More?")
    new = chatgpt.alice.add_conversation("New", [("N?", "N.")])
    await take(mirror, *(incoming_of(each, account=mirror.account) for each in before))
    far_end = FarEnd(chatgpt)
    await join(house)
    await sync(house)
    assert sorted(far_end.fetched) == sorted([old[3].id, new.id])
    kept = rows(house, "select * from node")
    await take(mirror, *(incoming_of(each, account=mirror.account) for each in before))
    await sync_later(house)
    assert (len(far_end.fetched), rows(house, "select * from node")) == (2, kept)


async def test_an_import_after_the_first_list_spares_the_fetches(
    house: House, chatgpt: SimulatedChatGPT, mirror: AccountMirror
) -> None:
    """The list has named them all when the export comes."""
    chatgpt.alice.many(10)
    await join(house)
    await import_all(mirror, chatgpt.alice.everything)
    far_end = FarEnd(chatgpt)
    await sync(house)
    assert far_end.fetched == []


# ---------------------------------------------------------------------------------------------------------------- slim


async def test_what_came_slim_is_fetched_after_all_else(
    house: House, chatgpt: SimulatedChatGPT, mirror: AccountMirror
) -> None:
    """Not in the first pass, and not before what is stale; newest first, once, and then it is whole."""
    slim = chatgpt.alice.many(5)
    await import_all(mirror, slim, is_slim=True)
    far_end = FarEnd(chatgpt)
    await join(house)
    await sync(house)
    assert far_end.fetched == []
    assert await counts(mirror) == Counts(known=5, current=5, stale=0, missing_upstream=0, set_aside=0, slim=5)
    new = chatgpt.alice.add_conversation("New", [("N?", "N.")])
    this = await sync_later(house)
    assert far_end.fetched == [new.id, *(each.id for each in chatgpt.alice.conversations if each is not new)]
    assert (this.fetched, (await counts(mirror)).slim) == (6, 0)
    await sync_later(house)
    assert len(far_end.fetched) == 6
    assert rows(house, "select count(*) from node where message is not null and shape = 0") == [(0,)]


async def test_slim_ones_are_told_and_cost_nothing_that_is_needed(
    house: House, chatgpt: SimulatedChatGPT, mirror: AccountMirror
) -> None:
    """They are current: what is needed to be so is nothing."""
    await import_all(mirror, chatgpt.alice.many(5), is_slim=True)
    await join(house)
    await sync(house)
    told = (await house.client.get("/sync")).json
    assert (told["conversations"]["slim"], told["conversations"]["current"]) == (5, 5)
    assert (told["state"], told["plan"]["requests_needed"]) == ("idle", 0)


async def test_a_pass_does_not_wait_for_the_budget_to_fetch_what_is_slim(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """It takes what is left of it, leaves people their reserve, and is over; later ones go on."""
    slim = chatgpt.alice.many(30)
    spare = {"rate_limit__requests_per_hour": "20", "sync__reserve": "10"}
    async with open_house(tmp_path, chatgpt, base_url, clock, **spare) as house:
        mirror = house.mirror.of(chatgpt.alice.user_id)
        await import_all(mirror, slim, is_slim=True)
        await join(house)
        await sync(house)
        this = await sync_later(house)
        assert (this.waits_for, house.app[SYNC].desk(mirror.account).current) == (None, None)
        assert chatgpt.received() == 10
        assert (await house.client.get("/sync")).json["state"] == "idle"
        await live(house, hours=6)
        assert (await counts(mirror)).slim == 0
        assert chatgpt.received("GET", "conversation/*") == 30


async def test_what_came_slim_and_is_gone_is_marked(
    house: House, chatgpt: SimulatedChatGPT, mirror: AccountMirror
) -> None:
    """As anything else that upstream answers 404 for; nothing of it is lost."""
    gone, *_ = chatgpt.alice.many(3)
    await import_all(mirror, chatgpt.alice.everything, is_slim=True)
    await join(house)
    await sync(house)
    gone.delete()
    await sync_later(house)
    assert await counts(mirror) == Counts(known=3, current=2, stale=0, missing_upstream=1, set_aside=0)
    assert (await house.client.get(f"/conversations/{gone.id}/messages")).status == 200


async def test_what_came_slim_and_cannot_be_fetched_is_set_aside(
    house: House, chatgpt: SimulatedChatGPT, mirror: AccountMirror
) -> None:
    """After three tries, while all others are fetched."""
    bad, *_ = chatgpt.alice.many(6)
    await import_all(mirror, chatgpt.alice.everything, is_slim=True)
    await join(house)
    await sync(house)
    chatgpt.fault(f"conversation/{bad.id}", error="server_error")
    far_end = FarEnd(chatgpt)
    await live(house, hours=24)
    assert await counts(mirror) == Counts(known=6, current=5, stale=0, missing_upstream=0, set_aside=1)
    assert (far_end.fetched.count(bad.id), len(set(far_end.fetched))) == (3, 6)
    assert (await house.client.get(f"/conversations/{bad.id}/messages")).status == 200


@pytest.mark.parametrize("number", [1, 6])
async def test_no_slim_one_is_fetched_while_all_of_upstream_fails(
    house: House, chatgpt: SimulatedChatGPT, mirror: AccountMirror, number: int
) -> None:
    """Upstream is let rest as ever, nothing is blamed, and all are fetched when it is well again."""
    await import_all(mirror, chatgpt.alice.many(number), is_slim=True)
    await join(house)
    await sync(house)
    chatgpt.fault("conversation/*", error="server_error")
    far_end = FarEnd(chatgpt)
    await live(house, hours=12)
    assert len(far_end.fetched) < 40
    chatgpt.clear_faults()
    await live(house, hours=3)
    assert await counts(mirror) == Counts(known=number, current=number, stale=0, missing_upstream=0, set_aside=0)


async def test_a_process_that_dies_of_a_slim_one_does_not_die_of_it_for_ever(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """That it was being fetched when the process ended counts as a failure."""
    (deadly,) = chatgpt.alice.many(1)
    for _ in range(3):
        async with open_house(tmp_path, chatgpt, base_url, clock) as house:
            mirror = house.mirror.of(chatgpt.alice.user_id)
            await import_all(mirror, [deadly], is_slim=True)
            assert await mirror.backlog.slim(limit=1) == [deadly.id]
            await mirror.sync.tries(deadly.id)
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        assert await house.mirror.of(chatgpt.alice.user_id).backlog.slim(limit=1) == []
