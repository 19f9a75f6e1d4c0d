# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversations that were begun here and got no id of upstream's, because the line broke before it came. They are known
again by their prompt. These helpers take the connection; whose transaction it is, is not theirs.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import aiosqlite

from chatgpt_rest.merge import Source, merge
from chatgpt_rest.mirror import trees
from chatgpt_rest.model import Conversation


@dataclass(frozen=True, slots=True)
class Draft:
    """One of them, with the node of a prompt that was asked in it. `deleted_at` (µs) says that it was deleted here."""

    id: str
    prompt_node: str
    deleted_at: int | None


async def find_drafts(connection: aiosqlite.Connection, account: str) -> list[Draft]:
    """All of an account's; one with two prompts is there twice."""
    # `cross join` keeps SQLite from going through every conversation there is: asks are few.
    rows = await connection.execute_fetchall(
        """
        select conversation.id, ask.prompt_node, conversation.deleted_at
        from ask cross join conversation
          on conversation.account = ask.account and conversation.id = ask.conversation and conversation.is_local = 1
        where ask.account = ?
        """,
        (account,),
    )
    return [Draft(row[0], row[1], row[2]) for row in rows]


def drafts_of(conversation_id: str, nodes: Container[str], *, among: Sequence[Draft]) -> list[Draft]:
    """Those whose prompt turns up in this conversation, which is none of them itself."""
    found = {each.id: each for each in among if each.prompt_node in nodes and each.id != conversation_id}
    return list(found.values())


def deletion_of(drafts: Sequence[Draft]) -> int | None:
    """When what these became was deleted here, before it was known under which id upstream has it; None where it was
    not.
    """
    return min((each.deleted_at for each in drafts if each.deleted_at is not None), default=None)


async def adopt(
    connection: aiosqlite.Connection,
    account: str,
    mine: Conversation | None,
    drafts: Sequence[Draft],
    *,
    conversation_id: str,
) -> Conversation | None:
    """What is here of a conversation once `drafts` are part of it. Their rows are gone with that, their asks point to
    it; to store it is the caller's.
    """
    for draft in drafts:
        begun = await trees.load(connection, account, draft.id)
        if begun is not None:
            # Its update time is this machine's, and nothing of upstream's may look old beside it.
            mine = merge(mine, replace(begun, id=conversation_id, update_time=None), source=Source.ASK)
        await trees.remove(connection, account, draft.id)
        await connection.execute(
            "update ask set conversation = ? where account = ? and conversation = ?",
            (conversation_id, account, draft.id),
        )
    return mine
