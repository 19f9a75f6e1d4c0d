# SPDX-License-Identifier: GPL-2.0-or-later
"""Taking an export into one account: conversations by the batch, where assets belong, and what else it holds."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal, Protocol

import aiosqlite
import msgspec

from chatgpt_rest import chatgpt_json
from chatgpt_rest.incoming import Incoming
from chatgpt_rest.merge import Source, merge
from chatgpt_rest.mirror import trees
from chatgpt_rest.mirror.database import Database
from chatgpt_rest.mirror.deletions import bury
from chatgpt_rest.mirror.drafts import Draft, adopt, deletion_of, drafts_of, find_drafts
from chatgpt_rest.mirror.kept_files import numbered, united, without
from chatgpt_rest.mirror.rendered import RenderedCache
from chatgpt_rest.model import Completeness, Conversation, Node, Shape

Outcome = Literal["imported", "enriched", "unchanged", "left_deleted"]


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a conversation and of its messages: the first four numbers add up to all of them. `hidden` are
    those of them that ChatGPT's page leaves out.
    """

    outcome: Outcome
    imported: int = 0
    enriched: int = 0
    unchanged: int = 0
    left_deleted: int = 0
    hidden: int = 0
    purged_assets: tuple[str, ...] = ()
    """What a purged conversation pointed to: not to come back, unless something else wants it (`Assets.add`)."""


class Placement(Protocol):
    """An asset came with this message, or in this conversation, whichever is known."""

    @property
    def asset(self) -> str: ...
    @property
    def conversation(self) -> str | None: ...
    @property
    def node(self) -> str | None: ...
    @property
    def name(self) -> str | None: ...
    @property
    def media_type(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class _Known:
    """What is here under a conversation's id."""

    is_deleted: bool
    is_purged: bool
    digest: bytes | None
    has_content: bool


class Imports:
    """What one account's exports bring. Every query binds it: none can write into another's."""

    def __init__(self, database: Database, cache: RenderedCache, account: str) -> None:
        self.account = account
        self._database = database
        self._cache = cache

    async def take(self, batch: Sequence[Incoming], *, dry_run: bool) -> list[Taken]:
        """Take these in, all or none, and answer what became of each; with `dry_run`, what would.

        What is not here yet goes in as it comes, what is here is merged by the one rule, what was deleted here stays
        so. The same JSON twice changes nothing. Raises StorageFailed; ValueError where a row is another account's.
        """
        self._check(batch)
        changed: list[str] = []
        try:
            async with self._database.write() as connection:
                drafts = await find_drafts(connection, self.account)
                known = await self._known(connection, {each.id for each in batch})
                fresh = {
                    each.id: each
                    for each in reversed(batch)  # the first one, where there are two
                    if each.id not in known and not _drafts(each, drafts)
                }
                await self._insert(connection, [each for each in batch if fresh.get(each.id) is each])
                taken = []
                for each in batch:
                    if fresh.get(each.id) is each:
                        taken.append(Taken("imported", imported=each.messages, hidden=each.hidden))
                    else:
                        taken.append(await self._take(connection, each, drafts))
                changed += [
                    each.id
                    for each, what in zip(batch, taken, strict=True)
                    if what.outcome in {"imported", "enriched"} and not dry_run
                ]
                if dry_run:
                    await connection.rollback()
        finally:
            if changed:
                self._cache.drop(self.account, *changed)
        return taken

    async def place(self, placements: Sequence[Placement]) -> set[str]:
        """Note where assets belong that no message points to. Where only the message is known, its conversation is
        looked for; what names nothing that is here stays unplaced. Answers what belongs to purged conversations, as
        `Taken.purged_assets` does.
        """
        purged: set[str] = set()
        rows: list[tuple[str, str, str, str, str | None, str | None]] = []
        async with self._database.write() as connection:
            homes = await self._homes(connection, placements)
            named = {each.conversation for each in placements if each.conversation is not None}
            known = await self._known(connection, named | {home for found in homes.values() for home in found})
            for each in placements:
                found = homes.get(each.node or "", set())
                places = {each.conversation} if each.conversation is not None else found
                for conversation in places & known.keys():
                    if known[conversation].is_purged:
                        purged.add(each.asset)
                        continue
                    node = each.node if each.node is not None and conversation in found else ""
                    name, kind = chatgpt_json.printable(each.name), chatgpt_json.printable(each.media_type)
                    rows.append((self.account, conversation, node, each.asset, name, kind))
            await _attach(connection, [row for row in rows if row[2]])
            await connection.executemany(
                """
                insert into attachment (account, conversation, node, asset, name, media_type)
                select :account, :conversation, '', :asset, :name, :media_type
                where not exists (
                    select 1 from attachment
                    where account = :account and conversation = :conversation and asset = :asset
                )
                """,
                [
                    {"account": row[0], "conversation": row[1], "asset": row[3], "name": row[4], "media_type": row[5]}
                    for row in rows
                    if not row[2]
                ],
            )
        if rows:
            self._cache.drop(self.account, *{row[1] for row in rows})
        return purged

    async def keep_file(
        self, name: str, content: bytes, *, modified_at: int | None, beside: Collection[str] = ()
    ) -> str | None:
        """Keep another file of an export, but for what names purged conversations. Answers under which name, None where
        nothing of it was kept.

        Of two of one name the newer one stays (`modified_at`, µs); where nothing tells, the one that came last. Not so
        of two parts of one export: `beside` are the names kept of it so far. Arrays are united, else the second gets a
        numbered name.
        """
        async with self._database.write() as connection:
            rest = without(content, await self._purged(connection))
            if rest is None:
                return None
            place, number = name, 1
            while place in beside and (mine := await self._file(connection, place)) is not None:
                if mine in (rest, both := united(mine, rest)):
                    return None
                if both is not None:
                    rest = both
                    break
                number += 1
                place = numbered(name, number)
            cursor = await connection.execute(
                """
                insert into export_file (account, name, content, modified_at) values (?, ?, ?, ?)
                on conflict (account, name) do update set
                    content = excluded.content, modified_at = excluded.modified_at
                where coalesce(excluded.modified_at >= modified_at, 1) or ?
                """,
                (self.account, place, rest, modified_at, place in beside),
            )
        return place if cursor.rowcount else None

    async def files(self) -> list[tuple[str, bytes]]:
        """`(name, content)` of those, by name."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                "select name, content from export_file where account = ? order by name", (self.account,)
            )
        return [(row[0], row[1]) for row in rows]

    # ---------------------------------------------------------------------------------------------------- helpers

    def _check(self, batch: Sequence[Incoming]) -> None:
        """Rows say themselves whose they are, so that they can be written as they come: they are not taken at their
        word.
        """
        for each in batch:
            if any(row[0] != self.account or row[1] != each.id for row in each.nodes):
                raise ValueError("a batch holds rows of another conversation")

    async def _purged(self, connection: aiosqlite.Connection) -> set[str]:
        rows = await connection.execute_fetchall(
            "select id from conversation where account = ? and purged_at is not null", (self.account,)
        )
        return {str(row[0]) for row in rows}

    async def _file(self, connection: aiosqlite.Connection, name: str) -> bytes | None:
        rows = await connection.execute_fetchall(
            "select content from export_file where account = ? and name = ?", (self.account, name)
        )
        return next((bytes(row[0]) for row in rows), None)

    async def _known(self, connection: aiosqlite.Connection, ids: Collection[str]) -> dict[str, _Known]:
        rows = await connection.execute_fetchall(
            """
            select id, deleted_at is not null, purged_at is not null, import_digest, has_content
            from conversation where account = ? and id in (select value from json_each(?))
            """,
            (self.account, msgspec.json.encode(list(ids)).decode()),
        )
        return {row[0]: _Known(bool(row[1]), bool(row[2]), row[3], bool(row[4])) for row in rows}

    async def _insert(self, connection: aiosqlite.Connection, fresh: Sequence[Incoming]) -> None:
        """Write conversations that are not here. Nodes pass through as they came: they are what takes the time."""
        await connection.executemany(
            """
            insert into conversation (
                account, id, title, create_time, update_time, current_node, envelope, is_archived, is_starred, project,
                model, is_deleted_upstream, is_slim, import_digest, fetched_update_time, has_content
            ) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)
            """,
            [
                (
                    self.account,
                    each.id,
                    each.title,
                    each.create_time,
                    each.update_time,
                    each.current_node,
                    each.envelope,
                    each.is_archived,
                    each.is_starred,
                    each.project,
                    each.model,
                    each.is_deleted_upstream,
                    each.is_slim,
                    each.digest,
                    _fetched_update_time(each),
                )
                for each in fresh
            ],
        )
        await connection.executemany(
            """
            insert into node (
                account, conversation, id, position, parent, children, extra, message, create_time, shape, completeness
            ) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 2)
            """,
            chain.from_iterable(each.nodes for each in fresh),
        )
        await connection.executemany(
            """
            update node set completeness = ?, is_absent_upstream = ?
            where account = ? and conversation = ? and id = ?
            """,
            [
                (marks.completeness, marks.is_absent_upstream, self.account, each.id, marks.node)
                for each in fresh
                for marks in each.marks
            ],
        )
        await self._point(connection, fresh)

    async def _take(self, connection: aiosqlite.Connection, each: Incoming, drafts: Sequence[Draft]) -> Taken:
        """Take in one of which something is here, or may be."""
        known = (await self._known(connection, [each.id])).get(each.id)
        found = _drafts(each, drafts)
        if known is not None and known.is_purged:
            return _left_deleted(each, purged_assets=tuple({pointer.asset for pointer in each.pointers}))
        if known is not None and known.digest == each.digest and known.has_content and not known.is_deleted:
            return Taken("unchanged", unchanged=each.messages, hidden=each.hidden)
        if known is None or not known.is_deleted:
            if (deleted_at := deletion_of(found)) is None:
                await self._point(connection, [each])
                return await self._merge(connection, each, found, is_new=known is None or not known.has_content)
            await bury(connection, self.account, each.id, at=deleted_at)
        await self._point(connection, [each])  # should it be brought back, so are its assets
        return _left_deleted(each)

    async def _merge(
        self, connection: aiosqlite.Connection, each: Incoming, drafts: Sequence[Draft], *, is_new: bool
    ) -> Taken:
        before = await trees.load(connection, self.account, each.id)
        mine = await adopt(connection, self.account, before, drafts, conversation_id=each.id)
        theirs = _conversation(each, mine)
        merged = merge(mine, theirs, source=Source.EXPORT)
        await trees.store(connection, self.account, before, merged, has_content=True)
        await connection.execute(
            """
            update conversation set
                fetched_update_time = iif(:is_first, :time, max(fetched_update_time, :time)),
                met_update_time = max(met_update_time, :time),
                is_slim = iif(:is_changed, :is_slim, is_slim),
                import_digest = iif(:is_changed, :digest, coalesce(import_digest, :digest))
            where account = :account and id = :id
            """,
            {
                "account": self.account,
                "id": each.id,
                # Of one that is here, null says that upstream may have more than an export could tell.
                "is_first": before is None or not before.nodes,
                "time": _fetched_update_time(each),
                # An older export leaves no trace: the newer one is still known again.
                "is_changed": is_new or merged != mine,
                "is_slim": any(_is_slim(node) for node in merged.nodes.values()),
                "digest": each.digest,
            },
        )
        if before is not None and (is_new or merged != mine):
            await self._forgive(connection, each.id, is_new=is_new)
        return _compared(each, mine, merged, is_new=is_new)

    async def _forgive(self, connection: aiosqlite.Connection, conversation_id: str, *, is_new: bool) -> None:
        """What fetches could not bring is here as the list last had it: nothing failed any more. Where they failed to
        bring more than a slim export had, another slim one is no reason to try again.
        """
        await connection.execute(
            """
            update conversation set failures = 0, failure = null
            where account = ? and id = ? and failures > 0 and has_content = 1 and (is_slim = 0 or ?)
              and fetched_update_time is not null
              and coalesce(listed_update_time, 0) / 1000000 <= coalesce(met_update_time, fetched_update_time) / 1000000
            """,
            (self.account, conversation_id, is_new),
        )

    async def _point(self, connection: aiosqlite.Connection, incoming: Sequence[Incoming]) -> None:
        """Note what these conversations' messages point to."""
        await _attach(
            connection,
            [
                (self.account, each.id, pointer.node, pointer.asset, pointer.name, pointer.media_type)
                for each in incoming
                for pointer in each.pointers
            ],
        )

    async def _homes(self, connection: aiosqlite.Connection, placements: Sequence[Placement]) -> Mapping[str, set[str]]:
        """The conversations that each of the named messages stands in: one that was branched off has them, too."""
        homes: dict[str, set[str]] = {}
        pairs = [(each.conversation, each.node) for each in placements if each.node is not None]
        rows = await connection.execute_fetchall(
            """
            select node.id, node.conversation
            from json_each(:pairs) as pair cross join node
              on node.account = :account and node.conversation = json_extract(pair.value, '$[0]')
             and node.id = json_extract(pair.value, '$[1]')
            union
            select id, conversation from node
            where account = :account and id in (select value from json_each(:lost))
            """,
            {
                "account": self.account,
                "pairs": msgspec.json.encode([pair for pair in pairs if pair[0] is not None]).decode(),
                "lost": msgspec.json.encode([node for conversation, node in pairs if conversation is None]).decode(),
            },
        )
        for node, conversation in rows:
            homes.setdefault(node, set()).add(conversation)
        return homes


async def _attach(
    connection: aiosqlite.Connection, rows: Sequence[tuple[str, str, str, str, str | None, str | None]]
) -> None:
    await connection.executemany(
        """
        insert into attachment (account, conversation, node, asset, name, media_type) values (?, ?, ?, ?, ?, ?)
        on conflict (account, conversation, node, asset) do update set
            name = coalesce(excluded.name, name), media_type = coalesce(excluded.media_type, media_type)
        """,
        rows,
    )


def _drafts(each: Incoming, drafts: Sequence[Draft]) -> list[Draft]:
    return drafts_of(each.id, {row[2] for row in each.nodes}, among=drafts) if drafts else []


def _left_deleted(each: Incoming, *, purged_assets: tuple[str, ...] = ()) -> Taken:
    return Taken("left_deleted", left_deleted=each.messages, hidden=each.hidden, purged_assets=purged_assets)


def _fetched_update_time(each: Incoming) -> int:
    return next((time for time in (each.update_time, each.create_time) if time is not None), 0)


def _is_slim(node: Node) -> bool:
    """Whether upstream has more of this message: of what it shows no more it has nothing."""
    return node.message is not None and node.shape is Shape.SLIM and not node.is_absent_upstream


def _compared(each: Incoming, mine: Conversation | None, merged: Conversation, *, is_new: bool) -> Taken:
    """What came of a merge. A conversation of which upstream's list has told and no more is new all the same."""
    known = {} if mine is None else mine.nodes
    said = [row[2] for row in each.nodes if row[7] is not None]
    imported = sum(key not in known or known[key].message is None for key in said)
    unchanged = sum(key in known and _says_the_same(known[key], merged.nodes[key]) for key in said)
    outcome: Outcome = "imported" if is_new else "unchanged" if mine == merged else "enriched"
    return Taken(
        outcome,
        imported=imported,
        enriched=len(said) - imported - unchanged,
        unchanged=unchanged,
        hidden=each.hidden,
    )


def _says_the_same(before: Node, after: Node) -> bool:
    """Whether nothing was learned of this message; that another one hangs below it is that one's matter."""
    return replace(before, children=None) == replace(after, children=None)


def _conversation(each: Incoming, mine: Conversation | None) -> Conversation:
    """The conversation as an object, in which what says the same as `mine` is the same."""
    known = {} if mine is None else mine.nodes
    marks = {marked.node: marked for marked in each.marks}
    nodes = {}
    for _, _, identifier, _, parent, children, extra, message, create_time, shape in each.nodes:
        node = Node(
            id=identifier,
            parent=parent,
            message=message,
            children=None if children is None else msgspec.json.decode(children, type=tuple[str, ...]),
            extra={} if extra is None else chatgpt_json.unpack(extra),
            create_time=create_time,
            shape=Shape(shape),
        )
        if identifier in marks:
            node = replace(
                node,
                completeness=Completeness(marks[identifier].completeness),
                is_absent_upstream=marks[identifier].is_absent_upstream,
            )
        nodes[identifier] = _alike(node, known.get(identifier))
    return Conversation(
        id=each.id,
        title=each.title,
        create_time=each.create_time,
        update_time=each.update_time,
        current_node=each.current_node,
        nodes=nodes,
        envelope=chatgpt_json.unpack(each.envelope),
        is_archived=each.is_archived,
        is_starred=each.is_starred,
        project=each.project,
        model=each.model,
        is_deleted_upstream=each.is_deleted_upstream,
    )


def _alike(theirs: Node, mine: Node | None) -> Node:
    """`theirs`, with the JSON of `mine` where that says the same: blanks, escapes and their like are no news."""
    if mine is None or theirs.message is None or mine.message is None or theirs.message == mine.message:
        return theirs
    same = chatgpt_json.dump(json.loads(theirs.message)) == chatgpt_json.dump(json.loads(mine.message))
    return replace(theirs, message=mine.message) if same else theirs
