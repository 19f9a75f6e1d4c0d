# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversations between rows and objects. These helpers take the connection; whose transaction it is, is not theirs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import aiosqlite
import msgspec

from chatgpt_rest import chatgpt_json
from chatgpt_rest.chatgpt_json import printable
from chatgpt_rest.model import Completeness, Conversation, ListedConversation, Node, Shape


async def load(connection: aiosqlite.Connection, account: str, conversation_id: str) -> Conversation | None:
    """The conversation with its tree, deleted here or not; None where there is no row of it."""
    rows = await connection.execute_fetchall(
        """
        select title, create_time, update_time, current_node, envelope, is_archived, is_starred, project, model,
               is_title_pending, is_deleted_upstream
        from conversation where account = ? and id = ?
        """,
        (account, conversation_id),
    )
    for row in rows:
        return Conversation(
            id=conversation_id,
            title=row[0],
            create_time=row[1],
            update_time=row[2],
            current_node=row[3],
            nodes=await _load_nodes(connection, account, conversation_id),
            envelope=_members(row[4]),
            is_archived=bool(row[5]),
            is_starred=bool(row[6]),
            project=row[7],
            model=row[8],
            is_title_pending=bool(row[9]),
            is_deleted_upstream=bool(row[10]),
        )
    return None


async def store(
    connection: aiosqlite.Connection,
    account: str,
    before: Conversation | None,
    after: Conversation,
    *,
    has_content: bool,
) -> None:
    """Write what changed between the two versions. `has_content` says that the tree is whole; it never becomes less."""
    known = {} if before is None else {node.id: (position, node) for position, node in enumerate(before.nodes.values())}
    changed = [
        (position, node) for position, node in enumerate(after.nodes.values()) if known.get(node.id) != (position, node)
    ]
    await connection.execute(
        """
        insert into conversation (
            account, id, title, create_time, update_time, current_node, envelope, is_archived, is_starred, project,
            model, is_title_pending, is_deleted_upstream, has_content, tree_version
        ) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        on conflict (account, id) do update set
            title = excluded.title, create_time = excluded.create_time, update_time = excluded.update_time,
            current_node = excluded.current_node, envelope = excluded.envelope, is_archived = excluded.is_archived,
            is_starred = excluded.is_starred, project = excluded.project, model = excluded.model,
            is_title_pending = excluded.is_title_pending, is_deleted_upstream = excluded.is_deleted_upstream,
            has_content = max(has_content, excluded.has_content), tree_version = tree_version + excluded.tree_version
        """,
        (
            account,
            after.id,
            printable(after.title),
            after.create_time,
            after.update_time,
            printable(after.current_node),
            _packed(after.envelope),
            after.is_archived,
            after.is_starred,
            printable(after.project),
            printable(after.model),
            after.is_title_pending,
            after.is_deleted_upstream,
            has_content,
            1 if changed else 0,
        ),
    )
    await _store_nodes(connection, account, after.id, changed)


async def remove(connection: aiosqlite.Connection, account: str, conversation_id: str) -> None:
    """Take a conversation out without a trace: only for drafts that became, or never became, something else."""
    await forget_hashes(connection, account, [conversation_id])
    await connection.execute("delete from node where account = ? and conversation = ?", (account, conversation_id))
    await connection.execute("delete from conversation where account = ? and id = ?", (account, conversation_id))


async def forget_hashes(connection: aiosqlite.Connection, account: str, conversations: Collection[str]) -> None:
    """Take every hash of these out of the index of histories, as long as their rows say whether there are any: to look
    for them is to go through all of it.
    """
    names = msgspec.json.encode(conversations).decode()
    hashed = await connection.execute_fetchall(
        """
        select 1 from conversation
        where account = ? and id in (select value from json_each(?)) and hashed_version > 0 limit 1
        """,
        (account, names),
    )
    if list(hashed):
        await connection.execute(
            "delete from history_hash where account = ? and conversation in (select value from json_each(?))",
            (account, names),
        )


def listed(row: Sequence[object]) -> ListedConversation:
    """A row that begins with id, title, create_time, update_time, is_archived, is_starred, project."""
    identifier, title, create_time, update_time, is_archived, is_starred, project = row[:7]
    return ListedConversation(
        id=str(identifier),
        title=None if title is None else str(title),
        create_time=create_time if isinstance(create_time, int) else None,
        update_time=update_time if isinstance(update_time, int) else None,
        is_archived=bool(is_archived),
        is_starred=bool(is_starred),
        project=None if project is None else str(project),
    )


async def _load_nodes(connection: aiosqlite.Connection, account: str, conversation_id: str) -> Mapping[str, Node]:
    rows = await connection.execute_fetchall(
        """
        select id, parent, message, children, extra, create_time, shape, completeness, is_absent_upstream
        from node where account = ? and conversation = ? order by position
        """,
        (account, conversation_id),
    )
    return {
        row[0]: Node(
            id=row[0],
            parent=row[1],
            message=row[2],
            children=None if row[3] is None else msgspec.json.decode(row[3], type=tuple[str, ...]),
            extra=_members(row[4]),
            create_time=row[5],
            shape=Shape(row[6]),
            completeness=Completeness(row[7]),
            is_absent_upstream=bool(row[8]),
        )
        for row in rows
    }


async def _store_nodes(
    connection: aiosqlite.Connection, account: str, conversation_id: str, nodes: Iterable[tuple[int, Node]]
) -> None:
    await connection.executemany(
        """
        insert or replace into node (
            account, conversation, id, position, parent, message, children, extra, create_time, shape, completeness,
            is_absent_upstream
        ) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        """,
        [
            (
                account,
                conversation_id,
                printable(node.id),
                position,
                printable(node.parent),
                node.message,
                None if node.children is None else msgspec.json.encode([printable(c) for c in node.children]).decode(),
                _packed(node.extra),
                node.create_time,
                node.shape,
                node.completeness,
                node.is_absent_upstream,
            )
            for position, node in nodes
        ],
    )


def _members(packed: bytes | None) -> Mapping[str, bytes]:
    return {} if packed is None else chatgpt_json.unpack(packed)


def _packed(members: Mapping[str, bytes]) -> bytes | None:
    return chatgpt_json.pack(members) if members else None
