# SPDX-License-Identifier: GPL-2.0-or-later
"""The token bucket's rule, and its promise: judged at upstream's end, over any schedule, restart and clock."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from chatgpt_rest.budget import NO_LIMIT, WINDOW, Budget, budget
from chatgpt_rest.clock import HOUR, MINUTE, SECOND
from chatgpt_rest.errors import BudgetSpent
from chatgpt_rest.mirror import LoggedRequest, Mirror
from tests.house import NOON, ManualClock
from tests.mirrors import LONGEST_ATTEMPT, opening

NOW: Final = 10 * HOUR


# --------------------------------------------------------------------------------------------------------------- rule


def test_a_full_bucket_lets_all_of_its_tokens_go_at_once() -> None:
    """A burst of the whole capacity is allowed."""
    assert budget([], capacity=50, now=NOW).remaining == 50


@pytest.mark.parametrize(
    ("arrived_by", "used"),
    [
        pytest.param(NOW - WINDOW - 1, 0, id="more than an hour ago"),
        pytest.param(NOW - WINDOW, 0, id="an hour ago"),
        pytest.param(NOW - WINDOW + 1, 1, id="not quite an hour ago"),
        pytest.param(NOW, 1, id="now"),
        pytest.param(NOW + MINUTE, 1, id="on its way"),
    ],
)
def test_a_token_is_away_for_one_hour_after_its_request_arrived(arrived_by: int, used: int) -> None:
    """The hour is half-open: at its end the token is back."""
    assert budget([arrived_by], capacity=50, now=NOW).used == used


def test_tokens_come_back_in_the_order_of_arrival() -> None:
    """Whatever the order of the log, the soonest is first."""
    state = budget([NOW - 1, NOW - 3, NOW - 2], capacity=3, now=NOW)
    assert state.held_until == (NOW - 3 + HOUR, NOW - 2 + HOUR, NOW - 1 + HOUR)
    assert (state.remaining, state.next_token_at, state.full_at) == (0, NOW - 3 + HOUR, NOW - 1 + HOUR)
    assert state.wait_seconds == (HOUR - 3) / SECOND


def test_a_bucket_that_was_made_smaller_waits_for_enough_tokens() -> None:
    """With more requests in the last hour than it holds now, the first to come back is not enough."""
    state = budget([NOW - 30, NOW - 20, NOW - 10], capacity=1, now=NOW)
    assert (state.remaining, state.next_token_at) == (0, NOW - 10 + HOUR)


def test_with_a_token_left_nobody_waits() -> None:
    """The next request may leave now."""
    state = budget([NOW], capacity=2, now=NOW)
    assert (state.next_token_at, state.wait_seconds) == (NOW, 0.0)


@pytest.mark.parametrize(("until", "is_blocked"), [(None, False), (NOW - 1, False), (NOW, False), (NOW + 1, True)])
def test_upstreams_own_limit_holds_everything_back(until: int | None, *, is_blocked: bool) -> None:
    """Until it clears nothing is left, whatever the bucket holds."""
    state = budget([], capacity=5, now=NOW, blocked_until=until)
    assert (state.is_blocked, state.remaining) == (is_blocked, 0 if is_blocked else 5)
    assert state.next_token_at == (NOW + 1 if is_blocked else NOW)


@pytest.mark.parametrize(("block", "arrived"), [(HOUR, 2 * MINUTE), (MINUTE, HOUR)])
def test_the_later_of_bucket_and_block_counts(block: int, arrived: int) -> None:
    """A request leaves when both allow it."""
    state = budget([NOW - HOUR + arrived], capacity=1, now=NOW, blocked_until=NOW + block)
    assert state.next_token_at == NOW + max(block, arrived)


@given(st.lists(st.integers(NOW - 2 * HOUR, NOW + HOUR)), st.integers(1, 5))
def test_the_next_token_is_really_there_when_it_was_promised(arrived_by: list[int], capacity: int) -> None:
    """And not one microsecond earlier."""
    state = budget(arrived_by, capacity=capacity, now=NOW)

    def later(now: int) -> Budget:
        return budget(arrived_by, capacity=capacity, now=now)

    assert later(state.next_token_at).remaining > 0
    assert state.next_token_at == NOW or later(state.next_token_at - 1).remaining == 0
    assert later(state.full_at).remaining == capacity


@given(
    arrived_by=st.lists(st.integers(NOW - 2 * HOUR, NOW), max_size=20),
    capacity=st.integers(1, 5),
    block=st.none() | st.integers(-HOUR, 3 * HOUR),
    number=st.integers(1, 20),
)
def test_work_ends_when_it_was_foretold(arrived_by: list[int], capacity: int, block: int | None, number: int) -> None:
    """Who takes each token the moment it is there takes the n-th one exactly then, where no request is on its way:
    the log holds an upper bound of that way.
    """
    blocked_until = None if block is None else NOW + block
    foretold = budget(arrived_by, capacity=capacity, now=NOW, blocked_until=blocked_until).time_of(number)
    log, now = list(arrived_by), NOW
    for _ in range(number):
        now = budget(log, capacity=capacity, now=now, blocked_until=blocked_until).next_token_at
        assert budget(log, capacity=capacity, now=now, blocked_until=blocked_until).remaining > 0
        log.append(now)
    assert foretold == now


@pytest.mark.parametrize(
    ("number", "after"), [(1, 0), (2, 0), (3, HOUR - MINUTE), (4, HOUR), (5, HOUR), (6, 2 * HOUR - MINUTE)]
)
def test_long_work_takes_its_hours(number: int, after: int) -> None:
    """With one token of three away for another 59 minutes: two now, one when it is back, then each an hour later."""
    assert budget([NOW - MINUTE], capacity=3, now=NOW).time_of(number) == NOW + after


# ------------------------------------------------------------------------------------------------------------ promise

CAPACITY: Final = 5


@dataclass(frozen=True)
class Take:
    """So many requests at once, all with the same way to go: how long to upstream, how long until that is known."""

    count: int
    travels: int
    reports_after: int | None
    """None where nobody ever reports: the process was cancelled, or its disk was full."""


@dataclass(frozen=True)
class Wait:
    """Time passes."""

    time: int


@dataclass(frozen=True)
class Restart:
    """The process dies, time passes, the wall clock is set, another process opens the file."""

    down: int
    jump: int
    is_other_boot: bool


Step = Take | Wait | Restart

_ways = st.one_of(st.sampled_from([0, LONGEST_ATTEMPT]), st.integers(0, LONGEST_ATTEMPT))
_takes = st.tuples(st.integers(1, CAPACITY + 3), _ways, _ways, st.booleans()).map(
    lambda way: Take(way[0], min(way[1:3]), max(way[1:3]) if way[3] else None)
)
_times = st.one_of(st.sampled_from([1, HOUR - 1, HOUR, LONGEST_ATTEMPT]), st.integers(0, HOUR + 5 * MINUTE))
_jumps = st.one_of(st.just(0), st.integers(-3 * SECOND, 3 * SECOND), st.integers(-2 * HOUR, 2 * HOUR))
_same_boot = st.builds(Restart, down=_times, jump=_jumps, is_other_boot=st.just(False))
_other_boot = st.builds(Restart, down=_times, jump=st.integers(-2 * HOUR, 0), is_other_boot=st.just(True))
schedules = st.lists(st.one_of(_takes, _takes, _times.map(Wait), _same_boot, _other_boot), min_size=2, max_size=14)


@dataclass
class Journey:
    """One request on its way. All times are true ones, which no clock of the machine shows."""

    logged: LoggedRequest
    arrives_at: int
    reports_at: int | None
    known_by: int
    """No later than this it arrived, as far as anybody can know."""
    is_reported: bool = False


@dataclass
class World:
    """A process that may die, a machine whose clock may be set, and the far end, where true time passes."""

    folder: Path
    clock: ManualClock = field(default_factory=ManualClock)
    true_time: int = 0
    boots: int = 0
    journeys: list[Journey] = field(default_factory=list)
    process: AsyncExitStack = field(default_factory=AsyncExitStack)
    mirror: Mirror | None = None

    async def start(self) -> None:
        self.process = AsyncExitStack()
        self.mirror = await self.process.enter_async_context(opening(self.folder, self.clock, capacity=CAPACITY))

    async def do(self, step: Step) -> None:
        if isinstance(step, Take):
            await self._take(step)
        elif isinstance(step, Wait):
            await self._wait(step.time)
        else:
            await self._restart(step)

    def away(self) -> int:
        """How many requests arrived, or may have arrived, within the last hour."""
        return sum(journey.known_by > self.true_time - HOUR for journey in self.journeys)

    async def _take(self, step: Take) -> None:
        assert self.mirror is not None
        requests = self.mirror.requests
        free = max(0, CAPACITY - self.away())
        answers = await asyncio.gather(
            *(requests.take("alice", "POST", "conversation") for _ in range(step.count)), return_exceptions=True
        )
        taken = [answer for answer in answers if isinstance(answer, LoggedRequest)]
        refusals = [answer for answer in answers if isinstance(answer, BudgetSpent)]
        assert len(taken) == min(step.count, free)
        assert len(taken) + len(refusals) == step.count
        for logged in taken:
            reports_at = None if step.reports_after is None else self.true_time + step.reports_after
            arrives_at = self.true_time + step.travels
            self.journeys.append(Journey(logged, arrives_at, reports_at, self.true_time + LONGEST_ATTEMPT))
        if refusals:
            event("a take was refused")
            wait = refusals[0].retry_after_seconds
            assert wait is not None
            await self._wait(round(wait * SECOND))
            assert await requests.has_left("alice")

    async def _wait(self, time: int) -> None:
        """Let time pass, and what is due be reported at its moment."""
        end = self.true_time + time
        due = [each for each in self.journeys if each.reports_at is not None and not each.is_reported]
        for journey in sorted(due, key=lambda each: each.reports_at or 0):
            if journey.reports_at is not None and journey.reports_at <= end:
                self._pass(journey.reports_at - self.true_time)
                await journey.logged.arrived(200)
                journey.is_reported, journey.known_by = True, self.true_time
        self._pass(end - self.true_time)

    async def _restart(self, step: Restart) -> None:
        event("another boot" if step.is_other_boot else "the same boot")
        await self.process.aclose()
        self._pass(step.down)
        self.clock.jump(seconds=step.jump / SECOND)
        for journey in self.journeys:
            journey.reports_at = None
            if step.jump < 0:
                # A clock set back makes a request look later than it was: at the latest, as if it were sent now.
                latest = self.true_time + (0 if journey.is_reported else LONGEST_ATTEMPT)
                journey.known_by = max(journey.known_by, min(journey.known_by - step.jump, latest))
        if step.is_other_boot:
            self.boots += 1
            self.clock.boot_id = f"boot after {self.boots}"
        await self.start()

    def _pass(self, time: int) -> None:
        self.clock.move(seconds=time / SECOND)
        self.true_time += time


@given(schedule=schedules)
async def test_no_rolling_hour_at_upstream_sees_more_than_the_capacity(schedule: list[Step]) -> None:
    """Through bursts, delays on the way, lost reports, restarts, reboots and clocks set forth and back: never more than
    the capacity arrives in any hour, and nothing is refused while fewer may have arrived in the last one. A clock set
    back makes the log look younger than it is; a token then stays away longer, by as much at the most.
    """
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        await world.start()
        try:
            for step in schedule:
                await world.do(step)
        finally:
            await world.process.aclose()
    arrivals = sorted(journey.arrives_at for journey in world.journeys)
    for index, first in enumerate(arrivals):
        assert sum(first <= other < first + HOUR for other in arrivals[index:]) <= CAPACITY


# ------------------------------------------------------------------------------------------------------- without limit


def test_a_bucket_without_limit_is_never_empty() -> None:
    """However much was taken, the next request may leave now, and so may the one after a million others."""
    unlimited = budget([NOON] * 10_000, capacity=NO_LIMIT, now=NOON)
    assert not unlimited.is_limited
    assert unlimited.remaining > 2**52
    assert (unlimited.next_token_at, unlimited.more_at, unlimited.time_of(1_000_000)) == (NOON, NOON, NOON)


def test_upstreams_own_limit_holds_a_bucket_without_limit() -> None:
    """Nothing may leave before it ends."""
    until = NOON + HOUR
    blocked = budget([NOON], capacity=NO_LIMIT, now=NOON, blocked_until=until)
    assert blocked.remaining == 0
    assert (blocked.next_token_at, blocked.more_at, blocked.time_of(7)) == (until, until, until)
