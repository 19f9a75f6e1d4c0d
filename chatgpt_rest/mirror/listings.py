# SPDX-License-Identifier: GPL-2.0-or-later
"""How far upstream's lists of one account have been read, and what they say of its conversations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import aiosqlite
import msgspec

from chatgpt_rest import chatgpt_json
from chatgpt_rest.clock import Clock
from chatgpt_rest.listing import (
    ARCHIVED,
    PLAIN,
    PROJECTS,
    Before,
    End,
    Listing,
    advance,
    advance_projects,
    skip,
    update_times,
)
from chatgpt_rest.merge import merge_listed, whole_seconds
from chatgpt_rest.mirror import trees
from chatgpt_rest.mirror.database import Database
from chatgpt_rest.mirror.rendered import RenderedCache, changing
from chatgpt_rest.model import ListedConversation, ListPage, ProjectPage


@dataclass(frozen=True, slots=True)
class KnownList:
    """One of upstream's lists. `name` is `plain`, `archived`, `projects` or a project's id."""

    name: str
    read_at: int | None = None
    """When the last reading that came to an end began."""
    swept_at: int | None = None
    """When the last one began that went through all of it."""
    ground: int | None = None
    absent_until: int | None = None
    """Upstream has no such list, and is not asked for it before."""
    listing: Listing | None = None
    """The reading under way."""


class Listings:
    """The lists of one account."""

    def __init__(
        self, database: Database, cache: RenderedCache, clock: Clock, account: str, *, deletions: Counter[str]
    ) -> None:
        self.account = account
        self._database = database
        self._cache = cache
        self._clock = clock
        self._deletions = deletions

    async def all(self) -> list[KnownList]:
        """Every list, those that always are among them: plain, archived, projects, then each project."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select list, read_at, swept_at, ground, absent_until, begun_at, is_sweep, top, next_offset, cursor,
                       stumbles
                from listing where account = ? order by list
                """,
                (self.account,),
            )
        known = {row[0]: _known(row) for row in rows}
        always = [known.pop(name, KnownList(name)) for name in (PLAIN, ARCHIVED, PROJECTS)]
        return always + list(known.values())

    async def take(
        self, page: ListPage, *, of: str = PLAIN, listing: Listing | None = None, since: int
    ) -> Listing | None:
        """Take in a page of the list `of`, which went on from `listing` (None: from the top, by whoever asked), asked
        for when `Conversations.deletions` was `since`. What was deleted here stays deleted, whatever the list says.

        Answers how far the reading has come; None where this page did not move it on, as others have overtaken it.
        """
        async with changing(self._database, self._cache, self.account) as connection:
            if since != self._deletions[self.account]:
                return None
            before = await self._before(connection, page.items)
            await self._save_items(connection, page.items, before)
            known = await self._known(connection, of)
            if listing is None:
                listing = Listing(self._clock.now(), ground=known.ground)
            if known.listing not in {None, listing} or (known.listing is None and not listing.is_at_top):
                return None
            after = advance(listing, page, before=before)
            await self._put(connection, known, after)
            if of == PLAIN:
                await connection.execute(
                    """
                    update account set listed_at = iif(:is_at_top, :now, listed_at),
                                       is_list_whole = is_list_whole or :is_whole
                    where account = :account
                    """,
                    {
                        "account": self.account,
                        "is_at_top": listing.is_at_top,
                        "now": self._clock.now(),
                        "is_whole": after.end is End.LIST,
                    },
                )
            return after

    async def take_projects(self, page: ProjectPage, *, listing: Listing) -> None:
        """Take in a page of the projects' names; each is a list of its own from now on."""
        async with self._database.write() as connection:
            await connection.executemany(
                """
                insert into listing (account, list, name) values (?, ?, ?)
                on conflict (account, list) do update set name = excluded.name
                """,
                [(self.account, project.id, chatgpt_json.printable(project.name)) for project in page.projects],
            )
            known = await self._known(connection, PROJECTS)
            await self._put(connection, known, advance_projects(listing, page))

    async def is_plain(self, page: ListPage) -> bool:
        """Whether this page, asked for as one of the archive, is one of the plain list: by what it says itself or,
        where it does not tell what is archived, by whether most of it stood in the plain list when that was last read.
        """
        if page.tells_archived or not all(item.is_archived for item in page.items):
            return not all(item.is_archived for item in page.items)
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select count(*)
                from conversation join listing on listing.account = conversation.account and listing.list = ?
                where conversation.account = ? and conversation.id in (select value from json_each(?))
                  and is_archived = 0 and listed_at >= read_at
                """,
                (PLAIN, self.account, _ids(page.items)),
            )
        return any(row[0] * 2 > len(page.items) for row in rows)

    async def skip(self, name: str, *, listing: Listing, items: int) -> None:
        """Leave out the page, of so many `items`, that this reading comes to next."""
        async with self._database.write() as connection:
            known = await self._known(connection, name)
            if known.listing == listing:
                await self._put(connection, known, skip(listing, items=items))

    async def mark_absent(self, name: str, *, until: int) -> None:
        """Upstream has no such list; whatever reading of it was under way is over."""
        async with self._database.write() as connection:
            await connection.execute(
                """
                insert into listing (account, list, absent_until) values (:account, :list, :until)
                on conflict (account, list) do update set absent_until = :until, begun_at = null
                """,
                {"account": self.account, "list": name, "until": until},
            )

    async def forget(self, project: str) -> None:
        """Upstream has no such project any more. Its conversations stay."""
        async with self._database.write() as connection:
            await connection.execute("delete from listing where account = ? and list = ?", (self.account, project))

    # ---------------------------------------------------------------------------------------------------- helpers

    async def _known(self, connection: aiosqlite.Connection, name: str) -> KnownList:
        rows = await connection.execute_fetchall(
            """
            select list, read_at, swept_at, ground, absent_until, begun_at, is_sweep, top, next_offset, cursor, stumbles
            from listing where account = ? and list = ?
            """,
            (self.account, name),
        )
        return next((_known(row) for row in rows), KnownList(name))

    async def _put(self, connection: aiosqlite.Connection, known: KnownList, after: Listing) -> None:
        await connection.execute(
            """
            insert into listing (
                account, list, read_at, swept_at, ground, begun_at, is_sweep, top, next_offset, cursor, stumbles
            ) values (
                :account, :list, :read_at, :swept_at, :ground, :begun_at, :is_sweep, :top, :next_offset, :cursor,
                :stumbles
            )
            on conflict (account, list) do update set
                read_at = :read_at, swept_at = :swept_at, ground = :ground, absent_until = null, begun_at = :begun_at,
                is_sweep = :is_sweep, top = :top, next_offset = :next_offset, cursor = :cursor, stumbles = :stumbles
            """,
            {
                "account": self.account,
                "list": known.name,
                "read_at": known.read_at if after.end is None else after.begun_at,
                "swept_at": after.begun_at if after.end is End.LIST else known.swept_at,
                "ground": known.ground if after.end is None or after.top is None else after.top,
                "begun_at": after.begun_at if after.end is None else None,
                "is_sweep": after.is_sweep,
                "top": after.top,
                "next_offset": after.next_offset,
                "cursor": after.cursor,
                "stumbles": after.stumbles,
            },
        )

    async def _before(
        self, connection: aiosqlite.Connection, items: Sequence[ListedConversation]
    ) -> Mapping[str, Before]:
        rows = await connection.execute_fetchall(
            """
            select id, iif(
                       listed_update_time is null and fetched_update_time is null,
                       null,
                       max(coalesce(listed_update_time, 0), coalesce(fetched_update_time, 0))
                   ),
                   coalesce(listed_update_time, fetched_update_time), listed_at, deleted_at is not null
            from conversation where account = ? and id in (select value from json_each(?))
            """,
            (self.account, _ids(items)),
        )
        return {row[0]: Before(row[1], row[2], row[3], bool(row[4])) for row in rows}

    async def _save_items(
        self, connection: aiosqlite.Connection, items: Sequence[ListedConversation], before: Mapping[str, Before]
    ) -> None:
        """Write what the list says, the newer where one stands in it twice. That it names what had failed or was gone
        gives that another chance, if it was updated since.
        """
        rows = await connection.execute_fetchall(
            """
            select id, title, create_time, update_time, is_archived, is_starred, project
            from conversation where account = ? and id in (select value from json_each(?))
            """,
            (self.account, _ids(items)),
        )
        mine = {row[0]: trees.listed(row) for row in rows}
        now = self._clock.now()
        await connection.execute(
            """
            update conversation set listed_at = ?
            where account = ? and deleted_at is not null and id in (select value from json_each(?))
            """,
            (now, self.account, _ids(items)),
        )
        await connection.executemany(
            """
            insert into conversation (
                account, id, title, create_time, update_time, is_archived, is_starred, project, listed_update_time,
                listed_at
            ) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            on conflict (account, id) do update set
                title = iif(is_title_pending, title, excluded.title), create_time = excluded.create_time,
                update_time = excluded.update_time, is_archived = excluded.is_archived,
                is_starred = excluded.is_starred, project = excluded.project, is_deleted_upstream = 0,
                failures = iif(
                    coalesce(excluded.listed_update_time, 0) / 1000000 > coalesce(listed_update_time, 0) / 1000000,
                    0,
                    failures
                ),
                listed_update_time = nullif(
                    max(coalesce(excluded.listed_update_time, -1), coalesce(listed_update_time, -1)), -1
                ),
                listed_at = excluded.listed_at
            where deleted_at is null
            """,
            [
                (
                    self.account,
                    theirs.id,
                    chatgpt_json.printable(merged.title),
                    merged.create_time,
                    merged.update_time,
                    merged.is_archived,
                    merged.is_starred,
                    chatgpt_json.printable(merged.project),
                    theirs.update_time if theirs.update_time is not None else _proven(time, before.get(theirs.id)),
                    now,
                )
                for theirs, time in zip(items, update_times(items, before=before), strict=True)
                for merged in (merge_listed(mine.get(theirs.id), theirs),)
            ],
        )


def _proven(time: int | None, before: Before | None) -> int | None:
    """An update that a list shows by its order alone, where that proves one."""
    return time if before is not None and whole_seconds(time) > whole_seconds(before.update_time) else None


def _ids(items: Iterable[ListedConversation]) -> str:
    return msgspec.json.encode([item.id for item in items]).decode()


def _known(row: aiosqlite.Row) -> KnownList:
    name, read_at, swept_at, ground, absent_until, begun_at, is_sweep, top, next_offset, cursor, stumbles = row
    listing = Listing(begun_at, bool(is_sweep), ground, top, next_offset, cursor, stumbles) if begun_at else None
    return KnownList(name, read_at, swept_at, ground, absent_until, listing)
