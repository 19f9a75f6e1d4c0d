# SPDX-License-Identifier: GPL-2.0-or-later
"""The log of requests: tokens taken once, kept through crashes, and held back where upstream says so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chatgpt_rest.budget import NO_LIMIT
from chatgpt_rest.clock import DAY, HOUR, MINUTE, SECOND
from chatgpt_rest.errors import BudgetSpent, UpstreamLimit
from chatgpt_rest.mirror import LoggedRequest, Mirror
from tests.house import NOON, ManualClock
from tests.mirrors import LONGEST_ATTEMPT, opening
from tests.rows import rows


async def take(
    mirror: Mirror, count: int = 1, *, account: str = "alice", is_check: bool = False
) -> list[LoggedRequest]:
    """Take so many tokens, one after the other."""
    return [await mirror.requests.take(account, "POST", "conversation", is_check=is_check) for _ in range(count)]


async def refusal(mirror: Mirror, *, account: str = "alice", leave: int = 0, is_check: bool = False) -> float:
    """Take a token that is not there; how many seconds to wait for one."""
    with pytest.raises(BudgetSpent) as caught:
        await mirror.requests.take(account, "GET", "conversations", leave=leave, is_check=is_check)
    assert caught.value.retry_after_seconds is not None
    return caught.value.retry_after_seconds


# ------------------------------------------------------------------------------------------------------------- bucket


async def test_sixty_at_once_take_exactly_fifty(mirror: Mirror) -> None:
    """No two takers share a token, however they race, and each that is refused left no row."""
    answers = await asyncio.gather(
        *(mirror.requests.take("alice", "POST", "conversation") for _ in range(60)), return_exceptions=True
    )
    assert sum(isinstance(answer, LoggedRequest) for answer in answers) == 50
    assert sum(isinstance(answer, BudgetSpent) for answer in answers) == 10
    assert rows(mirror.path, "select count(*) from upstream_request") == [(50,)]


async def test_each_account_has_its_own_bucket(mirror: Mirror) -> None:
    """What Alice spends is not Bob's."""
    await take(mirror, 50)
    await refusal(mirror)
    assert await mirror.requests.has_left("bob")
    assert not await mirror.requests.has_left("alice")


async def test_the_log_says_what_was_asked_and_what_became_of_it(mirror: Mirror, clock: ManualClock) -> None:
    """A row a request: when, what, by when it arrived, with which outcome."""
    (request,) = await take(mirror)
    before = rows(mirror.path, "select account, method, path, outcome, arrived_by from upstream_request")
    assert before == [("alice", "POST", "conversation", None, NOON + LONGEST_ATTEMPT)]
    clock.move(seconds=3)
    await request.arrived(429)
    after = rows(mirror.path, "select taken_at, arrived_by, outcome from upstream_request")
    assert after == [(NOON, NOON + 3 * SECOND, "429")]


@pytest.mark.parametrize("outcome", [200, 500, "upstream_away"])
async def test_a_token_is_never_given_back(mirror: Mirror, outcome: int | str) -> None:
    """Whatever became of its request, it is away for its hour."""
    (request,) = await take(mirror)
    await request.arrived(outcome)
    assert (await mirror.requests.budget("alice")).remaining == 49


async def test_the_hour_begins_when_the_request_arrived(mirror: Mirror, clock: ManualClock) -> None:
    """Not when its token was taken, and not one microsecond earlier."""
    requests = await take(mirror, 50)
    clock.move(seconds=30)
    await requests[0].arrived(200)
    assert await refusal(mirror) == 3600
    clock.move(seconds=3600 - 0.000001)
    await refusal(mirror)
    clock.move(seconds=0.000001)
    await take(mirror)
    await refusal(mirror)


async def test_a_request_that_nobody_reported_counts_as_late_as_it_may_have_arrived(
    mirror: Mirror, clock: ManualClock
) -> None:
    """Its token comes back one hour and the longest attempt after it was taken."""
    await take(mirror, 50)
    assert await refusal(mirror) == (HOUR + LONGEST_ATTEMPT) / SECOND
    clock.move(seconds=(HOUR + LONGEST_ATTEMPT) / SECOND)
    await take(mirror, 50)


async def test_a_restart_gives_nothing_back(tmp_path: Path, clock: ManualClock) -> None:
    """The bucket is the file: another process finds it as spent as it was."""
    async with opening(tmp_path, clock, capacity=3) as mirror:
        await take(mirror, 3)
    async with opening(tmp_path, clock, capacity=3) as mirror:
        await refusal(mirror)


async def test_a_smaller_capacity_holds_from_the_next_start(tmp_path: Path, clock: ManualClock) -> None:
    """What was spent under a larger one counts."""
    async with opening(tmp_path, clock, capacity=3) as mirror:
        await take(mirror, 3)
    async with opening(tmp_path, clock, capacity=2) as mirror:
        assert (await mirror.requests.budget("alice")).remaining == 0
        await refusal(mirror)


# ------------------------------------------------------------------------------------------------------------- leave


async def test_what_is_left_to_people_is_not_taken(mirror: Mirror) -> None:
    """Background work stops short of the reserve; people go on."""
    await take(mirror, 40)
    await refusal(mirror, leave=10)
    await take(mirror, 10)


async def test_background_work_is_told_when_it_may_go_on(tmp_path: Path, clock: ManualClock) -> None:
    """The wait is for a token beyond the reserve, though people have some left."""
    async with opening(tmp_path, clock, capacity=3) as mirror:
        (first,) = await take(mirror)
        await first.arrived(200)
        clock.move(seconds=60)
        wait = await refusal(mirror, leave=2)
        assert wait == 3540
        clock.move(seconds=wait)
        await mirror.requests.take("alice", "GET", "conversations", leave=2)


@pytest.mark.parametrize("leave", [2, 5])
async def test_a_reserve_as_large_as_the_bucket_leaves_background_work_one_request(
    tmp_path: Path, clock: ManualClock, leave: int
) -> None:
    """It may begin while nothing else is spent, or it would never do anything."""
    async with opening(tmp_path, clock, capacity=2) as mirror:
        await mirror.requests.take("alice", "GET", "conversations", leave=leave)
        assert await refusal(mirror, leave=leave) == (HOUR + LONGEST_ATTEMPT) / SECOND


# ------------------------------------------------------------------------------------------------------------ checks


async def test_checks_of_unknown_tokens_have_a_small_budget_of_all_together(mirror: Mirror, clock: ManualClock) -> None:
    """A stranger with many forgeries spends ten, whatever accounts they name, and nobody's bucket beyond one each."""
    for index in range(10):
        (request,) = await take(mirror, account=f"claimed-{index}", is_check=True)
        await request.arrived(401)
    clock.move(seconds=60)
    assert await refusal(mirror, account="another", is_check=True) == 3540
    assert (await mirror.requests.checks()).remaining == 0
    await take(mirror, account="another")


async def test_a_check_counts_in_the_account_it_claims(mirror: Mirror) -> None:
    """An accepted token's check is one of its account's fifty."""
    await take(mirror, is_check=True)
    assert (await mirror.requests.budget("alice")).remaining == 49


async def test_an_account_whose_tokens_are_spent_checks_nothing_new(mirror: Mirror) -> None:
    """Though there are checks left."""
    await take(mirror, 50)
    assert await refusal(mirror, is_check=True) == (HOUR + LONGEST_ATTEMPT) / SECOND
    assert (await mirror.requests.checks()).remaining == 10


async def test_a_disowned_check_is_nobodys_and_still_a_check(mirror: Mirror) -> None:
    """A forged claim costs its victim nothing, and the stranger one of the ten."""
    (request,) = await take(mirror, is_check=True)
    await mirror.requests.disown(request)
    assert (await mirror.requests.budget("alice")).remaining == 50
    assert (await mirror.requests.checks()).remaining == 9


async def test_of_checks_at_once_no_more_than_the_budget_leave(mirror: Mirror) -> None:
    """The small bucket is as atomic as the large one."""
    answers = await asyncio.gather(
        *(mirror.requests.take(f"claimed-{n}", "GET", "conversations", is_check=True) for n in range(20)),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, LoggedRequest) for answer in answers) == 10


# ------------------------------------------------------------------------------------------------------------ blocks


async def test_upstreams_limit_holds_back_every_request_of_the_account(mirror: Mirror, clock: ManualClock) -> None:
    """And of no other account; it ends by itself."""
    await mirror.requests.block("alice", seconds=252)
    assert await refusal(mirror) == 252
    await take(mirror, account="bob")
    clock.move(seconds=252)
    await take(mirror)


async def test_a_shorter_block_does_not_end_a_longer_one(mirror: Mirror) -> None:
    """Of two answers of upstream's the more patient one counts."""
    await mirror.requests.block("alice", seconds=600)
    await mirror.requests.block("alice", seconds=60)
    assert await refusal(mirror) == 600


async def test_the_cap_of_a_model_holds_back_that_model(mirror: Mirror, clock: ManualClock) -> None:
    """Other models and other accounts are free."""
    await mirror.requests.block_model("alice", "gpt-5", seconds=252)
    with pytest.raises(UpstreamLimit) as caught:
        await mirror.requests.check_model("alice", "gpt-5")
    assert (caught.value.code, caught.value.retry_after_seconds) == ("model_cap_exceeded", 252)
    await mirror.requests.check_model("alice", "gpt-5-mini")
    await mirror.requests.check_model("bob", "gpt-5")
    await take(mirror)
    clock.move(seconds=252)
    await mirror.requests.check_model("alice", "gpt-5")


# ------------------------------------------------------------------------------------------------------------ clocks


@pytest.mark.parametrize("jump", [1.5, 3600, 86_400])
async def test_a_clock_set_forward_between_two_processes_frees_nothing(
    tmp_path: Path, clock: ManualClock, jump: float
) -> None:
    """In the same boot the machine's uptime tells that no time passed, for tokens and for upstream's own limits."""
    async with opening(tmp_path, clock, capacity=1) as mirror:
        await mirror.accounts.accept("bob", b"bob", email=None, expires_at=NOON + 9 * DAY)
        (request,) = await take(mirror)
        await request.arrived(200)
        await mirror.requests.block("bob", seconds=60)
        await mirror.requests.block_model("bob", "gpt-5", seconds=60)
    clock.jump(seconds=jump)
    async with opening(tmp_path, clock, capacity=1) as mirror:
        assert await refusal(mirror) == 3600
        assert await refusal(mirror, account="bob") == 60
        with pytest.raises(UpstreamLimit):
            await mirror.requests.check_model("bob", "gpt-5")


@pytest.mark.parametrize("boot_id", ["boot-1", "boot-2", None])
async def test_a_clock_set_back_counts_what_lies_in_the_future_as_taken_now(
    tmp_path: Path, clock: ManualClock, boot_id: str | None
) -> None:
    """Not a day later, as the log would have it."""
    async with opening(tmp_path, clock, capacity=1) as mirror:
        (request,) = await take(mirror)
        await request.arrived(200)
    clock.boot_id = boot_id
    clock.jump(seconds=-86_400)
    async with opening(tmp_path, clock, capacity=1) as mirror:
        assert await refusal(mirror) == 3600


async def test_an_unreported_request_of_the_future_may_still_arrive(tmp_path: Path, clock: ManualClock) -> None:
    """It keeps the longest attempt beyond now."""
    async with opening(tmp_path, clock, capacity=1) as mirror:
        await take(mirror)
    clock.boot_id = "boot-2"
    clock.jump(seconds=-86_400)
    async with opening(tmp_path, clock, capacity=1) as mirror:
        assert await refusal(mirror) == (HOUR + LONGEST_ATTEMPT) / SECOND


async def test_a_block_that_a_wrong_clock_set_does_not_last_for_years(tmp_path: Path, clock: ManualClock) -> None:
    """Once the clock is right again, nobody waits longer than the longest limit there is."""
    clock.jump(seconds=10 * 365 * 86_400)
    async with opening(tmp_path, clock) as mirror:
        await mirror.accounts.accept("alice", b"alice", email=None, expires_at=clock.now() + DAY)
        await mirror.requests.block("alice", seconds=60)
        await mirror.requests.block_model("alice", "gpt-5", seconds=60)
    clock.boot_id = "boot-2"
    clock.jump(seconds=-10 * 365 * 86_400)
    async with opening(tmp_path, clock) as mirror:
        assert await refusal(mirror) <= 7 * 86_400
        with pytest.raises(UpstreamLimit) as caught:
            await mirror.requests.check_model("alice", "gpt-5")
    assert (caught.value.retry_after_seconds or 0) <= 7 * 86_400


async def test_uptime_that_ran_backwards_moves_nothing(tmp_path: Path, clock: ManualClock) -> None:
    """A machine restored from a snapshot repeats its uptime: then only what lies in the future is put right."""
    clock.move(seconds=HOUR / SECOND)
    async with opening(tmp_path, clock, capacity=1) as mirror:
        (request,) = await take(mirror)
        await request.arrived(200)
    restored = ManualClock(clock.now() + 10 * MINUTE)
    async with opening(tmp_path, restored, capacity=1) as mirror:
        assert await refusal(mirror) == 3000


# ------------------------------------------------------------------------------------------------------- audit trail


async def trail(mirror: Mirror) -> list[tuple[int, int]]:
    """When each request left and arrived, oldest first."""
    return rows(mirror.path, "select taken_at, arrived_by from upstream_request order by taken_at")


async def test_a_clock_set_forward_moves_only_what_still_counts(tmp_path: Path, clock: ManualClock) -> None:
    """Requests of more than an hour ago keep the times that they were written down with."""
    async with opening(tmp_path, clock) as mirror:
        for _ in range(3):
            (request,) = await take(mirror)
            clock.move(seconds=1)
            await request.arrived(200)
            clock.move(seconds=2 * 3600)
        clock.move(seconds=-2 * 3600 + 60)
        before = await trail(mirror)
    clock.jump(seconds=3600)
    async with opening(tmp_path, clock) as mirror:
        *old, (taken_at, arrived_by) = await trail(mirror)
        assert old == before[:-1]
        assert (taken_at, arrived_by) == (before[-1][0] + HOUR, before[-1][1] + HOUR)


async def test_restarts_rewrite_nothing(tmp_path: Path, clock: ManualClock) -> None:
    """A clock that runs as it should leaves every row as it was, however often the process starts."""
    async with opening(tmp_path, clock) as mirror:
        for _ in range(3):
            (request,) = await take(mirror)
            clock.move(seconds=1200)
            await request.arrived(200)
        before = await trail(mirror)
    for _ in range(3):
        clock.move(seconds=600)
        async with opening(tmp_path, clock) as mirror:
            assert await trail(mirror) == before


@pytest.mark.parametrize("boot_id", ["boot-1", "boot-2", None])
async def test_a_clock_set_back_makes_nothing_older(tmp_path: Path, clock: ManualClock, boot_id: str | None) -> None:
    """What lies in the past by the new clock too stays where it is: held too long rather than too short."""
    async with opening(tmp_path, clock, capacity=1) as mirror:
        (request,) = await take(mirror)
        await request.arrived(200)
        before = await trail(mirror)
    clock.move(seconds=2400)
    clock.boot_id = boot_id
    clock.jump(seconds=-1800)
    async with opening(tmp_path, clock, capacity=1) as mirror:
        assert await trail(mirror) == before
        assert await refusal(mirror) == 3000


async def test_a_log_without_limit_lets_everything_through(tmp_path: Path, clock: ManualClock) -> None:
    """Nobody has to leave anything to people, and each request is logged as ever."""
    async with opening(tmp_path, clock, capacity=NO_LIMIT) as mirror:
        for _ in range(70):
            await mirror.requests.take("alice", "POST", "chat/completions", leave=10)
        budget = await mirror.requests.budget("alice", leave=10)
        assert not budget.is_limited
        assert budget.used == 70
