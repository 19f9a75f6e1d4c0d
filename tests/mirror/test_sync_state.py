# SPDX-License-Identifier: GPL-2.0-or-later
"""What sync remembers of an account from one process to the next: sweeps, pauses, the last thing that went wrong."""

from __future__ import annotations

from pathlib import Path

from chatgpt_rest.clock import HOUR
from chatgpt_rest.errors import UpstreamBroken, UpstreamRefusedToken
from chatgpt_rest.mirror import AccountMirror, LastError, SyncState
from tests.house import NOON, ManualClock
from tests.mirrors import opening


async def test_of_an_account_without_history_nothing_is_known(alice: AccountMirror) -> None:
    """And waking or forgiving it makes nothing up."""
    await alice.sync.wake()
    await alice.sync.forgive()
    assert await alice.sync.load() == SyncState()


async def test_a_sweep_is_known_by_when_it_began(alice: AccountMirror) -> None:
    """While it is under way, and as the last one afterwards."""
    await alice.sync.begin_sweep(NOON)
    assert await alice.sync.load() == SyncState(sweep_began_at=NOON)
    await alice.sync.end_sweep(NOON)
    assert await alice.sync.load() == SyncState(swept_at=NOON)


async def test_a_sweep_that_somebody_asked_for_meanwhile_goes_on(alice: AccountMirror) -> None:
    """The end of the one before is not its own."""
    await alice.sync.begin_sweep(NOON)
    await alice.sync.begin_sweep(NOON + HOUR)
    await alice.sync.end_sweep(NOON)
    assert await alice.sync.load() == SyncState(sweep_began_at=NOON + HOUR, swept_at=NOON)


async def test_failures_in_a_row_are_counted_until_upstream_answers(alice: AccountMirror) -> None:
    """With the time until which it is let rest."""
    await alice.sync.rest(until=NOON + HOUR)
    await alice.sync.rest(until=NOON + 2 * HOUR)
    assert await alice.sync.load() == SyncState(failures=2, rests_until=NOON + 2 * HOUR)
    await alice.sync.wake()
    assert await alice.sync.load() == SyncState()


async def test_the_last_error_is_remembered_until_a_pass_goes_right(alice: AccountMirror, clock: ManualClock) -> None:
    """By its code, in our words, with its time; the newest one only."""
    await alice.sync.remember(UpstreamBroken("upstream failed (500)"))
    clock.move(seconds=60)
    await alice.sync.remember(UpstreamRefusedToken("upstream does not accept the access token"))
    error = LastError("access_token_refused", "upstream does not accept the access token", clock.now())
    assert (await alice.sync.load()).error == error
    await alice.sync.wake()
    assert (await alice.sync.load()).error == error
    await alice.sync.forgive()
    assert (await alice.sync.load()).error is None


async def test_upstreams_own_words_are_not_kept(alice: AccountMirror) -> None:
    """They may repeat what a person wrote."""
    await alice.sync.remember(UpstreamBroken("upstream failed (500)", body={"detail": "my secret diary"}))
    error = (await alice.sync.load()).error
    assert error is not None
    assert "diary" not in repr(error)


async def test_all_of_it_outlives_the_process(tmp_path: Path, clock: ManualClock) -> None:
    """A server that is started again and again does not ask an upstream that is down each time."""
    async with opening(tmp_path, clock) as opened:
        memory = opened.of("alice").sync
        await memory.begin_sweep(NOON)
        await memory.rest(until=NOON + HOUR)
        await memory.remember(UpstreamBroken("upstream failed (500)"))
        before = await memory.load()
    async with opening(tmp_path, clock) as opened:
        assert await opened.of("alice").sync.load() == before


async def test_each_account_has_its_own(alice: AccountMirror, bob: AccountMirror) -> None:
    """What holds one back does not hold the other."""
    await alice.sync.rest(until=NOON + HOUR)
    await alice.sync.begin_sweep(NOON)
    await alice.sync.remember(UpstreamBroken("upstream failed (500)"))
    await bob.sync.wake()
    await bob.sync.end_sweep(NOON)
    await bob.sync.forgive()
    assert (await bob.sync.load(), (await alice.sync.load()).failures) == (SyncState(), 1)
