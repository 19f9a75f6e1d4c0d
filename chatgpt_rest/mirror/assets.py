# SPDX-License-Identifier: GPL-2.0-or-later
"""The assets of one account: which there are, and which messages point to them. Their bytes are the files' matter."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import aiosqlite
import msgspec

from chatgpt_rest.chatgpt_json import printable
from chatgpt_rest.errors import NotFound
from chatgpt_rest.mirror.asset_files import KeptFile
from chatgpt_rest.mirror.database import Database
from chatgpt_rest.mirror.rendered import RenderedCache


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

    def __init__(self, database: Database, cache: RenderedCache, account: str) -> None:
        self.account = account
        self._database = database
        self._cache = cache

    async def find(self, asset_id: str) -> Asset:
        """The asset of this id. Raises NotFound, also where every conversation that it stands in is deleted here."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select id, digest, size_bytes, media_type, name from asset
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

    async def add(self, asset_id: str, kept: KeptFile, *, name: str | None, member: str | None) -> bool:
        """Take an asset in, whose bytes came last from `member` of an export; to be called while its file is still
        `incoming`, so that no purge takes that for nobody's. Answers whether it is new, or was another.
        """
        async with self._database.write() as connection:
            before = await connection.execute_fetchall(
                "select digest from asset where account = ? and id = ?", (self.account, asset_id)
            )
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
            rows = await connection.execute_fetchall(
                "select distinct conversation from attachment where account = ? and asset = ?",
                (self.account, asset_id),
            )
        is_new = [row[0] for row in before] != [kept.digest]
        if is_new and (conversations := [str(row[0]) for row in rows]):
            self._cache.drop(self.account, *conversations)
        return is_new

    async def unwanted(self, asset_ids: Collection[str]) -> set[str]:
        """Which of these, that purged conversations point to, nothing else does: their bytes are not to come back."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select value from json_each(:ids)
                where not exists (select 1 from attachment where account = :account and asset = value)
                """,
                {"account": self.account, "ids": _json(asset_ids)},
            )
        return {str(row[0]) for row in rows}

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
