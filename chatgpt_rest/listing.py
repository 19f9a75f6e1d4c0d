# SPDX-License-Identifier: GPL-2.0-or-later
"""How one of upstream's lists is read: page by page, newest update first, down to known ground or to its end. Pure.

A list moves while it is read: what is updated jumps to its top, what is deleted pulls the rest up. So each page begins
with the last items of the one before. Where none of these turns up, something was missed, and the reading steps back. A
reading is rows, not memory: any process goes on where the last one ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
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
_MOST_STUMBLES: Final = 4  # then the reading goes on as it can, and is known to have missed something


@dataclass(frozen=True, slots=True)
class Before:
    """What the mirror knew of a conversation before a page named it. Times in µs."""

    update_time: int | None
    """The latest that upstream gave it, in a list or with its content."""
    said: int | None
    """What a list said last, where one has named it; else what upstream gave it with its content. Some servers' lists
    run hours behind their details: what a list says is held against what it said before.
    """
    listed_at: int | None
    is_deleted: bool = False
    """Deleted here: nothing that upstream says of it matters."""


class End(Enum):
    """How a reading ended."""

    GROUND = "ground"
    """It came to what an earlier one had listed."""
    LIST = "list"
    """It met everything that there is."""
    LOST = "lost"
    """It came to the end of the list, or would never have, and something in between was missed."""


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
    """In items; of the list of projects, whose cursors alone lead on, in pages."""
    cursor: str | None = None
    stumbles: int = 0
    """Pages that had no link to those before, or nothing new in them. With four the reading is lost: it goes on, but
    links are no longer looked for.
    """
    end: End | None = None

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
    is_lost = listing.stumbles >= _MOST_STUMBLES
    is_barren = not listing.is_at_top and all(met)
    if page.is_last or (is_paged_by_cursor and page.cursor is None):
        return replace(listing, end=End.LOST if is_lost else End.LIST)
    if is_barren and is_lost:
        return replace(listing, end=End.LOST)
    if not listing.is_sweep and _ends_on_ground(listing, page.items, times, before=before):
        return replace(listing, end=End.GROUND)
    listing = replace(listing, stumbles=listing.stumbles + is_barren)
    if is_paged_by_cursor:
        return replace(listing, cursor=page.cursor)
    return replace(listing, next_offset=listing.next_offset + max(1, len(page.items) - OVERLAP))


def skip(listing: Listing, *, items: int) -> Listing:
    """The reading without its next page, of so many `items`, which upstream cannot show. It goes on behind the gap, and
    does not count as one that met everything.
    """
    return replace(listing, next_offset=listing.next_offset + items - OVERLAP, stumbles=_MOST_STUMBLES)


def advance_projects(listing: Listing, page: ProjectPage) -> Listing:
    """The same for the list of projects, which is always read to its end."""
    pages = listing.next_offset + 1
    is_over = page.cursor is None or pages == _MOST_PROJECT_PAGES  # cursors can go round in a circle
    return replace(listing, cursor=page.cursor, next_offset=pages, end=End.LIST if is_over else None)


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
        and (before[item.id].is_deleted or whole_seconds(time) <= min(ground, whole_seconds(before[item.id].said)))
        for item, time in list(zip(items, times, strict=True))[-_GROUND_ITEMS:]
    )
