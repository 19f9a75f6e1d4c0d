# SPDX-License-Identifier: GPL-2.0-or-later
"""How a list is read: whatever happens to it meanwhile, what stood still is met, and every reading comes to an end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatgpt_rest.clock import SECOND
from chatgpt_rest.listing import Before, End, Listing, advance, advance_projects, update_times
from chatgpt_rest.model import ListedConversation, ListPage, Project, ProjectPage
from tests.house import NOON

MOST_PAGES: Final = 200
"""Far more than any reading here may take."""


def item(name: str, at: int | None = 0, *, created: int | None = None) -> ListedConversation:
    """A row of a list, updated so many seconds after noon."""
    return ListedConversation(
        name,
        name,
        None if created is None else NOON + created * SECOND,
        None if at is None else NOON + at * SECOND,
    )


class Reader:
    """What the mirror remembers of one list, without the mirror."""

    def __init__(self) -> None:
        self.known: dict[str, Before] = {}
        self.ground: int | None = None
        self.now = NOON
        self.pages = 0

    def read(self, fetch: Callable[[int], ListPage], *, is_sweep: bool = False) -> Listing:
        """One reading from the top, each page fetched by its offset. Every page takes a second."""
        listing = Listing(self.now, is_sweep=is_sweep, ground=self.ground)
        self.pages = 0
        while listing.end is None:
            assert self.pages < MOST_PAGES, "the reading does not end"
            listing = self.take(listing, fetch(listing.next_offset))
        self.ground = listing.top if listing.top is not None else self.ground
        return listing

    def take(self, listing: Listing, page: ListPage) -> Listing:
        """One page."""
        self.pages += 1
        self.now += SECOND
        before = {each.id: self.known[each.id] for each in page.items if each.id in self.known}
        for each, time in zip(page.items, update_times(page.items, before=before), strict=True):
            self.known[each.id] = Before(time, time, self.now)
        return advance(listing, page, before=before)


class Account:
    """A list that lives, newest update first, with a few that are pinned to its top however old they are."""

    def __init__(self, number: int, *, page: int, pinned: int = 0) -> None:
        self.at = number
        self.page = page
        self.items = [item(f"c{number - index}", number - index) for index in range(number)]
        self.pinned = [item(f"pinned{index}", -index) for index in range(pinned)]
        self.moved: set[str] = set()

    def fetch(self, offset: int) -> ListPage:
        """A page, the last one short."""
        items = tuple((self.pinned + self.items)[offset : offset + self.page])
        return ListPage(items, is_last=len(items) < self.page)

    def change(self, kind: str, index: int) -> None:
        """Something that a person does in the browser."""
        self.at += 1
        if kind == "new" or not self.items:
            self.items.insert(0, item(f"c{self.at}", self.at))
        else:
            old = self.items.pop(index % len(self.items))
            if kind == "update":
                self.items.insert(0, replace(old, update_time=NOON + self.at * SECOND))
        if self.items:
            self.moved.add(self.items[0].id)

    def behind(self, reader: Reader) -> list[str]:
        """What stood still and is not known as it is."""
        return [
            each.id
            for each in self.items + self.pinned
            if each.id not in self.moved
            and (each.id not in reader.known or reader.known[each.id].update_time != each.update_time)
        ]


changes = st.lists(st.tuples(st.sampled_from(["new", "update", "delete"]), st.integers(0, 400)), max_size=5)
gaps = st.dictionaries(st.integers(0, 8), changes, max_size=3)
"""What happens before a page is fetched, by the page's number."""


# ------------------------------------------------------------------------------------------------------------ truth


@example(Account(31, page=10, pinned=4), [], [{3: [("delete", 0)] * 3}], False)
@given(
    st.builds(Account, st.integers(0, 120), page=st.sampled_from([10, 20, 100]), pinned=st.integers(0, 4)),
    changes,
    st.lists(gaps, min_size=1, max_size=4),
    st.booleans(),
)
def test_a_reading_misses_nothing_that_stood_still(
    account: Account,
    between: list[tuple[str, int]],
    readings: list[dict[int, list[tuple[str, int]]]],
    is_sweep: bool,
) -> None:
    """Whatever is added, updated and deleted between its pages, and whether or not it ends on known ground."""
    reader = Reader()
    for happening in readings:
        account.moved.clear()

        def fetch(offset: int, happening: dict[int, list[tuple[str, int]]] = happening) -> ListPage:
            for change in happening.get(reader.pages, []):
                account.change(*change)
            return account.fetch(offset)

        reader.read(fetch, is_sweep=is_sweep)
        assert account.behind(reader) == []
        for change in between:
            account.change(*change)


@pytest.mark.parametrize("number", [0, 1, 9, 10, 11, 97, 100, 197, 200, 300])
def test_a_first_reading_goes_to_the_end(number: int) -> None:
    """Each conversation is met, though pages share a few with those before."""
    account, reader = Account(number, page=100), Reader()
    listing = reader.read(account.fetch)
    assert (listing.end, len(reader.known)) == (End.LIST, number)
    assert reader.pages <= 1 + number // 97


@pytest.mark.parametrize("pinned", [0, 1, 4])
def test_a_reading_of_what_is_known_ends_with_its_first_page(pinned: int) -> None:
    """Nothing has changed: one request says so, and it says nothing of the rest of the list."""
    account, reader = Account(300, page=100, pinned=pinned), Reader()
    reader.read(account.fetch)
    listing = reader.read(account.fetch)
    assert (reader.pages, listing.end) == (1, End.GROUND)


def test_a_sweep_goes_to_the_end_of_what_is_known() -> None:
    """That is how it finds what is there no more."""
    account, reader = Account(300, page=100), Reader()
    reader.read(account.fetch)
    assert reader.read(account.fetch, is_sweep=True).end is End.LIST
    assert reader.pages == 4


def test_old_conversations_pinned_to_the_top_do_not_hide_what_changed() -> None:
    """They are known and old, and yet what stands below them is newer."""
    account, reader = Account(300, page=10, pinned=4), Reader()
    reader.read(account.fetch)
    for index in range(25):
        account.change("update", 299 - index)
    account.moved.clear()
    reader.read(account.fetch)
    assert account.behind(reader) == []
    assert reader.pages < 10


def test_a_page_that_changed_to_its_end_is_followed_by_another() -> None:
    """Known ground is what an earlier reading listed just so; an update of something known is none."""
    account, reader = Account(300, page=100), Reader()
    reader.read(account.fetch)
    for index in range(100):
        account.change("update", 100 + index)
    account.moved.clear()
    reader.read(account.fetch)
    assert (reader.pages, account.behind(reader)) == (2, [])


def test_a_reading_that_broke_off_is_no_ground() -> None:
    """What the next one stops at was met by a reading that came to its end: else what lies between would be lost."""
    account, reader = Account(300, page=100), Reader()
    reader.take(Listing(reader.now), account.fetch(0))
    reader.read(account.fetch)
    assert account.behind(reader) == []


def test_deletions_that_pull_the_list_up_are_noticed() -> None:
    """No item of the page before turns up, so the reading steps back and meets what slipped by."""
    account, reader = Account(300, page=100), Reader()

    def fetch(offset: int) -> ListPage:
        for _ in range(40 if reader.pages == 1 else 0):
            account.change("delete", 0)
        return account.fetch(offset)

    reader.read(fetch)
    account.moved.clear()
    assert account.behind(reader) == []


def test_a_conversation_deleted_between_two_pages_costs_nothing() -> None:
    """The pages overlap by more."""
    account, reader = Account(300, page=100), Reader()

    def fetch(offset: int) -> ListPage:
        account.change("delete", 150) if reader.pages else None
        return account.fetch(offset)

    reader.read(fetch)
    assert reader.pages == 4


# --------------------------------------------------------------------------------------------- servers gone mad


def ever_the_same(offset: int) -> ListPage:
    """A server that ignores the offset."""
    return ListPage(tuple(item(f"c{index}", -index) for index in range(100)), is_last=False)


def empty_but_more(offset: int) -> ListPage:
    """A server that has nothing, and claims more."""
    return ListPage((), is_last=False)


def empty_after_one(offset: int) -> ListPage:
    """A server that loses its list on the way."""
    return empty_but_more(offset) if offset else ever_the_same(offset)


def shuffled(offset: int) -> ListPage:
    """A server without any order, which changes with every request."""
    return ListPage(tuple(item(f"c{(offset * 31 + index * 17) % 500}", index) for index in range(100)), is_last=False)


def one_at_a_time(offset: int) -> ListPage:
    """A server whose pages hold one conversation."""
    return ListPage((item(f"c{offset}", -offset),), is_last=offset == 30)


@pytest.mark.parametrize("fetch", [ever_the_same, empty_but_more, empty_after_one, shuffled, one_at_a_time])
@pytest.mark.parametrize("is_sweep", [False, True], ids=["", "sweep"])
def test_a_list_that_makes_no_sense_is_not_read_for_ever(fetch: Callable[[int], ListPage], *, is_sweep: bool) -> None:
    """It costs a handful of requests."""
    reader = Reader()
    reader.read(fetch, is_sweep=is_sweep)
    assert reader.pages <= 20


@given(st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=1, max_size=5), st.booleans())
def test_every_reading_of_what_comes_round_again_ends(pages: list[list[int]], is_sweep: bool) -> None:
    """Pages of anything in any order, again and again, none of them said to be the last."""
    reader = Reader()

    def fetch(offset: int) -> ListPage:
        names = pages[reader.pages % len(pages)]
        return ListPage(tuple(item(f"c{name}", name) for name in names), is_last=False)

    reader.read(fetch, is_sweep=is_sweep)
    assert reader.pages <= 30


# ---------------------------------------------------------------------------------------------------------- cursors


def test_a_list_that_is_paged_by_cursors_is_read_by_them() -> None:
    """To the page that names none, which ends it."""
    reader, listing = Reader(), Listing(NOON)
    listing = reader.take(listing, ListPage((item("a", 9),), is_last=False, cursor="more"))
    assert (listing.cursor, listing.end, listing.is_at_top) == ("more", None, False)
    listing = reader.take(listing, ListPage((item("b", 8),), is_last=True))
    assert listing.end is End.LIST


def test_cursors_that_lead_round_in_a_circle_end_somewhere() -> None:
    """Pages of nothing new are not followed for ever."""
    reader, listing = Reader(), Listing(NOON)
    while listing.end is None:
        assert reader.pages < 10
        listing = reader.take(listing, ListPage((item("a", 9),), is_last=False, cursor="ab"[reader.pages % 2]))


def test_known_ground_ends_a_list_of_cursors_too() -> None:
    """A project of hundreds is not read again for one new conversation."""
    reader = Reader()
    page = ListPage(tuple(item(f"c{index}", -index) for index in range(50)), is_last=False, cursor="more")
    first = reader.take(Listing(NOON), page)
    second = reader.take(Listing(reader.now, ground=first.top), page)
    assert (first.end, second.end) == (None, End.GROUND)


def test_the_projects_are_read_to_their_end_or_a_limit() -> None:
    """Cursors that go round in a circle lead on no further than fifty pages."""
    listing, pages = Listing(NOON), 0
    while listing.end is None:
        pages += 1
        listing = advance_projects(listing, ProjectPage((Project("g-p-1", "One"),), "again"))
    assert pages == 50
    assert advance_projects(Listing(NOON), ProjectPage((), None)).end is End.LIST


# ------------------------------------------------------------------------------------------------------------ times


def times(items: Sequence[ListedConversation], **before: int | None) -> list[int | None]:
    """When each was updated, in seconds after noon, where the mirror knew these times."""
    known = {name: Before(None if at is None else NOON + at * SECOND, None, NOON) for name, at in before.items()}
    return [None if time is None else (time - NOON) // SECOND for time in update_times(items, before=known)]


def test_what_the_list_says_is_what_counts() -> None:
    """Even where it contradicts its own order."""
    assert times([item("a", 1), item("b", 9)], a=5) == [1, 9]


def test_where_the_list_says_nothing_its_order_does() -> None:
    """Who stands above another was not updated before it."""
    assert times([item("a", None), item("b", None), item("c", None)], a=1, b=9, c=3) == [9, 9, 3]


def test_nobody_was_updated_before_they_were_created() -> None:
    """A conversation that is new here has at least that time."""
    assert times([item("new", None, created=20), item("b", None)], b=9) == [20, 9]


def test_what_nobody_knows_stays_unknown() -> None:
    """At the bottom of a list without times."""
    assert times([item("a", None), item("b", None)]) == [None, None]


@given(st.permutations(range(6)), st.permutations(range(6)))
def test_an_order_without_times_settles(first: list[int], second: list[int]) -> None:
    """Once what looks newer was fetched, the same order makes nothing look newer any more."""
    known: dict[str, Before] = {}
    changed: list[str] = []
    for order in (first, second, second):
        items = [item(f"c{index}", None, created=index) for index in order]
        after = update_times(items, before=known)
        changed = [each.id for each, time in zip(items, after, strict=True) if time != _known(known, each.id)]
        known = {each.id: Before(time, None, NOON) for each, time in zip(items, after, strict=True)}
    assert changed == []


def _known(known: dict[str, Before], name: str) -> int | None:
    return known[name].update_time if name in known else None
