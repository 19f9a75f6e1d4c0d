# SPDX-License-Identifier: GPL-2.0-or-later
"""`/sync`: how an account stands with ChatGPT, over HTTP, and asking for a pass."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import pytest

from chatgpt_rest.clock import DAY, HOUR, MINUTE, SECOND, iso
from chatgpt_rest.context import SYNC
from chatgpt_rest.control import control_over
from chatgpt_rest.plan import Pass
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.disks import small_disk
from tests.house import NOON, Answered, Client, House, ManualClock, open_house

TOKEN_LASTS: Final = 10 * DAY


async def introduce(house: House) -> None:
    """Alice's token arrives; its check brings the first page of her list."""
    assert (await house.client.get("/conversations?limit=1")).status == 200


async def key_of_alice(house: House) -> Client:
    """A client that brings no token with it."""
    made = await control_over(house.app, house.clock).create_key("laptop", house.chatgpt.alice.user_id)
    return house.client.as_(made["key"])


async def advance(house: House) -> Pass:
    """Have sync do what it can do now for alice."""
    return await house.app[SYNC].advance(house.chatgpt.alice.user_id)


async def status(client: Client) -> dict[str, Any]:
    """What `GET /sync` tells."""
    answer = await client.get("/sync")
    assert answer.status == 200
    told: dict[str, Any] = answer.json
    return told


async def ask_for_a_pass(house: House, **body: Any) -> Answered:
    """`POST /sync`, answered before the first request of the pass is."""
    house.chatgpt.fault(hold=True)
    answer = await house.client.post("/sync", **body)
    house.chatgpt.clear_faults()
    return answer


def standing(told: dict[str, Any]) -> tuple[str, str | None, str | None]:
    """State, reason, and until when."""
    return told["state"], told["reason"], told["resumes_at"]


# -------------------------------------------------------------------------------------------------------------- states


async def test_an_account_that_is_current_is_idle(house: House, chatgpt: SimulatedChatGPT) -> None:
    """After a pass everything is current, nothing is needed, and what it has cost is told."""
    chatgpt.alice.many(3)
    await introduce(house)
    this = await advance(house)
    assert await status(house.client) == {
        "state": "idle",
        "account": chatgpt.alice.user_id,
        "reason": None,
        "resumes_at": None,
        "last_full_sweep": iso(NOON),
        "last_listed_at": iso(NOON),
        "conversations": {"known": 3, "current": 3, "stale": 0, "missing_upstream": 0, "set_aside": 0, "slim": 0},
        "set_aside": [],
        "plan": {"requests_needed": 0, "finishes_at": None},
        "budget": {"remaining": 50 - chatgpt.received(), "reserve": 10, "resets_at": iso(NOON + HOUR)},
        "pass": None,
        "last_pass": {
            "began_at": iso(NOON),
            "requests": this.requests,
            "fetched": 3,
            "gone": 0,
            "failed": 0,
            "ended_at": iso(NOON),
        },
        "token_expires_at": iso(NOON + TOKEN_LASTS),
        "token_expires_soon": False,
        "last_error": None,
        "enabled": True,
    }


async def test_looking_costs_nothing(house: House, chatgpt: SimulatedChatGPT) -> None:
    """But for the check of a token that is new here, no request goes upstream."""
    chatgpt.alice.many(3)
    told = [await status(house.client) for _ in range(3)]
    assert told[0]["conversations"]["stale"] == 3
    assert chatgpt.received() == 1


async def test_a_pass_that_waits_for_the_budget_is_running(house: House, chatgpt: SimulatedChatGPT) -> None:
    """What it waits for is told, until when, and when all of it will be done."""
    chatgpt.alice.many(100)
    await introduce(house)
    this = await advance(house)
    told = await status(house.client)
    assert standing(told) == ("running", "rate_limit_exceeded", iso(NOON + HOUR))
    assert told["conversations"]["stale"] == 100 - this.fetched
    assert told["plan"] == {"requests_needed": 100 - this.fetched, "finishes_at": iso(NOON + 2 * HOUR)}
    assert told["pass"]["requests"] == this.requests == 39
    assert told["budget"] == {"remaining": 10, "reserve": 10, "resets_at": iso(NOON + HOUR)}


async def test_a_wait_that_is_over_is_not_told(house: House, chatgpt: SimulatedChatGPT, clock: ManualClock) -> None:
    """Once the budget is back, the pass just runs."""
    chatgpt.alice.many(100)
    await introduce(house)
    await advance(house)
    clock.move(seconds=HOUR / SECOND)
    assert standing(await status(house.client)) == ("running", None, None)


async def test_upstreams_own_limit_pauses(house: House, chatgpt: SimulatedChatGPT, clock: ManualClock) -> None:
    """Until it clears."""
    chatgpt.alice.many(3)
    await introduce(house)
    chatgpt.limit(after=0, retry_after_seconds=600)
    await advance(house)
    told = await status(house.client)
    assert standing(told) == ("paused", "upstream_rate_limit", iso(NOON + 10 * MINUTE))
    assert told["plan"]["finishes_at"] == iso(NOON + 10 * MINUTE)
    clock.move(seconds=600)
    assert (await status(house.client))["state"] == "running"


async def test_an_upstream_that_fails_is_offline(house: House, chatgpt: SimulatedChatGPT, clock: ManualClock) -> None:
    """Until it is tried again; nothing is done before, and the error is told."""
    chatgpt.alice.many(3)
    await introduce(house)
    chatgpt.fault(reset=True)
    this = await advance(house)
    told = await status(house.client)
    assert standing(told) == ("offline", this.waits_for, iso(this.waits_until or 0))
    assert told["plan"]["finishes_at"] == told["resumes_at"]
    assert told["last_error"] == {"code": this.waits_for, "error": told["last_error"]["error"], "at": iso(NOON)}
    clock.move(seconds=((this.waits_until or 0) - NOON) / SECOND)
    assert (await status(house.client))["state"] == "running"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
async def test_a_disk_that_is_full_pauses(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """Nothing is asked for before it is tried again, so nothing is done sooner either; with room there all goes on."""
    chatgpt.alice.add_conversation("Large", [("Tell me all.", "All. " * 400_000)])
    with small_disk(tmp_path / "disk", size_mib=6) as disk:
        ballast = disk / "ballast"
        async with open_house(disk, chatgpt, base_url, clock) as house:
            await introduce(house)
            ballast.write_bytes(b"x" * 4_400_000)
            this = await advance(house)
            told = await status(house.client)
            assert standing(told) == ("paused", this.waits_for, iso(NOON + 10 * MINUTE))
            assert this.waits_for in {"storage_full", "storage_failed"}
            assert told["plan"]["finishes_at"] == told["resumes_at"]
            ballast.unlink()
            clock.move(seconds=600)
            assert (await status(house.client))["state"] == "running"
            await advance(house)
            assert (await status(house.client))["state"] == "idle"


async def test_a_pass_that_nobody_goes_on_with_is_not_told(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """Where sync is off and what was asked for has ended for want of a token, a new token begins nothing by itself."""
    chatgpt.alice.many(60)
    async with open_house(tmp_path, chatgpt, base_url, clock, sync__enabled="false") as house:
        await introduce(house)
        await advance(house)
        told = await status(house.client)
        assert standing(told) == ("idle", None, None)
        assert told["pass"] is None


async def test_a_rest_is_not_in_the_price_of_a_pass(house: House, chatgpt: SimulatedChatGPT) -> None:
    """To ask for one ends the rest: what is told beforehand reckons with the budget alone."""
    chatgpt.alice.many(3)
    await introduce(house)
    chatgpt.fault(reset=True)
    await advance(house)
    outlook = await control_over(house.app, house.clock).sync_outlook(None, is_full=False)
    assert (await status(house.client))["plan"]["finishes_at"] > iso(NOON)
    assert outlook["plan"]["finishes_at"] == iso(NOON)


async def test_a_token_that_upstream_refuses_pauses(house: House, chatgpt: SimulatedChatGPT) -> None:
    """It is told as such, with no promise of an end, until there is a new one."""
    chatgpt.alice.many(3)
    await introduce(house)
    key = await key_of_alice(house)
    assert house.client.authorization is not None
    chatgpt.alice.revoke(house.client.authorization)
    await advance(house)
    told = await status(key)
    assert standing(told) == ("paused", "access_token_refused", None)
    assert (told["token_expires_at"], told["plan"]["finishes_at"]) == (None, None)
    assert told["plan"]["requests_needed"] > 0
    assert told["last_error"]["code"] == "access_token_refused"
    renewed = house.client_of(chatgpt.alice)
    assert (await status(renewed))["state"] == "running"
    await advance(house)
    told = await status(renewed)
    assert (told["state"], told["last_error"]) == ("idle", None)


async def test_a_token_that_has_expired_pauses(house: House, clock: ManualClock) -> None:
    """Its end is told still."""
    await introduce(house)
    key = await key_of_alice(house)
    clock.move(seconds=TOKEN_LASTS / SECOND)
    told = await status(key)
    assert standing(told) == ("paused", "access_token_expired", None)
    assert (told["token_expires_at"], told["token_expires_soon"]) == (iso(NOON + TOKEN_LASTS), True)


async def test_without_a_token_at_hand_it_pauses(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """After a restart tokens are known by their digests alone: the next request that brings one wakes it."""
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        await introduce(house)
        key = await key_of_alice(house)
        token = house.client.authorization
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        assert standing(await status(house.client.as_(key.authorization))) == ("paused", "no_access_token", None)
        assert (await status(house.client.as_(token)))["state"] == "idle"


@pytest.mark.parametrize(("days", "is_soon"), [(0, False), (2.99, False), (3, True), (9.9, True)])
async def test_the_end_of_a_token_is_told_a_week_ahead(
    house: House, clock: ManualClock, days: float, *, is_soon: bool
) -> None:
    """From a week before on."""
    await introduce(house)
    clock.move(seconds=days * DAY / SECOND)
    assert (await status(house.client))["token_expires_soon"] is is_soon


# -------------------------------------------------------------------------------------------------------- the backlog


async def test_what_is_set_aside_is_named(house: House, chatgpt: SimulatedChatGPT) -> None:
    """With its reason, and 20 at the most; the number of all is told."""
    chatgpt.alice.many(25)
    await introduce(house)
    backlog = house.mirror.of(chatgpt.alice.user_id).backlog
    for conversation in chatgpt.alice.conversations[:22]:
        for _ in range(3):
            await backlog.note_failure(conversation.id, "upstream_broken")
    told = await status(house.client)
    newest = chatgpt.alice.conversations[0]
    assert told["set_aside"][0] == {"id": newest.id, "title": newest.title, "reason": "upstream_broken"}
    assert len(told["set_aside"]) == 20
    assert told["conversations"] == {
        "known": 25,
        "current": 0,
        "stale": 3,
        "missing_upstream": 0,
        "set_aside": 22,
        "slim": 0,
    }


async def test_what_is_known_is_the_sum_of_the_rest(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Of what is current, stale, missing and set aside, each conversation is one thing only."""
    gone, broken, *_ = chatgpt.alice.many(6)
    await introduce(house)
    gone.delete()
    await advance(house)
    mirror = house.mirror.of(chatgpt.alice.user_id)
    for _ in range(3):
        await mirror.backlog.note_failure(broken.id, "upstream_broken")
    chatgpt.alice.add_conversation("New", [("A", "B")])
    await house.app[SYNC].start(chatgpt.alice.user_id)
    chatgpt.fault("conversation/*", reset=True)
    await advance(house)
    counts = (await status(house.client))["conversations"]
    assert counts == {"known": 7, "current": 4, "stale": 1, "missing_upstream": 1, "set_aside": 1, "slim": 0}


# ----------------------------------------------------------------------------------------------------------- the plan


@pytest.mark.parametrize("number", [0, 1, 37])
async def test_the_plan_of_a_small_account_is_what_it_costs(
    house: House, chatgpt: SimulatedChatGPT, number: int
) -> None:
    """Lists and conversations, to the request."""
    chatgpt.alice.many(number)
    await introduce(house)
    needed = (await status(house.client))["plan"]["requests_needed"]
    before = chatgpt.received()
    await advance(house)
    assert needed == number + 2  # the archive's list and that of projects are due
    assert chatgpt.received() - before == needed


async def test_a_list_that_goes_to_its_end_counts_its_pages(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """A full sweep over 300 conversations reads four pages, as each shares three items with the one before."""
    chatgpt.alice.many(300)
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="10000") as house:
        await introduce(house)
        await advance(house)
        clock.move(seconds=HOUR / SECOND)
        before = chatgpt.received()
        needed = (await ask_for_a_pass(house, json={"full": True})).json["plan"]["requests_needed"]
        await advance(house)
        assert (needed, chatgpt.received() - before) == (6, 6)


async def test_a_sweep_that_is_due_is_in_the_plan(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """The pass that begins next will be a full one: its pages are counted before it begins."""
    chatgpt.alice.many(300)
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="10000") as house:
        await introduce(house)
        await advance(house)
        clock.move(seconds=7 * DAY / SECOND)
        assert (await status(house.client))["plan"]["requests_needed"] == 6


async def test_what_a_sweep_has_not_met_is_in_the_plan(
    house: House, chatgpt: SimulatedChatGPT, clock: ManualClock
) -> None:
    """Each of these is asked for by itself once the lists are read; before that, nothing says which."""
    gone = chatgpt.alice.many(5)[:3]
    await introduce(house)
    await advance(house)
    for conversation in gone:
        conversation.delete()
    clock.move(seconds=HOUR / SECOND)
    assert (await ask_for_a_pass(house, data={"full": "true"})).json["plan"]["requests_needed"] == 3
    chatgpt.fault("conversation/*", reset=True)
    await advance(house)
    told = await status(house.client)
    assert (told["plan"]["requests_needed"], told["conversations"]["missing_upstream"]) == (3, 0)
    chatgpt.clear_faults()
    clock.move(seconds=HOUR / SECOND)
    await advance(house)
    assert (await status(house.client))["conversations"]["missing_upstream"] == 3


# ---------------------------------------------------------------------------------------------------- asking for a pass


@pytest.mark.parametrize(
    "body",
    [{}, {"json": {"full": False}}, {"data": {"full": "false"}}, {"json": {"full": None, "other": 1}}],
    ids=["none", "JSON", "form", "unknown field"],
)
async def test_a_pass_that_is_asked_for_begins(house: House, chatgpt: SimulatedChatGPT, body: dict[str, Any]) -> None:
    """However short a while ago the list was read, it is read again; what is new is fetched."""
    await introduce(house)
    await advance(house)
    chatgpt.alice.many(1)
    answer = await ask_for_a_pass(house, **body)
    assert (answer.status, answer.json["state"]) == (202, "running")
    assert answer.json.keys() == (await house.client.get("/sync")).json.keys()
    await advance(house)
    told = await status(house.client)
    assert (told["conversations"]["current"], told["last_pass"]["fetched"], told["last_pass"]["requests"]) == (1, 1, 2)


async def test_a_full_pass_finds_what_is_gone(house: House, chatgpt: SimulatedChatGPT, clock: ManualClock) -> None:
    """It reads every list to its end, and tries once more what was set aside."""
    gone, broken, *_ = chatgpt.alice.many(3)
    await introduce(house)
    for _ in range(3):
        await house.mirror.of(chatgpt.alice.user_id).backlog.note_failure(broken.id, "upstream_broken")
    await advance(house)
    gone.delete()
    clock.move(seconds=60)
    assert (await house.client.post("/sync", json={"full": True})).status == 202
    await advance(house)
    told = await status(house.client)
    assert told["conversations"] == {
        "known": 3,
        "current": 2,
        "stale": 0,
        "missing_upstream": 1,
        "set_aside": 0,
        "slim": 0,
    }
    assert (told["last_full_sweep"], told["last_pass"]["gone"]) == (iso(NOON + MINUTE), 1)


@pytest.mark.parametrize("body", [{"json": {"full": "perhaps"}}, {"data": {"full": "1"}}, {"json": {"full": 1}}])
async def test_a_wrong_value_is_told(house: House, chatgpt: SimulatedChatGPT, body: dict[str, Any]) -> None:
    """400 naming the field, and nothing begins."""
    await introduce(house)
    answer = await house.client.post("/sync", **body)
    assert (answer.status, answer.json["code"]) == (400, "bad_request")
    assert "full" in answer.json["error"]
    assert (await status(house.client))["pass"] is None
    assert chatgpt.received() == 1


async def test_a_pass_can_be_asked_for_with_nothing_left(house: House, chatgpt: SimulatedChatGPT) -> None:
    """It costs nothing itself, and begins when it can."""
    chatgpt.alice.many(60)
    await introduce(house)
    await advance(house)
    for conversation in chatgpt.alice.conversations[-10:]:
        await house.client.get(f"/conversations/{conversation.id}")
    assert (await house.client.get("/budget")).json["remaining"] == 0
    assert (await house.client.post("/sync")).status == 202


async def test_a_pass_needs_a_token_at_hand(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """A local key whose account's token nobody has brought since the start gets 503, and nothing begins."""
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        await introduce(house)
        key = await key_of_alice(house)
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        client = house.client.as_(key.authorization)
        answer = await client.post("/sync")
        assert (answer.status, answer.json["code"]) == (503, "no_access_token")
        assert (await status(client))["pass"] is None


async def test_where_sync_is_off_a_pass_runs_when_asked_for(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """That it is off is told."""
    chatgpt.alice.many(3)
    async with open_house(tmp_path, chatgpt, base_url, clock, sync__enabled="false") as house:
        await introduce(house)
        told = (await ask_for_a_pass(house)).json
        assert (told["enabled"], told["state"]) == (False, "running")
        await advance(house)
        assert (await status(house.client))["conversations"]["current"] == 3


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_it_needs_a_credential(house: House, method: str) -> None:
    """As everything does that tells of an account."""
    assert (await house.client.as_(None).request(method, "/sync")).status == 401


async def test_everybody_sees_their_own(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Bob's state has nothing of Alice's, and what he asks for does nothing to hers."""
    chatgpt.alice.many(3)
    await introduce(house)
    told = (await house.client_of(chatgpt.bob).post("/sync")).json
    assert (told["account"], told["conversations"]["known"]) == (chatgpt.bob.user_id, 0)
    assert (await status(house.client))["pass"] is None
