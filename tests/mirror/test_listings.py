# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of upstream's lists become rows: what they say of conversations, and how far each list has been read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chatgpt_rest.clock import DAY, HOUR, SECOND
from chatgpt_rest.listing import ARCHIVED, PLAIN, PROJECTS, Listing
from chatgpt_rest.mirror import AccountMirror, KnownList, Mirror
from chatgpt_rest.model import ListedConversation, ListPage, Project, ProjectPage
from tests.house import NOON, ManualClock
from tests.mirrors import opening
from tests.rows import rows
from tests.shapes import conversation, message


def listed(name: str, *, at: int | None = 0, **members: Any) -> ListedConversation:
    """A row of upstream's list, so many seconds after noon."""
    time = None if at is None else NOON + at * SECOND
    return ListedConversation(name, members.pop("title", name.upper()), time, time, **members)


def page(*names: str, is_last: bool = False, cursor: str | None = None) -> ListPage:
    """A page of conversations, each a second older than the one before."""
    items = tuple(listed(name, at=-index) for index, name in enumerate(names))
    return ListPage(items, is_last=is_last, cursor=cursor)


async def known(mirror: AccountMirror, name: str = PLAIN) -> KnownList:
    """How one list stands."""
    return next(each for each in await mirror.listings.all() if each.name == name)


async def reading(mirror: AccountMirror, name: str = PLAIN) -> Listing:
    """The reading of a list that is under way."""
    listing = (await known(mirror, name)).listing
    assert listing is not None
    return listing


# ---------------------------------------------------------------------------------------------------------- readings


async def test_an_account_has_three_lists_from_the_start(alice: AccountMirror) -> None:
    """Of which nothing is known; the plain one comes first."""
    assert await alice.listings.all() == [KnownList(PLAIN), KnownList(ARCHIVED), KnownList(PROJECTS)]


async def test_a_reading_goes_on_from_page_to_page(alice: AccountMirror, clock: ManualClock) -> None:
    """Each page moves it on by what it held, less what the next one repeats; the last one ends it."""
    taken = await alice.listings.take(page(*"abcdefgh"), since=0)
    listing = await reading(alice)
    assert taken == listing
    assert (listing.begun_at, listing.next_offset, listing.top) == (NOON, 5, NOON)
    clock.move(seconds=60)
    assert await alice.listings.take(page(*"fghi", is_last=True), listing=listing, since=0)
    assert await known(alice) == KnownList(PLAIN, read_at=NOON, swept_at=NOON, ground=NOON)


async def test_a_reading_goes_on_in_the_next_process(tmp_path: Path, clock: ManualClock) -> None:
    """It is rows, not memory."""
    async with opening(tmp_path, clock) as opened:
        await opened.of("alice").listings.take(page(*"abcdefgh"), since=0)
        before = await known(opened.of("alice"))
    async with opening(tmp_path, clock) as opened:
        assert await known(opened.of("alice")) == before
        assert await opened.of("alice").listings.take(page(*"fghi", is_last=True), listing=before.listing, since=0)


async def test_the_page_that_proves_a_token_begins_the_reading(alice: AccountMirror) -> None:
    """It is the first page of the list, and need not be asked for again."""
    await alice.listings.take(page(*"abcdefgh"), since=0)
    assert (await reading(alice)).next_offset == 5


async def test_the_first_page_of_somebody_else_does_not_disturb_a_reading(
    alice: AccountMirror, clock: ManualClock
) -> None:
    """What it says is taken in; the reading goes on where it stood."""
    await alice.listings.take(page(*"abcdefgh"), since=0)
    before = await reading(alice)
    clock.move(seconds=60)
    assert not await alice.listings.take(page(*"xabcdefg"), since=0)
    assert await reading(alice) == before
    assert (await alice.conversations.get("x")).title == "X"


async def test_a_page_that_others_have_overtaken_moves_nothing_on(alice: AccountMirror) -> None:
    """Of two who read the same page, the second changes nothing but what the page says."""
    await alice.listings.take(page(*"abcdefgh"), since=0)
    listing = await reading(alice)
    await alice.listings.take(page(*"fghijklm"), listing=listing, since=0)
    after = await reading(alice)
    assert not await alice.listings.take(page(*"fghijklm"), listing=listing, since=0)
    assert await reading(alice) == after


async def test_a_page_of_a_reading_that_has_ended_begins_no_other(alice: AccountMirror) -> None:
    """A list that was read to its end is not open again."""
    await alice.listings.take(page(*"abcdefgh"), since=0)
    listing = await reading(alice)
    for _ in range(2):
        await alice.listings.take(page(*"fghi", is_last=True), listing=listing, since=0)
    assert (await known(alice)).listing is None


async def test_a_reading_that_meets_known_ground_is_no_sweep(alice: AccountMirror, clock: ManualClock) -> None:
    """It was read, but not to its end; its newest update is the ground of the next."""
    names = "abcdefgh"
    await alice.listings.take(page(*names, is_last=True), since=0)
    clock.move(seconds=60)
    assert await alice.listings.take(page(*names), since=0)
    later = NOON + 60 * SECOND
    assert await known(alice) == KnownList(PLAIN, read_at=later, swept_at=NOON, ground=NOON)


async def test_only_the_first_page_tells_when_the_list_was_read(
    mirror: Mirror, alice: AccountMirror, clock: ManualClock
) -> None:
    """What is new stands there."""
    await alice.listings.take(page(*"abcdefgh"), since=0)
    clock.move(seconds=60)
    await alice.listings.take(page(*"fghi", is_last=True), listing=await reading(alice), since=0)
    query = "select listed_at, is_list_whole from account where account = 'alice'"
    assert rows(mirror.path, query) == [(NOON, 1)]


async def test_other_lists_do_not_count_as_the_plain_one(mirror: Mirror, alice: AccountMirror) -> None:
    """A reader of the list waits until that one was read."""
    await alice.listings.take(page("a", is_last=True), of=ARCHIVED, since=0)
    assert not await alice.conversations.was_listed()
    assert (await known(alice, ARCHIVED)).read_at == NOON


async def test_a_page_that_left_before_everything_was_deleted_is_not_taken_in(alice: AccountMirror) -> None:
    """It would show again what is gone."""
    since = alice.conversations.deletions
    await alice.deletions.bury_all()
    assert not await alice.listings.take(page("a", is_last=True), since=since)
    assert (await known(alice)).read_at is None
    assert (await alice.backlog.counts()).known == 0


async def test_a_page_that_upstream_cannot_show_is_left_out(alice: AccountMirror) -> None:
    """The reading goes on behind it, unless it has gone on meanwhile."""
    await alice.listings.take(page(*"abcdefgh"), since=0)
    listing = await reading(alice)
    await alice.listings.skip(PLAIN, listing=listing, items=8)
    after = await reading(alice)
    assert after.next_offset == 10
    await alice.listings.skip(PLAIN, listing=listing, items=8)
    assert await reading(alice) == after
    await alice.listings.take(page("x", "y", is_last=True), listing=after, since=0)
    assert await known(alice) == KnownList(PLAIN, read_at=NOON, ground=NOON)  # and not as one that met everything


# ---------------------------------------------------------------------------------------------------- absence, projects


async def test_a_list_that_upstream_does_not_have_is_absent_for_a_while(alice: AccountMirror) -> None:
    """What was begun of it is over; a page of it proves the contrary."""
    await alice.listings.take(page(*"abcdefgh"), of=ARCHIVED, since=0)
    await alice.listings.mark_absent(ARCHIVED, until=NOON + DAY)
    assert (await known(alice, ARCHIVED)).absent_until == NOON + DAY
    assert (await known(alice, ARCHIVED)).listing is None
    await alice.listings.take(page("a", is_last=True), of=ARCHIVED, since=0)
    assert (await known(alice, ARCHIVED)).absent_until is None


@pytest.mark.parametrize(
    ("names", "expected"), [("abc", True), ("abx", True), ("axy", False), ("xyz", False), ("", False)]
)
async def test_a_page_that_the_plain_list_held_is_none_of_the_archive(
    alice: AccountMirror, clock: ManualClock, names: str, *, expected: bool
) -> None:
    """Where the server does not say what is archived: if most of it stood there when that was last read."""
    clock.move(seconds=-60)
    await alice.listings.take(page("x", is_last=True), since=0)  # plain once, and no more
    clock.move(seconds=60)
    await alice.listings.take(page(*"abc", is_last=True), since=0)
    archive = ListPage(tuple(listed(name, is_archived=True) for name in names), is_last=True)
    assert not await alice.listings.is_plain(archive)  # it says so itself
    assert await alice.listings.is_plain(replace(archive, tells_archived=False)) is expected


async def test_a_page_that_says_itself_that_it_is_not_archived_is_none_of_the_archive(alice: AccountMirror) -> None:
    """One such conversation is enough."""
    mixed = ListPage((listed("a", is_archived=True), listed("b")), is_last=True)
    assert await alice.listings.is_plain(mixed)


async def test_each_project_is_a_list_of_its_own(mirror: Mirror, alice: AccountMirror) -> None:
    """It keeps how far it was read when the projects are named again."""
    two = ProjectPage((Project("g-p-1", "Garden"), Project("g-p-2", None)), None)
    await alice.listings.take_projects(two, listing=Listing(NOON))
    await alice.listings.take(page("a", is_last=True), of="g-p-1", since=0)
    await alice.listings.take_projects(ProjectPage((Project("g-p-1", "Orchard"),), None), listing=Listing(NOON + HOUR))
    assert [each.name for each in await alice.listings.all()] == [PLAIN, ARCHIVED, PROJECTS, "g-p-1", "g-p-2"]
    assert (await known(alice, "g-p-1")).read_at == NOON
    assert (await known(alice, PROJECTS)).read_at == NOON + HOUR
    assert rows(mirror.path, "select name from listing where list = 'g-p-1'") == [("Orchard",)]


async def test_a_project_that_is_gone_is_forgotten_and_its_conversations_are_not(alice: AccountMirror) -> None:
    """They have no list any more that names them."""
    await alice.listings.take_projects(ProjectPage((Project("g-p-1", "Garden"),), None), listing=Listing(NOON))
    await alice.listings.take(page("a", is_last=True), of="g-p-1", since=0)
    await alice.listings.forget("g-p-1")
    assert [each.name for each in await alice.listings.all()] == [PLAIN, ARCHIVED, PROJECTS]
    assert (await alice.conversations.get("a")).title == "A"


# -------------------------------------------------------------------------------------------------------------- rows


async def test_a_duplicate_across_pages_is_one_conversation(mirror: Mirror, alice: AccountMirror) -> None:
    """As is one that stands twice on a page; the newer time counts."""
    await alice.listings.take(page(*"abcdefgh"), since=0)
    again = ListPage((listed("h", at=30), listed("i", at=-9), listed("h", at=-7)), is_last=True)
    await alice.listings.take(again, listing=await reading(alice), since=0)
    assert rows(mirror.path, "select count(*), count(distinct id) from conversation") == [(9, 9)]
    assert await alice.backlog.stale(limit=1) == ["h"]


async def test_an_empty_page_changes_no_conversation(mirror: Mirror, alice: AccountMirror) -> None:
    """That nothing is listed says nothing of what is here."""
    await alice.listings.take(page(*"abc", is_last=True), since=0)
    await alice.conversations.save_whole(conversation(message("kept"), conversation_id="a"))
    before = rows(mirror.path, "select * from conversation"), rows(mirror.path, "select * from node")
    await alice.listings.take(ListPage((), is_last=True), since=0)
    assert (rows(mirror.path, "select * from conversation"), rows(mirror.path, "select * from node")) == before


async def test_a_list_takes_no_title_and_no_project_away(alice: AccountMirror) -> None:
    """Nothing is overwritten by less."""
    await alice.listings.take(ListPage((listed("a", title="Mine", project="g-p-1"),), is_last=True), since=0)
    await alice.listings.take(ListPage((listed("a", at=60, title=None),), is_last=True), since=0)
    tree = await alice.conversations.get("a")
    assert (tree.title, tree.project, tree.update_time) == ("Mine", "g-p-1", NOON + 60 * SECOND)


async def test_an_older_list_changes_nothing(alice: AccountMirror) -> None:
    """The newest update decides over title and flags."""
    await alice.listings.take(ListPage((listed("a", at=60, title="New"),), is_last=True), since=0)
    await alice.listings.take(ListPage((listed("a", title="Old", is_archived=True),), is_last=True), since=0)
    tree = await alice.conversations.get("a")
    assert (tree.title, tree.is_archived, tree.update_time) == ("New", False, NOON + 60 * SECOND)


async def test_a_list_without_times_is_read_by_its_order(alice: AccountMirror) -> None:
    """What moved above another is stale until it is fetched, and then no more."""

    def untimed(*names: str) -> ListPage:
        return ListPage(tuple(ListedConversation(name, name, None, None) for name in names), is_last=True)

    for at, name in enumerate("ab"):
        tree = conversation(message(), conversation_id=name, update_time=NOON / SECOND + at)
        await alice.conversations.save_whole(tree)
    await alice.listings.take(untimed("b", "a"), since=0)
    assert await alice.backlog.stale(limit=9) == []
    await alice.listings.take(untimed("a", "b"), since=0)
    assert await alice.backlog.stale(limit=9) == ["a"]
    shown = conversation(message(), conversation_id="a", update_time=None)
    await alice.conversations.save_whole(shown, listed_update_time=await alice.conversations.listed_update_time("a"))
    await alice.listings.take(untimed("a", "b"), since=0)
    assert await alice.backlog.stale(limit=9) == []


@pytest.mark.parametrize("at", [None, 0, 60], ids=["no time", "the same time", "later"])
async def test_what_a_list_names_is_not_missing_upstream(alice: AccountMirror, at: int | None) -> None:
    """Whatever was found before: it is there again."""
    await alice.listings.take(page("a", is_last=True), since=0)
    await alice.conversations.save_whole(conversation(message(), conversation_id="a", update_time=NOON / SECOND))
    await alice.backlog.mark_gone("a", "conversation_not_found")
    await alice.listings.take(ListPage((listed("a", at=at),), is_last=True), since=0)
    assert not (await alice.conversations.get("a")).is_deleted_upstream


async def test_nobody_reads_anothers_lists(alice: AccountMirror, bob: AccountMirror) -> None:
    """Each account's are its own, and so is what they say."""
    await alice.listings.take(page(*"abcdefgh"), since=0)
    await alice.listings.mark_absent(ARCHIVED, until=NOON + DAY)
    await alice.listings.take_projects(ProjectPage((Project("g-p-1", "Garden"),), None), listing=Listing(NOON))
    assert await bob.listings.all() == [KnownList(PLAIN), KnownList(ARCHIVED), KnownList(PROJECTS)]
    assert (await bob.backlog.counts()).known == 0
