# SPDX-License-Identifier: GPL-2.0-or-later
"""What sync remembers of an account from one process to the next: sweeps, pauses, the last thing that went wrong."""

from __future__ import annotations

from pathlib import Path

from chatgpt_rest.clock import DAY, HOUR, SECOND
from chatgpt_rest.errors import UpstreamBroken, UpstreamRefusedToken
from chatgpt_rest.listing import PROJECTS
from chatgpt_rest.mirror import AccountMirror, LastError, SyncState
from chatgpt_rest.model import Conversation, ListedConversation, ListPage
from tests.house import NOON, ManualClock
from tests.mirrors import opening
from tests.rows import rows


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


async def test_a_sweep_under_way_is_not_begun_anew(alice: AccountMirror) -> None:
    """Who asks for one every hour would never see its end."""
    await alice.sync.begin_sweep(NOON)
    await alice.sync.begin_sweep(NOON + HOUR)
    assert (await alice.sync.load()).sweep_began_at == NOON


async def test_the_end_of_a_sweep_does_not_end_the_next_one(alice: AccountMirror) -> None:
    """It was begun while the end of the one before was found out."""
    await alice.sync.begin_sweep(NOON + HOUR)
    await alice.sync.end_sweep(NOON)
    assert await alice.sync.load() == SyncState(sweep_began_at=NOON + HOUR, swept_at=NOON)


async def test_a_sweep_that_was_misled_found_out_nothing(alice: AccountMirror) -> None:
    """The one before stays the last, and the next waits."""
    await alice.sync.begin_sweep(NOON)
    await alice.sync.end_sweep(NOON)
    await alice.sync.begin_sweep(NOON + HOUR)
    await alice.sync.abandon_sweep(NOON + HOUR, not_before=NOON + DAY)
    assert await alice.sync.load() == SyncState(swept_at=NOON, sweep_not_before=NOON + DAY)


async def test_a_try_that_is_granted_keeps_the_count_of_failures(alice: AccountMirror) -> None:
    """The pause after it goes on growing."""
    await alice.sync.rest(until=NOON + HOUR)
    await alice.sync.grant()
    assert await alice.sync.load() == SyncState(failures=1)


async def test_what_a_clock_dated_into_the_future_happened_now(tmp_path: Path, clock: ManualClock) -> None:
    """Sync would else wait for that time to come, or hold every reading for too old."""
    clock.move(seconds=400 * DAY // SECOND)
    async with opening(tmp_path, clock) as opened:
        alice = opened.of("alice")
        await alice.sync.begin_sweep(clock.now())
        await alice.sync.rest(until=clock.now() + HOUR)
        await alice.listings.mark_absent(PROJECTS, until=clock.now() + DAY)
        await alice.listings.take(ListPage((), is_last=True), since=0)
    clock.move(seconds=-400 * DAY // SECOND)
    async with opening(tmp_path, clock) as opened:
        alice = opened.of("alice")
        state, (plain, _, projects) = await alice.sync.load(), await alice.listings.all()
    assert (state.sweep_began_at, plain.read_at, plain.swept_at) == (NOON, NOON - 1, NOON - 1)
    assert (state.rests_until, projects.absent_until) == (NOON + 2 * HOUR, NOON + DAY)


async def test_a_process_that_ended_in_mid_fetch_counts_a_failure(tmp_path: Path, clock: ManualClock) -> None:
    """It may have died of it. Not so where the conversation came."""
    for _ in range(2):
        async with opening(tmp_path, clock) as opened:
            alice = opened.of("alice")
            await alice.listings.take(ListPage((ListedConversation("c", "C", NOON, NOON),), is_last=True), since=0)
            await alice.sync.tries("c")
    assert rows(tmp_path / "mirror.sqlite", "select failures, failure from conversation") == [(1, "interrupted")]
    async with opening(tmp_path, clock) as opened:
        await opened.of("alice").conversations.save_whole(Conversation("c", "C", NOON, NOON, None, {}))
        await opened.of("alice").sync.tries("c")
    async with opening(tmp_path, clock):
        pass
    assert rows(tmp_path / "mirror.sqlite", "select failures from conversation") == [(0,)]


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
