# SPDX-License-Identifier: GPL-2.0-or-later
"""One account's conversations: reading them as rendered answers, and taking in what upstream shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Literal

import aiosqlite

from chatgpt_rest import chatgpt_json
from chatgpt_rest.clock import Clock
from chatgpt_rest.errors import NotFetched, NotFound
from chatgpt_rest.merge import Source, merge, whole_seconds
from chatgpt_rest.mirror import trees
from chatgpt_rest.mirror.database import Database
from chatgpt_rest.mirror.deletions import bury
from chatgpt_rest.mirror.drafts import adopt, deletion_of, drafts_of, find_drafts
from chatgpt_rest.mirror.rendered import Rendered, RenderedCache, changing
from chatgpt_rest.model import Conversation

Choice = Literal["none", "only", "all"]
"""Whether a list holds what it usually leaves out."""

_EXPORT_PAGE: Final = 1000  # rows of a few words each

# What a list holds, said once: its rows, in either order, and their number each begin with it. With the order as a
# parameter of one text SQLite could not go by the index, and a list of thousands would take a quarter longer.
_MATCHING: Final = """
with matching as (
    select id, title, create_time, update_time, is_archived, is_starred, project, deleted_at, is_deleted_upstream
    from conversation
    where account = :account
      and (deleted_at is null or purged_at is null)
      and (:archived = 'all' or is_archived = (:archived = 'only'))
      and (:deleted = 'all' or (deleted_at is not null or is_deleted_upstream) = (:deleted = 'only'))
      and (:project is null or project = :project)
)
"""
_BY_UPDATE: Final = """
select id, title, create_time, update_time, is_archived, is_starred, project, deleted_at, is_deleted_upstream
from matching order by coalesce(update_time, create_time) desc, id limit :limit offset :offset
"""
_BY_CREATION: Final = """
select id, title, create_time, update_time, is_archived, is_starred, project, deleted_at, is_deleted_upstream
from matching order by create_time desc, id limit :limit offset :offset
"""
_TOTAL: Final = """
select count(*) from matching
"""


class Standing(Enum):
    """What the mirror has of a conversation."""

    UNKNOWN = "unknown"
    LISTED = "listed"
    """Its row, but not its content."""
    HERE = "here"
    LOCAL = "local"
    """It lives here only: upstream knows nothing of it under this id."""
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Which conversations a list shows, newest first. `limit` None means all of them."""

    limit: int | None = None
    offset: int = 0
    order: Literal["updated", "created"] = "updated"
    archived: Choice = "none"
    deleted: Choice = "none"
    project: str | None = None


class Conversations:
    """The conversations of one account. Every query binds it: none can see another's."""

    def __init__(
        self, database: Database, cache: RenderedCache, clock: Clock, account: str, *, deletions: Counter[str]
    ) -> None:
        self.account = account
        self._deletions = deletions
        self._database = database
        self._cache = cache
        self._clock = clock

    # ---------------------------------------------------------------------------------------------------- reading

    async def list_json(self, query: ListQuery, *, even_if_never_read: bool = False) -> Rendered:
        """The list as the seed documents it; `total` counts every row that the query matches.

        Raises NotFetched where upstream's list was never read, unless what is here will do.
        """
        key = (self.account, "list", repr((query, even_if_never_read)))
        if (cached := self._cache.get(*key)) is not None:
            return cached
        generation = self._cache.generation(self.account)
        async with self._database.read() as connection:
            listed_at, is_whole = await self._list_state(connection)
            if listed_at is None and not even_if_never_read:
                raise NotFetched("list")
            rows, total = await self._list_rows(connection, query)
        if query.deleted == "none":
            entries = [chatgpt_json.list_entry(trees.listed(row)) for row in rows]
        else:
            entries = [chatgpt_json.list_entry(trees.listed(row), deletion=(row[7], bool(row[8]))) for row in rows]
        body = chatgpt_json.dump(entries)
        rendered = Rendered(body, total=total, is_whole=is_whole)
        return self._cache.put(rendered, *key, generation=generation)

    async def entry_json(self, conversation_id: str) -> Rendered:
        """One row of the list. Raises NotFound."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select id, title, create_time, update_time, is_archived, is_starred, project
                from conversation where account = ? and id = ? and deleted_at is null
                """,
                (self.account, conversation_id),
            )
        for row in rows:
            return Rendered(chatgpt_json.dump(chatgpt_json.list_entry(trees.listed(row))))
        raise NotFound("conversation")

    async def messages_json(self, conversation_id: str) -> Rendered:
        """The visible messages of the current branch, oldest first. Raises NotFetched where its content is not here."""
        return await self._rendered("messages", conversation_id, _messages)

    async def whole_json(self, conversation_id: str) -> Rendered:
        """The conversation in ChatGPT's own shape. Raises NotFetched where its content is not here."""
        return await self._rendered("whole", conversation_id, chatgpt_json.whole)

    async def readable(self, conversation_id: str) -> Conversation:
        """The conversation with its whole tree. Raises NotFound where it is deleted, NotFetched where its content is
        not here.
        """
        async with self._database.read() as connection:
            tree, standing = await self._look_up(connection, conversation_id)
        is_lost = standing is Standing.LISTED and tree is not None and tree.is_deleted_upstream
        if standing is Standing.DELETED or is_lost:
            raise NotFound("conversation")
        if tree is None or standing in {Standing.UNKNOWN, Standing.LISTED}:
            raise NotFetched("conversation")
        return tree

    async def get(self, conversation_id: str, *, even_if_deleted: bool = False) -> Conversation:
        """The conversation with its tree, as far as it is here. Raises NotFound where it is unknown or deleted."""
        async with self._database.read() as connection:
            standing = await self._standing(connection, conversation_id)
            tree = await trees.load(connection, self.account, conversation_id)
        if tree is None or (standing is Standing.DELETED and not even_if_deleted):
            raise NotFound("conversation")
        return tree

    async def standing(self, conversation_id: str) -> Standing:
        """What the mirror has of this conversation."""
        async with self._database.read() as connection:
            return await self._standing(connection, conversation_id)

    async def needs_no_upstream(self, conversation_id: str) -> bool:
        """Whether deleting this conversation is a matter of the mirror alone."""
        return await self.standing(conversation_id) in {Standing.LOCAL, Standing.DELETED}

    async def was_listed(self) -> bool:
        """Whether upstream's list was ever read."""
        async with self._database.read() as connection:
            listed_at, _ = await self._list_state(connection)
        return listed_at is not None

    async def listed_update_time(self, conversation_id: str) -> int | None:
        """What upstream's list said last, if it ever named this conversation."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                "select listed_update_time from conversation where account = ? and id = ?",
                (self.account, conversation_id),
            )
        return next((row[0] for row in rows), None)

    async def pending_titles(self) -> list[tuple[str, str]]:
        """`(conversation, title)` of what was named here and not pushed upstream yet."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select id, title from conversation
                where account = ? and is_title_pending = 1 and is_local = 0 and deleted_at is null
                order by update_time
                """,
                (self.account,),
            )
        return [(row[0], row[1]) for row in rows]

    async def exportable(self, *, since: int | None = None) -> AsyncIterator[str]:
        """The ids of all conversations whose content is here, archived ones and those gone upstream too, in an order
        that no change moves them in. With `since` those updated no earlier (µs).
        """
        last = ""
        while True:
            async with self._database.read() as connection:
                rows = await connection.execute_fetchall(
                    """
                    select id from conversation
                    where account = :account and id > :last and deleted_at is null and (has_content or is_local)
                      and (:since is null or coalesce(update_time, create_time) >= :since)
                    order by id limit :limit
                    """,
                    {"account": self.account, "last": last, "since": since, "limit": _EXPORT_PAGE},
                )
            ids = [str(row[0]) for row in rows]
            for each in ids:
                yield each
            if len(ids) < _EXPORT_PAGE:
                return
            last = ids[-1]

    async def count_exportable(self, *, since: int | None = None) -> tuple[int, int]:
        """How many `exportable` comes to, and how many it leaves out as their content has not come yet."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select count(*) filter (where has_content or is_local),
                       count(*) filter (where not (has_content or is_local) and not is_deleted_upstream)
                from conversation
                where account = :account and deleted_at is null
                  and (:since is null or coalesce(update_time, create_time) >= :since)
                """,
                {"account": self.account, "since": since},
            )
        return next((int(row[0]), int(row[1])) for row in rows)

    # ---------------------------------------------------------------------------------------------------- writing

    @property
    def deletions(self) -> int:
        """How often everything was deleted: what was asked for before the last time may no longer be taken in."""
        return self._deletions[self.account]

    async def save_whole(
        self, theirs: Conversation, *, since: int | None = None, listed_update_time: int | None = None
    ) -> None:
        """Take in a conversation as upstream shows it now, asked for when `deletions` was `since` and the list had said
        `listed_update_time`. One that was deleted here stays so.
        """
        if whole_seconds(listed_update_time) > whole_seconds(theirs.update_time):
            # It was shown after the list was, whatever upstream's two clocks or roundings make of that.
            theirs = replace(theirs, update_time=listed_update_time)
        async with self._changing(theirs.id) as connection:
            before, standing = await self._look_up(connection, theirs.id)
            if standing is Standing.DELETED or since not in {None, self.deletions}:
                return
            found = drafts_of(theirs.id, theirs.nodes, among=await find_drafts(connection, self.account))
            if (deleted_at := deletion_of(found)) is not None:
                await bury(connection, self.account, theirs.id, at=deleted_at)
                return
            mine = await adopt(connection, self.account, before, found, conversation_id=theirs.id)
            merged = merge(mine, theirs, source=Source.UPSTREAM)
            await trees.store(connection, self.account, before, merged, has_content=True)
            await connection.execute(
                """
                update conversation
                set is_local = 0, fetched_update_time = ?, met_update_time = ?, fetched_at = ?, is_slim = 0,
                    failures = 0, failure = null
                where account = ? and id = ?
                """,
                (theirs.update_time or 0, listed_update_time, self._clock.now(), self.account, theirs.id),
            )

    async def edit(
        self,
        conversation_id: str,
        *,
        title: str | None = None,
        is_archived: bool | None = None,
        is_pending: bool = False,
    ) -> None:
        """Set what was edited here. With `is_pending` the title has not reached upstream yet."""
        async with self._changing(conversation_id) as connection:
            await connection.execute(
                """
                update conversation set
                    title = coalesce(:title, title),
                    is_title_pending = iif(:title is null, is_title_pending, :is_pending),
                    is_archived = coalesce(:is_archived, is_archived)
                where account = :account and id = :id
                """,
                {
                    "account": self.account,
                    "id": conversation_id,
                    "title": chatgpt_json.printable(title),
                    "is_pending": is_pending,
                    "is_archived": is_archived,
                },
            )

    async def settle_title(self, conversation_id: str, title: str) -> None:
        """Upstream has this title now, or never will; unless another one was set meanwhile, nothing is left to push."""
        async with self._changing(conversation_id) as connection:
            await connection.execute(
                "update conversation set is_title_pending = 0 where account = ? and id = ? and title = ?",
                (self.account, conversation_id, chatgpt_json.printable(title)),
            )

    # ---------------------------------------------------------------------------------------------------- helpers

    async def _rendered(self, view: str, conversation_id: str, render: Callable[[Conversation], bytes]) -> Rendered:
        key = (self.account, view, conversation_id)
        if (cached := self._cache.get(*key)) is not None:
            return cached
        generation = self._cache.generation(self.account)
        tree = await self.readable(conversation_id)
        return self._cache.put(Rendered(render(tree)), *key, generation=generation)

    async def _look_up(
        self, connection: aiosqlite.Connection, conversation_id: str
    ) -> tuple[Conversation | None, Standing]:
        standing = await self._standing(connection, conversation_id)
        if standing in {Standing.UNKNOWN, Standing.DELETED}:
            return None, standing
        return await trees.load(connection, self.account, conversation_id), standing

    async def _standing(self, connection: aiosqlite.Connection, conversation_id: str) -> Standing:
        rows = await connection.execute_fetchall(
            "select deleted_at is not null, is_local, has_content from conversation where account = ? and id = ?",
            (self.account, conversation_id),
        )
        for is_deleted, is_local, has_content in rows:
            if is_deleted:
                return Standing.DELETED
            if is_local:
                return Standing.LOCAL
            return Standing.HERE if has_content else Standing.LISTED
        return Standing.UNKNOWN

    async def _list_rows(self, connection: aiosqlite.Connection, query: ListQuery) -> tuple[list[aiosqlite.Row], int]:
        values = {
            "account": self.account,
            "archived": query.archived,
            "deleted": query.deleted,
            "project": query.project,
            "limit": -1 if query.limit is None else query.limit,
            "offset": query.offset,
        }
        select = _BY_CREATION if query.order == "created" else _BY_UPDATE
        rows = list(await connection.execute_fetchall(_MATCHING + select, values))
        if query.limit is None and not query.offset:
            return rows, len(rows)
        counts = await connection.execute_fetchall(_MATCHING + _TOTAL, values)
        return rows, next(int(count[0]) for count in counts)

    async def _list_state(self, connection: aiosqlite.Connection) -> tuple[int | None, bool]:
        """When upstream's list was last read from its top, if ever, and whether it was ever read to its end."""
        rows = await connection.execute_fetchall(
            "select listed_at, is_list_whole from account where account = ?", (self.account,)
        )
        return next(((row[0], bool(row[1])) for row in rows), (None, False))

    def _changing(self, *conversations: str) -> AbstractAsyncContextManager[aiosqlite.Connection]:
        return changing(self._database, self._cache, self.account, *conversations)


def _messages(tree: Conversation) -> bytes:
    return chatgpt_json.dump(chatgpt_json.messages(tree))
