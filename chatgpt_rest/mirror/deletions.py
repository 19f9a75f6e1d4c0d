# SPDX-License-Identifier: GPL-2.0-or-later
"""One account's tombstones: what is deleted here stays so, can be brought back for a while, and is then purged."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

import aiosqlite

from chatgpt_rest.clock import Clock, iso
from chatgpt_rest.errors import NotFound
from chatgpt_rest.mirror.assets import release
from chatgpt_rest.mirror.database import Database
from chatgpt_rest.mirror.kept_files import forget
from chatgpt_rest.mirror.rendered import RenderedCache, changing
from chatgpt_rest.mirror.trees import forget_hashes

_BATCH: Final = 50  # conversations purged in one transaction: whoever else has to write waits for no more


@dataclass(frozen=True, slots=True)
class Buried:
    """A conversation that was deleted here and can be brought back, with its content where that ever came."""

    id: str
    title: str | None
    deleted_at: int
    has_content: bool


class Deletions:
    """What one account has deleted. Every query binds it: none can bring back another's."""

    def __init__(
        self, database: Database, cache: RenderedCache, clock: Clock, account: str, *, deletions: Counter[str]
    ) -> None:
        self.account = account
        self._deletions = deletions
        self._database = database
        self._cache = cache
        self._clock = clock

    async def buried(self) -> list[Buried]:
        """What can be brought back, the newest deletion first."""
        async with self._database.read() as connection:
            return await self._buried(connection)

    async def bury(self, conversation_id: str) -> None:
        """Delete a conversation here: a tombstone that lists and fetches respect. Its content stays until it is
        purged.
        """
        now = self._clock.now()
        async with self._changing(conversation_id) as connection:
            await bury(connection, self.account, conversation_id, at=now)

    async def bury_all(self) -> None:
        """Delete every conversation here."""
        async with self._changing() as connection:
            self._deletions[self.account] += 1
            await connection.execute(
                "update conversation set deleted_at = ? where account = ? and deleted_at is null",
                (self._clock.now(), self.account),
            )

    async def undelete(self, *conversation_ids: str) -> list[Buried]:
        """Bring these back, all of them or none, and answer what they were. Raises NotFound where one of them is not
        deleted, or is purged already.

        Upstream has deleted them, so here they count as gone there: readable, in lists that ask for such, and nothing
        that a sync would look for. Should upstream list one again, it is like any other.
        """
        async with self._changing(*conversation_ids) as connection:
            found = [await self._tombstone(connection, conversation_id) for conversation_id in conversation_ids]
            await self._bring_back(connection, found)
        return found

    async def undelete_all(self) -> list[Buried]:
        """Bring back whatever can be, as `undelete` does."""
        async with self._changing() as connection:
            found = await self._buried(connection)
            await self._bring_back(connection, found)
        return found

    async def purge(self, *, before: int) -> int:
        """Of every conversation deleted before this time (µs) leave nothing but the tombstone, which stays for ever;
        the assets that nothing else points to go too, and what kept files and the ledgers of imports say of it. Answers
        how many there were.

        One in which an answer is still being written waits for the next purge. To end half-way costs nothing: the rest
        is found again.
        """
        purged = 0
        while identifiers := await self._purge_some(before):
            purged += len(identifiers)
        return purged

    async def forget_imports(self, *, before: int) -> int:
        """Of imports that ended before this time (µs) leave nothing: their ledgers have titles. Answers how many."""
        async with self._database.write() as connection:
            cursor = await connection.execute(
                "delete from import_job where account = ? and ended_at < ?", (self.account, before)
            )
            return cursor.rowcount

    async def _purge_some(self, before: int) -> list[str]:
        async with self._changing() as connection:
            rows = await connection.execute_fetchall(
                """
                select id, deleted_at, is_local from conversation
                where account = ? and deleted_at < ? and purged_at is null
                  and not exists (
                      select 1 from ask
                      where ask.account = conversation.account and ask.conversation = conversation.id
                        and ask.state = 'asked'
                  )
                order by deleted_at, id limit ?
                """,
                (self.account, before, _BATCH),
            )
            tombstones = [(self.account, str(row[0]), row[1], row[2]) for row in rows]
            keys = [(account, identifier) for account, identifier, _, _ in tombstones]
            await release(connection, self.account, [identifier for _, identifier in keys])
            await forget(connection, self.account, [identifier for _, identifier in keys])
            await forget_hashes(connection, self.account, [identifier for _, identifier in keys])
            await connection.executemany("delete from node where account = ? and conversation = ?", keys)
            # By its prompt's id alone what never got an id of upstream's is known, should it turn up there.
            await connection.executemany(
                """
                update ask set request_digest = x'', idempotency_digest = null
                where account = ? and conversation = ?
                """,
                keys,
            )
            await connection.executemany(
                """
                delete from ask where account = ? and conversation = ?
                  and not exists (
                      select 1 from conversation
                      where conversation.account = ask.account and conversation.id = ask.conversation and is_local = 1
                  )
                """,
                keys,
            )
            # Written anew and not emptied column by column: what a later version adds to the row goes too.
            await connection.executemany("delete from conversation where account = ? and id = ?", keys)
            now = self._clock.now()
            await connection.executemany(
                "insert into conversation (account, id, deleted_at, is_local, purged_at) values (?, ?, ?, ?, ?)",
                [(*tombstone, now) for tombstone in tombstones],
            )
        return [identifier for _, identifier in keys]

    async def _buried(self, connection: aiosqlite.Connection) -> list[Buried]:
        rows = await connection.execute_fetchall(
            """
            select id, title, deleted_at, has_content from conversation
            where account = ? and deleted_at is not null and purged_at is null
            order by deleted_at desc, id
            """,
            (self.account,),
        )
        return [Buried(row[0], row[1], row[2], bool(row[3])) for row in rows]

    async def _tombstone(self, connection: aiosqlite.Connection, conversation_id: str) -> Buried:
        rows = await connection.execute_fetchall(
            """
            select id, title, deleted_at, has_content, purged_at from conversation
            where account = ? and id = ? and deleted_at is not null
            """,
            (self.account, conversation_id),
        )
        for identifier, title, deleted_at, has_content, purged_at in rows:
            if purged_at is not None:
                raise NotFound(
                    "conversation",
                    text=f"{conversation_id} could be brought back until {iso(purged_at)}; nothing of it is left",
                )
            return Buried(identifier, title, deleted_at, bool(has_content))
        raise NotFound("conversation", text=f"no conversation {conversation_id} is deleted here")

    async def _bring_back(self, connection: aiosqlite.Connection, found: list[Buried]) -> None:
        await connection.executemany(
            """
            update conversation set deleted_at = null, is_deleted_upstream = not is_local
            where account = ? and id = ?
            """,
            [(self.account, each.id) for each in found],
        )

    def _changing(self, *conversations: str) -> AbstractAsyncContextManager[aiosqlite.Connection]:
        return changing(self._database, self._cache, self.account, *conversations)


async def bury(connection: aiosqlite.Connection, account: str, conversation_id: str, *, at: int) -> None:
    """Put a tombstone, known or unknown as it may be; an older one stays. The transaction is the caller's."""
    await connection.execute(
        """
        insert into conversation (account, id, deleted_at) values (:account, :id, :at)
        on conflict (account, id) do update set deleted_at = :at where deleted_at is null
        """,
        {"account": account, "id": conversation_id, "at": at},
    )
