# SPDX-License-Identifier: GPL-2.0-or-later
"""What of one account is still to be fetched, in which order, and what stands in the way. All of it comes from rows, so
that it survives the end of any process; what makes a conversation stale is a column of the schema.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import msgspec

from chatgpt_rest.clock import Clock
from chatgpt_rest.mirror.database import Database
from chatgpt_rest.mirror.rendered import RenderedCache, changing


@dataclass(frozen=True, slots=True)
class Counts:
    """How the conversations of an account stand. What was deleted here is in none of these."""

    known: int
    current: int
    stale: int
    missing_upstream: int
    set_aside: int


@dataclass(frozen=True, slots=True)
class StaleConversation:
    """A conversation to be fetched. `is_new` says that nothing of its content is here yet."""

    id: str
    title: str | None
    update_time: int | None
    is_new: bool


@dataclass(frozen=True, slots=True)
class SetAside:
    """A conversation that could not be fetched three times; `reason` is the last error's code."""

    id: str
    title: str | None
    reason: str


class Backlog:
    """The conversations of one account that upstream shows otherwise than they are here."""

    def __init__(self, database: Database, cache: RenderedCache, clock: Clock, account: str) -> None:
        self.account = account
        self._database = database
        self._cache = cache
        self._clock = clock

    async def counts(self) -> Counts:
        """How many of each kind there are."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select count(*), coalesce(sum(is_stale), 0), coalesce(sum(is_deleted_upstream), 0),
                       coalesce(sum(failures >= 3 and is_deleted_upstream = 0), 0)
                from conversation where account = ? and deleted_at is null
                """,
                (self.account,),
            )
        known, stale, missing, set_aside = next(iter(rows))
        return Counts(known, known - stale - missing - set_aside, stale, missing, set_aside)

    async def stale(self, *, limit: int, besides: Collection[str] = (), among: Collection[str] = ()) -> list[str]:
        """What is to be fetched, what failed less before what failed more, and then newest update first; only `among`
        these where any are named. A conversation in which an answer is being written is left alone until that is here.
        """
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select id from conversation
                where account = :account and is_stale = 1
                  and id not in (select value from json_each(:besides))
                  and (:is_any or id in (select value from json_each(:among)))
                  and not exists (
                      select 1 from ask
                      where ask.account = :account and ask.conversation = conversation.id and ask.state = 'asked'
                  )
                order by failures, coalesce(listed_update_time, update_time, create_time) desc limit :limit
                """,
                {
                    "account": self.account,
                    "besides": _json(besides),
                    "is_any": not among,
                    "among": _json(among),
                    "limit": limit,
                },
            )
        return [row[0] for row in rows]

    async def outlook(self) -> list[StaleConversation]:
        """All that is to be fetched, in that order."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select id, title, coalesce(listed_update_time, update_time, create_time), has_content
                from conversation where account = ? and is_stale = 1
                order by failures, coalesce(listed_update_time, update_time, create_time) desc
                """,
                (self.account,),
            )
        return [StaleConversation(row[0], row[1], row[2], not row[3]) for row in rows]

    async def unseen(
        self,
        *,
        since: int,
        limit: int,
        besides: Collection[str] = (),
        is_archive_listed: bool = True,
        are_projects_listed: bool = True,
    ) -> list[str]:
        """Conversations that no list and no fetch has shown `since` a full sweep began: upstream may have them no more.
        Newest first; a negative `limit` means all. Where upstream has no list of the archive or of projects, nothing
        follows from what it does not show there.
        """
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select id from conversation
                where account = :account and deleted_at is null and is_local = 0 and is_deleted_upstream = 0
                  and failures < 3 and coalesce(listed_at, 0) < :since and coalesce(fetched_at, 0) < :since
                  and (:is_archive_listed or is_archived = 0)
                  and (:are_projects_listed or project is null or project not like 'g-p-%')
                  and id not in (select value from json_each(:besides))
                order by coalesce(update_time, create_time) desc limit :limit
                """,
                {
                    "account": self.account,
                    "since": since,
                    "besides": _json(besides),
                    "is_archive_listed": is_archive_listed,
                    "are_projects_listed": are_projects_listed,
                    "limit": limit,
                },
            )
        return [row[0] for row in rows]

    async def set_aside(self, *, limit: int) -> list[SetAside]:
        """What was given up for now, newest first: until upstream says that it changed, or somebody asks for it."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select id, title, failure from conversation
                where account = ? and deleted_at is null and is_deleted_upstream = 0 and failures >= 3
                order by coalesce(update_time, create_time) desc limit ?
                """,
                (self.account, limit),
            )
        return [SetAside(*row) for row in rows]

    async def failed(self, conversation_id: str, reason: str) -> bool:
        """It could not be fetched, while others could. Answers whether that sets it aside."""
        async with self._database.write() as connection:
            rows = await connection.execute_fetchall(
                """
                update conversation set failures = failures + 1, failure = ? where account = ? and id = ?
                returning failures = 3
                """,
                (reason, self.account, conversation_id),
            )
        return any(row[0] for row in rows)

    async def gone(self, conversation_id: str, reason: str) -> None:
        """Upstream says of this very conversation that it is deleted. It stays here, marked. Should a list go on naming
        it, it is asked for three times in all.
        """
        async with changing(self._database, self._cache, self.account, conversation_id) as connection:
            await connection.execute(
                """
                update conversation set is_deleted_upstream = 1, failures = failures + 1, failure = ?, fetched_at = ?
                where account = ? and id = ? and is_local = 0
                """,
                (reason, self._clock.now(), self.account, conversation_id),
            )

    async def try_again(self) -> None:
        """Give everything that was set aside another chance."""
        async with self._database.write() as connection:
            await connection.execute(
                "update conversation set failures = 0 where account = ? and failures > 0", (self.account,)
            )


def _json(ids: Collection[str]) -> str:
    return msgspec.json.encode(list(ids)).decode()
