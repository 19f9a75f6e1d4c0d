# SPDX-License-Identifier: GPL-2.0-or-later
"""Where one account's histories may be: an index of its conversations by the hashes of the paths in them.

Its rows are hints, found again at any time from the trees. They go with what is purged, and by looking through all of
them: an index by conversation would be as large as what it serves, for a chore of once a day.

To hash takes long, and nobody waits for it: trees are read, hashed outside any transaction, and their hashes stored
under the version that was read. What changes in between is simply not up to date.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Final

import msgspec

from chatgpt_rest.mirror import trees
from chatgpt_rest.mirror.database import Database
from chatgpt_rest.model import Conversation

_CANDIDATES: Final = 8  # conversations that share one history: who said hello a thousand times means one of the last


@dataclass(frozen=True, slots=True)
class Unhashed:
    """A conversation whose hashes are missing, as it was at this version of its tree."""

    tree: Conversation
    version: int


@dataclass(frozen=True, slots=True)
class Hashed:
    """The hashes of a conversation's paths, at this version of its tree."""

    conversation_id: str
    version: int
    hashes: Set[int]


class HistoryHashes:
    """The index of one account. `even_local` takes in what lives in the mirror alone, too."""

    def __init__(self, database: Database, account: str) -> None:
        self.account = account
        self._database = database

    async def unhashed(self, *, messages: int, even_local: bool, only_new: bool) -> list[Unhashed]:
        """Conversations that are not in the index as they are now, the one updated last first, until they come to so
        many messages; the first one whatever its size. `only_new`: those of which nothing is in it yet.
        """
        found: list[Unhashed] = []
        count = 0
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select id, tree_version from conversation
                where account = :account and hashed_version <> tree_version and has_content = 1 and deleted_at is null
                  and (is_local = 0 or :even_local) and (hashed_version = 0 or not :only_new)
                order by coalesce(update_time, create_time) desc limit :limit
                """,
                {"account": self.account, "even_local": even_local, "only_new": only_new, "limit": messages},
            )
            for identifier, version in rows:
                if count < messages and (tree := await trees.load(connection, self.account, identifier)) is not None:
                    found.append(Unhashed(tree, version))
                    count += len(tree.nodes)
        return found

    async def store(self, hashed: Sequence[Hashed]) -> None:
        """Write down the hashes of those that are still here. They are up to date if nothing changed meanwhile."""
        new = [(each, await self._missing(each)) for each in hashed]
        async with self._database.write() as connection:
            for each, missing in new:
                rows = await connection.execute_fetchall(
                    """
                    update conversation set hashed_version = ?
                    where account = ? and id = ? and deleted_at is null
                    returning id
                    """,
                    (each.version, self.account, each.conversation_id),
                )
                if list(rows):  # what was deleted meanwhile may be purged, with nothing to say that hashes are left
                    await connection.executemany(
                        "insert or ignore into history_hash (account, hash, conversation) values (?, ?, ?)",
                        [(self.account, each_hash, each.conversation_id) for each_hash in missing],
                    )

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

    async def candidates(self, history: int, *, changed: int, even_local: bool) -> list[str]:
        """The conversations that the hash `history` points to, and of those that `changed` points to (its beginning)
        the ones that are not up to date and may hold more by now: the one updated last first, no more than some of
        each. Neither those that were deleted, here or upstream, nor (without `even_local`) those that live here alone.
        """
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select id from (
                    select conversation.id, coalesce(update_time, create_time) as updated,
                           row_number() over (
                               partition by hash order by coalesce(update_time, create_time) desc, conversation.id
                           ) as place
                    from history_hash cross join conversation
                      on conversation.account = history_hash.account and conversation.id = history_hash.conversation
                    where history_hash.account = :account and hash in (:history, :changed)
                      and (hash = :history or hashed_version <> tree_version)
                      and deleted_at is null and is_deleted_upstream = 0 and (is_local = 0 or :even_local)
                )
                where place <= :limit group by id order by updated desc, id
                """,
                {
                    "account": self.account,
                    "history": history,
                    "changed": changed,
                    "even_local": even_local,
                    "limit": _CANDIDATES,
                },
            )
        return [str(row[0]) for row in rows]

    async def _missing(self, hashed: Hashed) -> list[int]:
        """Those that are not there yet: of a long conversation that has grown they are few, and writers wait less."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select value from json_each(:hashes)
                where not exists (
                    select 1 from history_hash
                    where account = :account and hash = value and conversation = :conversation
                )
                """,
                {
                    "account": self.account,
                    "hashes": msgspec.json.encode(list(hashed.hashes)).decode(),
                    "conversation": hashed.conversation_id,
                },
            )
        return [int(row[0]) for row in rows]
