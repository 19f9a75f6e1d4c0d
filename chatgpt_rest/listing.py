# SPDX-License-Identifier: GPL-2.0-or-later
"""How one of upstream's lists is read: page by page, newest update first, down to known ground or to its end. Pure.

A list moves while it is read: what is updated jumps to its top, what is deleted pulls the rest up. So each page begins
with the last items of the one before. Where none of these turns up, something was missed, and the reading steps back. A
reading is rows, not memory: any process goes on where the last one ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from chatgpt_rest.merge import whole_seconds
from chatgpt_rest.model import ListedConversation, ListPage, ProjectPage

PLAIN: Final = "plain"
"""What is neither archived nor in a project."""
ARCHIVED: Final = "archived"
PROJECTS: Final = "projects"
"""The names of projects; each project is a list of its own, called by its id."""

OVERLAP: Final = 3  # items that a page shares with the one before
_GROUND_ITEMS: Final = 5  # that end a page: a single one could stand where it does for being pinned
_MOST_PROJECT_PAGES: Final = 50
_MOST_STUMBLES: Final = 4  # then upstream's order means nothing, and the list is taken for read


@dataclass(frozen=True, slots=True)
class Before:
    """What the mirror knew of a conversation before a page named it. Times in µs."""

    update_time: int | None
    """The latest that upstream gave it, in a list or with its content."""
    listed_at: int | None
    is_deleted: bool = False
    """Deleted here: nothing that upstream says of it matters."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One reading of one list, as far as it has come. It begins with the page at offset 0, or with no cursor."""

    begun_at: int
    is_sweep: bool = False
    """Goes to the end, whatever it meets."""
    ground: int | None = None
    """What was not updated since then was listed by an earlier reading; None where no reading came to an end yet."""
    top: int | None = None
    """The newest update time met so far: the next reading's ground."""
    next_offset: int = 0
    cursor: str | None = None
    stumbles: int = 0
    """Pages that had no link to those before, or nothing new in them."""
    is_over: bool = False
    is_whole: bool = False
    """It went to the end of the list."""

    @property
    def is_at_top(self) -> bool:
        return self.next_offset == 0 and self.cursor is None


def advance(listing: Listing, page: ListPage, *, before: Mapping[str, Before]) -> Listing:
    """The reading after this page, of whose items the mirror knew `before`. Ends within a bounded number of pages
    where the list does.
    """
    times = update_times(page.items, before=before)
    listing = replace(listing, top=max((time for time in (listing.top, *times) if time is not None), default=None))
    met = [item.id in before and (before[item.id].listed_at or 0) >= listing.begun_at for item in page.items]
    is_paged_by_cursor = listing.cursor is not None or page.cursor is not None
    is_linked = listing.is_at_top or is_paged_by_cursor or any(met)
    if not is_linked and listing.stumbles < _MOST_STUMBLES:
        # By half a page: what a server with short pages has shown already would else be read over and over.
        back = max(2 * OVERLAP, len(page.items) // 2) << listing.stumbles
        return replace(listing, next_offset=max(0, listing.next_offset - back), stumbles=listing.stumbles + 1)
    if page.is_last:
        return replace(listing, is_over=True, is_whole=True)
    if not listing.is_at_top and all(met):
        listing = replace(listing, stumbles=listing.stumbles + 1)
    if listing.stumbles >= _MOST_STUMBLES:
        return replace(listing, is_over=True, is_whole=True)
    if not listing.is_sweep and _ends_on_ground(listing, page.items, times, before=before):
        return replace(listing, is_over=True)
    if is_paged_by_cursor:
        return replace(listing, cursor=page.cursor, is_over=page.cursor is None, is_whole=page.cursor is None)
    return replace(listing, next_offset=listing.next_offset + max(1, len(page.items) - OVERLAP))


def skip(listing: Listing, *, items: int) -> Listing:
    """The reading without its next page, of so many `items`, which upstream cannot show."""
    stumbles = listing.stumbles + 1
    is_over = stumbles >= _MOST_STUMBLES
    next_offset = listing.next_offset + items - OVERLAP
    return replace(listing, next_offset=next_offset, stumbles=stumbles, is_over=is_over, is_whole=is_over)


def advance_projects(listing: Listing, page: ProjectPage) -> Listing:
    """The same for the list of projects, which is always read to its end."""
    pages = listing.stumbles + 1  # cursors that go round in a circle would lead on for ever
    is_over = page.cursor is None or pages == _MOST_PROJECT_PAGES
    return replace(listing, cursor=page.cursor, stumbles=pages, is_over=is_over, is_whole=is_over)


def update_times(items: Sequence[ListedConversation], *, before: Mapping[str, Before]) -> list[int | None]:
    """When each item was updated, at the earliest: what the list says or, where it says nothing, what follows from its
    order. Who stands above another was not updated before it, and nobody before they were created.
    """
    times: list[int | None] = []
    below: int | None = None
    for item in reversed(items):
        time = item.update_time
        if time is None:
            known = before[item.id].update_time if item.id in before else None
            time = max((each for each in (known, item.create_time, below) if each is not None), default=None)
        times.append(time)
        below = time if below is None else max(below, time or 0)
    return times[::-1]


def _ends_on_ground(
    listing: Listing,
    items: Sequence[ListedConversation],
    times: Sequence[int | None],
    *,
    before: Mapping[str, Before],
) -> bool:
    """Whether the page ends with conversations that an earlier reading has listed as they are now."""
    if listing.ground is None or not items:
        return False
    ground = whole_seconds(listing.ground)
    return all(
        item.id in before
        and (
            before[item.id].is_deleted or whole_seconds(time) <= min(ground, whole_seconds(before[item.id].update_time))
        )
        for item, time in list(zip(items, times, strict=True))[-_GROUND_ITEMS:]
    )
