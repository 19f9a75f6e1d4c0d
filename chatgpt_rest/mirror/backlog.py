# SPDX-License-Identifier: GPL-2.0-or-later
"""What of one account is still to be fetched, in which order, and what stands in the way. All of it comes from rows, so
that it survives the end of any process; what makes a conversation stale is a column of the schema.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import msgspec

from chatgpt_rest.clock import Clock
from chatgpt_rest.listing import PLAIN, PROJECTS
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
    slim: int = 0
    """Current, but of some messages upstream has more than the export told that brought them."""


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
                       coalesce(sum(failures >= 3 and is_deleted_upstream = 0), 0),
                       count(*) filter (
                           where is_slim = 1 and is_stale = 0 and is_local = 0 and is_deleted_upstream = 0
                             and failures < 3
                       )
                from conversation where account = ? and deleted_at is null
                """,
                (self.account,),
            )
        known, stale, missing, set_aside, slim = next(iter(rows))
        return Counts(known, known - stale - missing - set_aside, stale, missing, set_aside, slim)

    async def stale(self, *, limit: int, besides: Collection[str] = ()) -> list[str]:
        """What is to be fetched, what failed less before what failed more, and then newest update first. A conversation
        in which an answer is being written is left alone until that is here.
        """
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select id from conversation
                where account = :account and is_stale = 1
                  and id not in (select value from json_each(:besides))
                  and not exists (
                      select 1 from ask
                      where ask.account = :account and ask.conversation = conversation.id and ask.state = 'asked'
                  )
                order by failures, coalesce(listed_update_time, update_time, create_time) desc limit :limit
                """,
                {"account": self.account, "besides": _json(besides), "limit": limit},
            )
        return [row[0] for row in rows]

    async def slim(self, *, limit: int, besides: Collection[str] = ()) -> list[str]:
        """What is current, but came slim, in the order of `stale`: worth a request where nothing else is."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select id from conversation
                where account = :account and is_slim = 1 and is_stale = 0 and deleted_at is null and is_local = 0
                  and is_deleted_upstream = 0 and failures < 3
                  and id not in (select value from json_each(:besides))
                  and not exists (
                      select 1 from ask
                      where ask.account = :account and ask.conversation = conversation.id and ask.state = 'asked'
                  )
                order by failures, coalesce(update_time, create_time) desc limit :limit
                """,
                {"account": self.account, "besides": _json(besides), "limit": limit},
            )
        return [row[0] for row in rows]

    async def stale_among(self, ids: Collection[str], *, besides: Collection[str] = ()) -> list[str]:
        """Which of these are to be fetched, the one that is named last first."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select conversation.id
                from json_each(:ids) as named
                cross join conversation on conversation.account = :account and conversation.id = named.value
                where is_stale = 1
                  and conversation.id not in (select value from json_each(:besides))
                  and not exists (
                      select 1 from ask
                      where ask.account = :account and ask.conversation = conversation.id and ask.state = 'asked'
                  )
                order by named.key desc
                """,
                {"account": self.account, "ids": _json(ids), "besides": _json(besides)},
            )
        return [row[0] for row in rows]

    async def probe(self, *, besides: Collection[str] = ()) -> list[str]:
        """The conversation that tells best whether upstream shows any: the one that it showed last, else one that an
        export did, or else the oldest of those to be fetched; what is wrong with the newest may be wrong with its
        neighbours.
        """
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select id from conversation
                where account = :account and deleted_at is null and is_local = 0 and is_deleted_upstream = 0
                  and (is_stale = 1 or has_content = 1)
                  and id not in (select value from json_each(:besides))
                order by is_stale, fetched_at desc, coalesce(listed_update_time, update_time, create_time) limit 1
                """,
                {"account": self.account, "besides": _json(besides)},
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
        self, *, since: int, limit: int, besides: Collection[str] = (), absent: Collection[str] = ()
    ) -> list[str]:
        """Conversations that no list and no fetch has shown `since` a full sweep began: upstream may have them no more.
        Newest first. Nothing follows from not standing in a list that is `absent`; `projects` stands for all of these.
        """
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select id from conversation
                where account = :account and deleted_at is null and is_local = 0 and is_deleted_upstream = 0
                  and failures < 3 and coalesce(listed_at, 0) < :since and coalesce(fetched_at, 0) < :since
                  and home not in (select value from json_each(:absent))
                  and (:has_projects or home not like 'g-p-%')
                  and id not in (select value from json_each(:besides))
                order by coalesce(update_time, create_time) desc limit :limit
                """,
                {
                    "account": self.account,
                    "since": since,
                    "absent": _json(absent),
                    "has_projects": PROJECTS not in absent,
                    "besides": _json(besides),
                    "limit": limit,
                },
            )
        return [row[0] for row in rows]

    async def count_unseen(self, *, since: int, absent: Collection[str] = ()) -> int:
        """How many of them there are that are not stale anyway."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select count(*) from conversation
                where account = :account and deleted_at is null and is_local = 0 and is_deleted_upstream = 0
                  and failures < 3 and coalesce(listed_at, 0) < :since and coalesce(fetched_at, 0) < :since
                  and home not in (select value from json_each(:absent))
                  and (:has_projects or home not like 'g-p-%')
                  and is_stale = 0
                """,
                {
                    "account": self.account,
                    "since": since,
                    "absent": _json(absent),
                    "has_projects": PROJECTS not in absent,
                },
            )
        return next(int(row[0]) for row in rows)

    async def list_of(self, conversation_id: str) -> str:
        """The list in which upstream would name it, by what is known of it: a project's id, `archived` or `plain`."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                "select home from conversation where account = ? and id = ?", (self.account, conversation_id)
            )
        return next((str(row[0]) for row in rows), PLAIN)

    async def was_fetched(self, conversation_id: str, *, before: int) -> bool:
        """Whether its content came, and not since then."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                "select 1 from conversation where account = ? and id = ? and fetched_at < ? and is_stale = 0",
                (self.account, conversation_id, before),
            )
        return bool(list(rows))

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

    async def note_failure(self, conversation_id: str, reason: str) -> bool:
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

    async def mark_gone(self, conversation_id: str, reason: str) -> None:
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
