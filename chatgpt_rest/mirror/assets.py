# SPDX-License-Identifier: GPL-2.0-or-later
"""The assets of one account: which there are, and which messages point to them. Their bytes are the files' matter."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import aiosqlite
import msgspec

from chatgpt_rest.chatgpt_json import printable
from chatgpt_rest.errors import NotFound
from chatgpt_rest.mirror.asset_files import AssetFiles, KeptFile
from chatgpt_rest.mirror.database import Database
from chatgpt_rest.mirror.rendered import RenderedCache

Added = Literal["stored", "unchanged", "another", "left_deleted"]
"""What became of an asset that came: it is new, here already, another than what is here under its id, or purged."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of an account's. `name` is what it was called when it was sent or made, `digest` is of its bytes."""

    id: str
    digest: bytes
    size_bytes: int
    media_type: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Attached:
    """A message points to an asset. `node` is "" where only the conversation is known; name and media type are as the
    message says.
    """

    node: str
    id: str
    name: str | None
    media_type: str | None
    asset: Asset | None
    """None where no export has brought it."""


@dataclass(frozen=True, slots=True)
class AssetCounts:
    """How assets stand: here and in a conversation, here and in none, in a conversation and not here."""

    placed: int
    unplaced: int
    missing: int


class Assets:
    """One account's. Every query binds it: none can see another's."""

    def __init__(self, database: Database, cache: RenderedCache, account: str, *, files: AssetFiles) -> None:
        self.account = account
        self._files = files
        self._database = database
        self._cache = cache

    async def find(self, asset_id: str) -> Asset:
        """The asset of this id, called as a message calls it where it came without a name. Raises NotFound, also where
        every conversation that it stands in is deleted here.
        """
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select id, digest, size_bytes, media_type,
                       coalesce(
                           name,
                           (
                               select attachment.name
                               from attachment join conversation
                                 on conversation.account = :account and conversation.id = attachment.conversation
                               where attachment.account = :account and attachment.asset = :id
                                 and attachment.name is not null and deleted_at is null
                               order by attachment.conversation, attachment.node
                               limit 1
                           )
                       )
                from asset
                where account = :account and id = :id
                  and (
                      not exists (select 1 from attachment where account = :account and asset = :id)
                      or exists (
                          select 1
                          from attachment join conversation
                            on conversation.account = :account and conversation.id = attachment.conversation
                          where attachment.account = :account and attachment.asset = :id and deleted_at is null
                      )
                  )
                """,
                {"account": self.account, "id": asset_id},
            )
        for row in rows:
            return Asset(*row)
        raise NotFound("asset")

    async def of_conversation(self, conversation_id: str) -> list[Attached]:
        """What the messages of a conversation point to, in the order of the messages."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select attachment.node, attachment.asset, attachment.name, attachment.media_type,
                       asset.id, digest, size_bytes, asset.media_type, asset.name
                from attachment
                left join asset on asset.account = attachment.account and asset.id = attachment.asset
                left join node
                  on node.account = attachment.account and node.conversation = attachment.conversation
                 and node.id = attachment.node
                where attachment.account = ? and attachment.conversation = ?
                order by position is null, position, attachment.asset
                """,
                (self.account, conversation_id),
            )
        return [
            Attached(node, identifier, name, kind, None if asset[0] is None else Asset(*asset))
            for node, identifier, name, kind, *asset in rows
        ]

    async def all(self) -> list[Asset]:
        """Every asset, by its id."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                "select id, digest, size_bytes, media_type, name from asset where account = ? order by id",
                (self.account,),
            )
        return [Asset(*row) for row in rows]

    async def add(
        self, asset_id: str, kept: KeptFile, *, name: str | None, member: str | None, is_placed: bool = False
    ) -> Added:
        """Take an asset in, whose bytes came last from `member` of an export; to be called while its file is still
        `incoming`, so that no purge takes that for nobody's.

        What is here stays while its file is whole; only a lost file, or one that was empty, is replaced by another, and
        never by an empty one. `is_placed` says that a conversation pointed to it when that came, or was found purged:
        where nothing points to it now, it was purged and does not come back. The file of what is not taken in goes.
        """
        lost = await self._lost(asset_id, unless=kept.digest)
        async with self._database.write() as connection:
            before = await self._digest_and_size(connection, asset_id)
            is_another = before is not None and before[0] != kept.digest
            outcome: Added = "stored" if before is None or is_another else "unchanged"
            if is_placed and not await self._is_pointed_to(connection, asset_id):
                outcome = "left_deleted"
            elif before is not None and is_another and before[1] and (not kept.size_bytes or before[0] != lost):
                outcome = "another"
            if outcome in {"stored", "unchanged"}:
                await self._write(connection, asset_id, kept, name=name, member=member)
            elif not await connection.execute_fetchall("select 1 from asset where digest = ?", (kept.digest,)):
                await self._files.remove(kept.digest)
            rows = await connection.execute_fetchall(
                "select distinct conversation from attachment where account = ? and asset = ?",
                (self.account, asset_id),
            )
        if outcome == "stored" and (conversations := [str(row[0]) for row in rows]):
            self._cache.drop(self.account, *conversations)
        return outcome

    async def foresee(self, asset_id: str, size_bytes: int, *, is_placed: bool) -> Added:
        """What `add` would do, as far as the size tells."""
        async with self._database.read() as connection:
            if is_placed and not await self._is_pointed_to(connection, asset_id):
                return "left_deleted"
            before = await self._digest_and_size(connection, asset_id)
        if before is None:
            return "stored"
        if before[1] == size_bytes:
            return "unchanged"
        is_kept = before[1] and (not size_bytes or await self._files.is_whole(before[0]))
        return "another" if is_kept else "stored"

    async def _lost(self, asset_id: str, *, unless: bytes) -> bytes | None:
        """The digest of this asset, if it is another and its file is not whole on the disk."""
        async with self._database.read() as connection:
            before = await self._digest_and_size(connection, asset_id)
        if before is None or before[0] == unless or await self._files.is_whole(before[0]):
            return None
        return before[0]

    async def _digest_and_size(self, connection: aiosqlite.Connection, asset_id: str) -> tuple[bytes, int] | None:
        rows = await connection.execute_fetchall(
            "select digest, size_bytes from asset where account = ? and id = ?", (self.account, asset_id)
        )
        return next(((bytes(row[0]), int(row[1])) for row in rows), None)

    async def _is_pointed_to(self, connection: aiosqlite.Connection, asset_id: str) -> bool:
        rows = await connection.execute_fetchall(
            "select 1 from attachment where account = ? and asset = ? limit 1", (self.account, asset_id)
        )
        return bool(list(rows))

    async def _write(
        self, connection: aiosqlite.Connection, asset_id: str, kept: KeptFile, *, name: str | None, member: str | None
    ) -> None:
        await connection.execute(
            """
            insert into asset (account, id, digest, size_bytes, media_type, name, member)
            values (?, ?, ?, ?, ?, ?, ?)
            on conflict (account, id) do update set
                digest = excluded.digest, size_bytes = excluded.size_bytes, media_type = excluded.media_type,
                name = coalesce(excluded.name, name), member = excluded.member
            """,
            (
                self.account,
                asset_id,
                kept.digest,
                kept.size_bytes,
                kept.media_type,
                printable(name),
                printable(member),
            ),
        )

    async def missing(self) -> int:
        """How many assets conversations here point to and no export has brought."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select count(distinct attachment.asset)
                from attachment join conversation
                  on conversation.account = attachment.account and conversation.id = attachment.conversation
                where attachment.account = ? and deleted_at is null
                  and not exists (
                      select 1 from asset where asset.account = attachment.account and asset.id = attachment.asset
                  )
                """,
                (self.account,),
            )
        return next(int(row[0]) for row in rows)

    async def standing(self, asset_ids: Collection[str]) -> AssetCounts:
        """How these stand: those that an export brought and those that its messages point to, each once."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                with named as (
                    select exists (select 1 from asset where account = :account and id = value) as is_here,
                           exists (
                               select 1
                               from attachment join conversation
                                 on conversation.account = :account and conversation.id = attachment.conversation
                               where attachment.account = :account and attachment.asset = value and deleted_at is null
                           ) as is_placed
                    from json_each(:ids)
                )
                select count(*) filter (where is_here and is_placed), count(*) filter (where is_here and not is_placed),
                       count(*) filter (where is_placed and not is_here)
                from named
                """,
                {"account": self.account, "ids": _json(asset_ids)},
            )
        return next(AssetCounts(*row) for row in rows)


async def release(connection: aiosqlite.Connection, account: str, conversations: Collection[str]) -> None:
    """These conversations are being purged: they point to nothing any more, and the assets that only they pointed to
    are gone. The files are left to whoever ends the purge.
    """
    binding = {"account": account, "conversations": _json(conversations)}
    rows = await connection.execute_fetchall(
        """
        delete from attachment
        where account = :account and conversation in (select value from json_each(:conversations))
        returning asset
        """,
        binding,
    )
    await connection.execute(
        """
        delete from asset
        where account = :account and id in (select value from json_each(:assets))
          and not exists (
              select 1 from attachment where attachment.account = asset.account and attachment.asset = asset.id
          )
        """,
        {"account": account, "assets": _json({str(row[0]) for row in rows})},
    )


def _json(ids: Collection[str]) -> str:
    return msgspec.json.encode(list(ids)).decode()
