# SPDX-License-Identifier: GPL-2.0-or-later
"""Where one account's histories may be: an index of its conversations by the hashes of the paths in them.

Its rows are hints, found again at any time from the trees. They go with what is purged, and by looking through all of
them: an index by conversation would be as large as what it serves, for a chore of once a day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import aiosqlite
import msgspec

from chatgpt_rest import turns
from chatgpt_rest.errors import NotFound
from chatgpt_rest.mirror import trees
from chatgpt_rest.mirror.database import Database

_CANDIDATES: Final = 8  # conversations that share one history: who said hello a thousand times means one of the last
_TURNS_AT_ONCE: Final = 100


class HistoryHashes:
    """The index of one account. `even_local` takes in what lives in the mirror alone, too."""

    def __init__(self, database: Database, account: str) -> None:
        self.account = account
        self._database = database

    async def bring_up_to_date(self, *, messages: int, even_local: bool) -> int:
        """Hash conversations that are not in the index as they are now, the one updated last first, until they come to
        so many messages; the first one whatever its size. Answers how many messages that were, 0 where none was left.
        """
        async with self._database.read() as connection:
            if await self._newest_unhashed(connection, even_local=even_local) is None:
                return 0  # and no writer was waited for
        hashed = 0
        async with self._database.write() as connection:
            while hashed < messages and (name := await self._newest_unhashed(connection, even_local=even_local)):
                hashed += await self._hash(connection, name)
        return hashed

    async def known_beginnings(self, hashes: Sequence[int]) -> list[int]:
        """Of the beginnings of a history, which `turns.history_hashes` has hashed, the places in that list of those
        that the index may know, the longest first.
        """
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select key from json_each(:hashes)
                where exists (select 1 from history_hash where account = :account and hash = value)
                order by key desc
                """,
                {"account": self.account, "hashes": msgspec.json.encode(hashes).decode()},
            )
        return [int(row[0]) for row in rows]

    async def candidates(self, history: int, *, even_local: bool) -> list[str]:
        """The conversations that this hash points to, the one updated last first, no more than some; neither those that
        were deleted, here or upstream, nor (without `even_local`) those that live here alone.
        """
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select conversation.id
                from history_hash cross join conversation
                  on conversation.account = history_hash.account and conversation.id = history_hash.conversation
                where history_hash.account = :account and history_hash.hash = :hash
                  and deleted_at is null and is_deleted_upstream = 0 and (is_local = 0 or :even_local)
                order by coalesce(update_time, create_time) desc, conversation.id limit :limit
                """,
                {"account": self.account, "hash": history, "even_local": even_local, "limit": _CANDIDATES},
            )
        return [str(row[0]) for row in rows]

    async def _newest_unhashed(self, connection: aiosqlite.Connection, *, even_local: bool) -> str | None:
        rows = await connection.execute_fetchall(
            """
            select id from conversation
            where account = ? and hashing <> 1 and has_content = 1 and deleted_at is null and (is_local = 0 or ?)
            order by coalesce(update_time, create_time) desc limit 1
            """,
            (self.account, even_local),
        )
        return next((str(row[0]) for row in rows), None)

    async def _hash(self, connection: aiosqlite.Connection, conversation_id: str) -> int:
        """Answers how many messages it has, but at least 1."""
        tree = await trees.load(connection, self.account, conversation_id)
        if tree is None:
            raise NotFound("conversation")
        found: set[int] = set()
        for number, each in enumerate(turns.tree_hashes(tree)):
            found.add(each)
            if number % _TURNS_AT_ONCE == 0:
                await asyncio.sleep(0)  # readers first
        await connection.executemany(
            "insert or ignore into history_hash (account, hash, conversation) values (?, ?, ?)",
            [(self.account, each, conversation_id) for each in found],
        )
        await connection.execute(
            "update conversation set hashing = 1 where account = ? and id = ?", (self.account, conversation_id)
        )
        return max(1, len(tree.nodes))
