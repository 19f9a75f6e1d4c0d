# SPDX-License-Identifier: GPL-2.0-or-later
"""What is still to be fetched follows from rows alone: each case, the order, and what stands in the way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from chatgpt_rest.clock import SECOND
from chatgpt_rest.mirror import AccountMirror, AskState, Counts, Mirror, SetAside, StaleConversation
from chatgpt_rest.model import ListedConversation, ListPage, Question
from tests.house import NOON, ManualClock
from tests.mirrors import opening
from tests.rows import rows
from tests.shapes import conversation, message

HALF: Final = SECOND // 2


async def list_it(mirror: AccountMirror, name: str = "c", *, at: int | None = 0, **members: object) -> None:
    """Upstream's list names it, updated so many µs after noon."""
    time = None if at is None else NOON + at
    item = ListedConversation(name, name.upper(), None, time, **members)  # type: ignore[arg-type]  # as the call says
    await mirror.listings.take(ListPage((item,), is_last=True), since=0)


async def fetch_it(mirror: AccountMirror, name: str = "c", *, at: int | None = 0, listed: int | None = None) -> None:
    """Upstream shows it whole, updated so many µs after noon; the list had said `listed`."""
    tree = conversation(message(), conversation_id=name, update_time=None if at is None else (NOON + at) / SECOND)
    await mirror.conversations.save_whole(tree, listed_update_time=None if listed is None else NOON + listed)


async def fail(mirror: AccountMirror, times: int, name: str = "c") -> None:
    """It could not be fetched so often."""
    for _ in range(times):
        await mirror.backlog.note_failure(name, "upstream_broken")


async def ask_in(mirror: AccountMirror, name: str | None) -> None:
    """A prompt is on its way; with no name, in a conversation that only lives here."""
    question = Question("prompt", "Why?", name, None if name is None else "n0", None)
    await mirror.asks.begin(
        "ask", question, draft_id="c", title=None, idempotency_digest=None, request_digest=b"request"
    )


# ---------------------------------------------------------------------------------------------------------- each case


async def listed_only(mirror: AccountMirror) -> None:
    """Named, never fetched."""
    await list_it(mirror)


async def current(mirror: AccountMirror) -> None:
    """Fetched as it was listed."""
    await list_it(mirror)
    await fetch_it(mirror)


async def fraction(mirror: AccountMirror) -> None:
    """Fetched with a fraction of the second that the list shows."""
    await list_it(mirror)
    await fetch_it(mirror, at=HALF)
    await list_it(mirror)


async def later_fraction(mirror: AccountMirror) -> None:
    """Listed later within the second in which it was fetched: a list that shows fractions is not believed in them."""
    await fetch_it(mirror)
    await list_it(mirror, at=HALF)


async def later(mirror: AccountMirror) -> None:
    """Listed a second later."""
    await fetch_it(mirror, at=HALF)
    await list_it(mirror, at=SECOND)


async def earlier(mirror: AccountMirror) -> None:
    """Listed with an older time: nothing is newer there."""
    await fetch_it(mirror, at=5 * SECOND)
    await list_it(mirror)


async def untimed_list(mirror: AccountMirror) -> None:
    """Listed without a time, on its own: nothing says that it changed."""
    await fetch_it(mirror)
    await list_it(mirror, at=None)


async def untimed_content(mirror: AccountMirror) -> None:
    """Fetched without a time after it was listed with one: that is met."""
    await list_it(mirror)
    await fetch_it(mirror, at=None, listed=0)


async def older_content(mirror: AccountMirror) -> None:
    """Shown with an older time than it was listed with: asked again, upstream would say the same."""
    await list_it(mirror, at=5 * SECOND)
    await fetch_it(mirror, at=0, listed=5 * SECOND)


async def changed_meanwhile(mirror: AccountMirror) -> None:
    """Listed anew while it was being fetched: what came may be older than that."""
    await list_it(mirror)
    await list_it(mirror, at=9 * SECOND)
    await fetch_it(mirror, at=0, listed=0)


async def local(mirror: AccountMirror) -> None:
    """It lives here only."""
    await ask_in(mirror, None)


async def buried(mirror: AccountMirror) -> None:
    """Deleted here."""
    await list_it(mirror)
    await mirror.deletions.bury("c")


async def gone(mirror: AccountMirror) -> None:
    """Deleted there."""
    await list_it(mirror)
    await mirror.backlog.mark_gone("c", "conversation_deleted")


async def failed_twice(mirror: AccountMirror) -> None:
    """Two failures are no reason to give up."""
    await list_it(mirror)
    await fail(mirror, 2)


async def set_aside(mirror: AccountMirror) -> None:
    """Three are."""
    await list_it(mirror)
    await fail(mirror, 3)


async def set_aside_and_changed(mirror: AccountMirror) -> None:
    """Upstream says that it changed since it was set aside: perhaps it can be fetched now."""
    await set_aside(mirror)
    await list_it(mirror, at=SECOND)


async def set_aside_and_listed(mirror: AccountMirror) -> None:
    """Being named again as it was is no reason to try."""
    await set_aside(mirror)
    await list_it(mirror, at=HALF)


async def set_aside_and_fetched(mirror: AccountMirror) -> None:
    """A reader brought it."""
    await set_aside(mirror)
    await fetch_it(mirror)


async def given_another_chance(mirror: AccountMirror) -> None:
    """Somebody asked for it."""
    await set_aside(mirror)
    await mirror.backlog.try_again()


async def gone_and_back(mirror: AccountMirror) -> None:
    """Upstream's list names it again, updated since: somebody restored it there."""
    await fetch_it(mirror)
    await mirror.backlog.mark_gone("c", "conversation_deleted")
    await list_it(mirror, at=SECOND)


CASES: Final = [
    *((case, True) for case in (listed_only, later, changed_meanwhile, failed_twice, set_aside_and_changed)),
    *((case, True) for case in (given_another_chance, gone_and_back)),
    *((case, False) for case in (current, fraction, later_fraction, earlier, untimed_list, untimed_content)),
    *((case, False) for case in (older_content, local, buried, gone, set_aside, set_aside_and_listed)),
    *((case, False) for case in (set_aside_and_fetched,)),
]


@pytest.mark.parametrize(("make", "is_stale"), CASES, ids=[case.__name__ for case, _ in CASES])
async def test_what_is_stale_follows_from_its_row(
    alice: AccountMirror, make: Callable[[AccountMirror], Awaitable[None]], *, is_stale: bool
) -> None:
    """And it is in the outlook and the counts exactly where it is to be fetched."""
    await make(alice)
    assert await alice.backlog.stale(limit=9) == (["c"] if is_stale else [])
    assert [each.id for each in await alice.backlog.outlook()] == (["c"] if is_stale else [])
    assert (await alice.backlog.counts()).stale == is_stale


@pytest.mark.parametrize(("make", "is_stale"), CASES, ids=[case.__name__ for case, _ in CASES])
async def test_every_conversation_is_counted_once(
    mirror: Mirror, alice: AccountMirror, make: Callable[[AccountMirror], Awaitable[None]], *, is_stale: bool
) -> None:
    """Current, stale, missing upstream or set aside; a tombstone is none of them, and counts for nothing."""
    await make(alice)
    counts = await alice.backlog.counts()
    assert counts.known == counts.current + counts.stale + counts.missing_upstream + counts.set_aside
    assert rows(mirror.path, "select count(*) from conversation where deleted_at is null") == [(counts.known,)]


async def test_the_counts_tell_the_kinds_apart(alice: AccountMirror) -> None:
    """One of each, and another current one."""
    for name in ("stale", "gone", "aside", "current", "other", "buried"):
        await list_it(alice, name)
    await fetch_it(alice, "current")
    await fetch_it(alice, "other")
    await alice.backlog.mark_gone("gone", "conversation_deleted")
    await fail(alice, 3, "aside")
    await alice.deletions.bury("buried")
    assert await alice.backlog.counts() == Counts(known=5, current=2, stale=1, missing_upstream=1, set_aside=1)


async def test_an_import_that_did_not_change_since_is_current(mirror: Mirror, alice: AccountMirror) -> None:
    """What came with an export counts as fetched at the export's time of the update; only a later one is stale."""
    for name in ("same", "changed"):
        await fetch_it(alice, name, at=233_528)
    assert rows(mirror.path, "select distinct fetched_update_time from conversation") == [(NOON + 233_528,)]
    await list_it(alice, "same")
    await list_it(alice, "changed", at=SECOND)
    assert await alice.backlog.stale(limit=9) == ["changed"]


# ---------------------------------------------------------------------------------------------------------- the order


async def test_the_newest_update_comes_first(alice: AccountMirror) -> None:
    """By what the list says, and by what else is known where it says nothing."""
    for name, at in (("old", 1), ("new", 9), ("middle", 5)):
        await list_it(alice, name, at=at * SECOND)
    await list_it(alice, "untimed", at=None)
    assert await alice.backlog.stale(limit=9) == ["new", "middle", "old", "untimed"]
    assert await alice.backlog.stale(limit=1) == ["new"]
    assert await alice.backlog.stale(limit=9, besides=["new", "old"]) == ["middle", "untimed"]
    assert await alice.backlog.stale_among(["old", "elsewhere", "middle"]) == ["middle", "old"]
    assert await alice.backlog.stale_among(["old", "middle"], besides=["middle"]) == ["old"]


async def test_what_failed_before_comes_after_what_did_not(alice: AccountMirror) -> None:
    """The newest ones hold nothing up, should they always fail."""
    for at, name in enumerate(("old", "middle", "new")):
        await list_it(alice, name, at=at * SECOND)
    await fail(alice, 2, "new")
    await fail(alice, 1, "middle")
    assert await alice.backlog.stale(limit=9) == ["old", "middle", "new"]
    assert [each.id for each in await alice.backlog.outlook()] == ["old", "middle", "new"]


async def test_the_outlook_names_what_is_to_be_fetched(alice: AccountMirror) -> None:
    """With its title and time, and whether anything of it is here yet."""
    await fetch_it(alice, "here")
    await list_it(alice, "here", at=9 * SECOND)
    await list_it(alice, "new", at=5 * SECOND)
    assert await alice.backlog.outlook() == [
        StaleConversation("here", "HERE", NOON + 9 * SECOND, is_new=False),
        StaleConversation("new", "NEW", NOON + 5 * SECOND, is_new=True),
    ]


async def test_a_conversation_in_which_an_answer_is_written_is_left_alone(alice: AccountMirror) -> None:
    """Fetched in mid-answer it would show half of it; afterwards it is fetched like any other."""
    await fetch_it(alice)
    await list_it(alice, at=SECOND)
    await ask_in(alice, "c")
    assert await alice.backlog.stale(limit=9) == []
    await alice.asks.end("ask", AskState.REFUSED, (), conversation_id=None, title=None)
    assert await alice.backlog.stale(limit=9) == ["c"]


async def test_nobody_sees_anothers_backlog(alice: AccountMirror, bob: AccountMirror) -> None:
    """What one account fails at or brings back leaves the other's rows alone."""
    for mirror in (alice, bob):
        await list_it(mirror)
    await fail(alice, 3)
    await alice.backlog.mark_gone("c", "conversation_deleted")
    await alice.backlog.try_again()
    assert (await bob.backlog.stale(limit=9), (await bob.backlog.counts()).stale) == (["c"], 1)


# ------------------------------------------------------------------------------------------------------- set aside


async def test_the_third_failure_sets_aside(alice: AccountMirror) -> None:
    """It says so once, and the reason that is told is the last one."""
    await list_it(alice)
    assert not await alice.backlog.note_failure("c", "upstream_slow")
    assert not await alice.backlog.note_failure("c", "upstream_slow")
    assert await alice.backlog.note_failure("c", "upstream_broken")
    assert not await alice.backlog.note_failure("c", "upstream_broken")
    assert await alice.backlog.set_aside(limit=9) == [SetAside("c", "C", "upstream_broken")]


async def test_a_success_forgets_the_failures_before(alice: AccountMirror) -> None:
    """Three in a row set aside, not three in all."""
    await list_it(alice)
    await fail(alice, 2)
    await fetch_it(alice)
    await list_it(alice, at=SECOND)
    await fail(alice, 2)
    assert await alice.backlog.stale(limit=9) == ["c"]


async def test_what_is_set_aside_is_still_so_in_the_next_process(tmp_path: Path, clock: ManualClock) -> None:
    """It is written down, as is what is stale."""
    async with opening(tmp_path, clock) as opened:
        await list_it(opened.of("alice"))
        await list_it(opened.of("alice"), "other")
        await fail(opened.of("alice"), 3)
    async with opening(tmp_path, clock) as opened:
        assert await opened.of("alice").backlog.stale(limit=9) == ["other"]


# ------------------------------------------------------------------------------------------------------------- gone


async def test_what_is_gone_upstream_stays_readable(alice: AccountMirror) -> None:
    """Marked, with every word of it."""
    await fetch_it(alice)
    before = (await alice.conversations.messages_json("c")).body
    await alice.backlog.mark_gone("c", "conversation_deleted")
    assert (await alice.conversations.messages_json("c")).body == before
    assert (await alice.conversations.get("c")).is_deleted_upstream


async def test_what_lives_here_only_cannot_be_gone_upstream(mirror: Mirror, alice: AccountMirror) -> None:
    """Upstream never had it."""
    await ask_in(alice, None)
    await alice.backlog.mark_gone("c", "conversation_not_found")
    assert rows(mirror.path, "select is_deleted_upstream from conversation") == [(0,)]


async def test_what_a_list_names_for_ever_although_it_is_gone_is_not_asked_for_ever(alice: AccountMirror) -> None:
    """Three times in all."""
    for asked in range(1, 5):
        await list_it(alice)
        assert len(await alice.backlog.stale(limit=9)) == (asked <= 3)
        await alice.backlog.mark_gone("c", "conversation_deleted")


# ------------------------------------------------------------------------------------------------------------ unseen


async def test_a_sweep_asks_for_what_neither_list_nor_fetch_has_shown_since(
    alice: AccountMirror, clock: ManualClock
) -> None:
    """Newest first; what lives here only, is gone, deleted or set aside is none of that."""
    for at, name in enumerate(("a", "b", "listed", "fetched", "gone", "buried", "aside")):
        await list_it(alice, name, at=at * SECOND)
    await ask_in(alice, None)
    clock.move(seconds=60)
    since = clock.now()
    await list_it(alice, "listed")
    await fetch_it(alice, "fetched")
    await alice.backlog.mark_gone("gone", "conversation_deleted")
    await alice.deletions.bury("buried")
    await fail(alice, 3, "aside")
    assert await alice.backlog.unseen(since=since, limit=-1) == ["b", "a"]
    assert await alice.backlog.unseen(since=since, limit=1) == ["b"]
    assert await alice.backlog.unseen(since=since, limit=-1, besides=["b"]) == ["a"]


@pytest.mark.parametrize(
    ("absent", "expected"),
    [
        ([], ["archived", "gpt", "other", "plain", "project"]),
        (["archived"], ["gpt", "other", "plain", "project"]),
        (["g-p-1"], ["archived", "gpt", "other", "plain"]),
        (["projects"], ["archived", "gpt", "plain"]),
        (["archived", "projects"], ["gpt", "plain"]),
    ],
)
async def test_nothing_follows_from_lists_that_upstream_does_not_have(
    alice: AccountMirror, clock: ManualClock, absent: list[str], expected: list[str]
) -> None:
    """Archived conversations, and those in projects, stand in no other list; those held with a GPT do."""
    await list_it(alice, "plain")
    await list_it(alice, "archived", is_archived=True)
    await list_it(alice, "project", project="g-p-1")
    await list_it(alice, "other", project="g-p-2")
    await list_it(alice, "gpt", project="g-1")
    clock.move(seconds=60)
    unseen = await alice.backlog.unseen(since=clock.now(), limit=-1, absent=absent)
    assert sorted(unseen) == expected
    assert await alice.backlog.list_of("other") == "g-p-2"
