# SPDX-License-Identifier: GPL-2.0-or-later
"""One account's asks: the prompt is here before it leaves, the answer as it comes, and each ends in exactly one
state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import aiosqlite

from chatgpt_rest import branches, chatgpt_json
from chatgpt_rest.clock import DAY, Clock
from chatgpt_rest.errors import NotFound
from chatgpt_rest.merge import Source, merge
from chatgpt_rest.mirror import trees
from chatgpt_rest.mirror.database import Database
from chatgpt_rest.mirror.deletions import bury
from chatgpt_rest.mirror.drafts import Draft, adopt
from chatgpt_rest.mirror.rendered import RenderedCache, changing
from chatgpt_rest.model import Completeness, Conversation, Node, Question, SentMessage


class AskState(Enum):
    """How an ask stands."""

    ASKED = "asked"
    """Under way, in this very process."""
    ANSWERED = "answered"
    INCOMPLETE = "incomplete"
    """The answer broke off; what came is here."""
    UNCERTAIN = "uncertain"
    """Nobody can say whether the prompt reached upstream."""
    REFUSED = "refused"
    """Upstream did not take it; nothing of it is left in the conversation."""


@dataclass(frozen=True, slots=True)
class AskRecord:
    """An ask as the mirror remembers it. `conversation` is a local id until upstream has given one."""

    id: str
    conversation: str
    prompt_node: str
    answer_node: str | None
    state: AskState
    request_digest: bytes


class Asks:
    """The asks of one account."""

    def __init__(self, database: Database, cache: RenderedCache, clock: Clock, account: str) -> None:
        self.account = account
        self._database = database
        self._cache = cache
        self._clock = clock

    async def find(self, idempotency_digest: bytes) -> AskRecord | None:
        """The ask that a client sent under this key within the last day."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select id, conversation, prompt_node, answer_node, state, request_digest
                from ask where account = ? and idempotency_digest = ? and asked_at > ?
                """,
                (self.account, idempotency_digest, self._clock.now() - DAY),
            )
        return next((_record(row) for row in rows), None)

    async def find_repeated(self, request_digest: bytes, *, within: int) -> AskRecord | None:
        """The newest ask with this digest that is not older than this (µs) and that upstream was asked, or may have
        been.
        """
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select id, conversation, prompt_node, answer_node, state, request_digest
                from ask
                where account = ? and request_digest = ? and asked_at > ? and state <> 'refused'
                order by asked_at desc limit 1
                """,
                (self.account, request_digest, self._clock.now() - within),
            )
        return next((_record(row) for row in rows), None)

    async def is_under_way(self, conversation_id: str) -> bool:
        """Whether an answer is being written in this conversation, by this very process."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                "select 1 from ask where account = ? and conversation = ? and state = 'asked'",
                (self.account, conversation_id),
            )
        return bool(list(rows))

    async def begin(
        self,
        ask_id: str,
        question: Question,
        *,
        draft_id: str,
        title: str | None,
        idempotency_digest: bytes | None,
        request_digest: bytes,
    ) -> None:
        """Write the prompt and what goes with it down, before anything leaves. A new conversation is a local draft
        until upstream names it.
        """
        now = self._clock.now()
        conversation_id = question.conversation_id or draft_id
        sent: list[Node] = []
        for each in (*question.before, SentMessage(question.message_id, "user", question.prompt)):
            above = sent[-1].id if sent else question.parent_id
            sent.append(chatgpt_json.sent_node(each, parent=above, create_time=now))
        async with changing(self._database, self._cache, self.account, conversation_id) as connection:
            mine = await trees.load(connection, self.account, conversation_id)
            start = mine or _draft(draft_id, title=title, model=question.model, now=now)
            after = merge(start, _fragment(start, sent, update_time=start.update_time), source=Source.ASK)
            await trees.store(connection, self.account, mine, after, has_content=mine is None)
            if mine is None:
                await connection.execute(
                    "update conversation set is_local = 1 where account = ? and id = ?", (self.account, draft_id)
                )
            # A key that was used longer than a day ago is free again.
            await connection.execute(
                "update ask set idempotency_digest = null where account = ? and idempotency_digest = ?",
                (self.account, idempotency_digest),
            )
            await connection.execute(
                """
                insert into ask (
                    account, id, conversation, prompt_node, previous_node, state, asked_at, idempotency_digest,
                    request_digest
                ) values (?, ?, ?, ?, ?, 'asked', ?, ?, ?)
                """,
                (
                    self.account,
                    ask_id,
                    conversation_id,
                    question.message_id,
                    None if mine is None else mine.current_node,
                    now,
                    idempotency_digest,
                    request_digest,
                ),
            )

    async def grow(self, ask_id: str, nodes: Sequence[Node], *, conversation_id: str, title: str | None) -> None:
        """Write down what has come so far, and that upstream knows the prompt. A draft becomes `conversation_id`."""
        async with changing(self._database, self._cache, self.account) as connection:
            await self._grow(connection, ask_id, nodes, conversation_id=conversation_id, title=title)

    async def end(
        self, ask_id: str, state: AskState, nodes: Sequence[Node], *, conversation_id: str | None, title: str | None
    ) -> AskRecord:
        """Write down how it ended, with the last of what came, in one transaction. Answers the record as it is now."""
        async with changing(self._database, self._cache, self.account) as connection:
            if conversation_id is not None or nodes:
                await self._grow(connection, ask_id, nodes, conversation_id=conversation_id, title=title)
            if state is AskState.REFUSED:
                await self._take_back(connection, ask_id)
            if state in {AskState.UNCERTAIN, AskState.INCOMPLETE}:
                # Upstream may have more than is known here: to be fetched before anyone builds on it.
                await connection.execute(
                    """
                    update conversation set fetched_update_time = null
                    where account = ? and id = (select conversation from ask where account = ? and id = ?)
                    """,
                    (self.account, self.account, ask_id),
                )
            answer = chatgpt_json.answer_end(nodes)
            await connection.execute(
                """
                update ask set state = :state,
                               answer_node = :answer,
                               idempotency_digest = iif(:state = 'refused', null, idempotency_digest)
                where account = :account and id = :id
                """,
                {
                    "state": state.value,
                    "answer": None if answer is None else answer.id,
                    "account": self.account,
                    "id": ask_id,
                },
            )
            return await self._record(connection, ask_id)

    async def _record(self, connection: aiosqlite.Connection, ask_id: str) -> AskRecord:
        rows = await connection.execute_fetchall(
            """
            select id, conversation, prompt_node, answer_node, state, request_digest
            from ask where account = ? and id = ?
            """,
            (self.account, ask_id),
        )
        for row in rows:
            return _record(row)
        raise NotFound("ask")

    async def _grow(
        self,
        connection: aiosqlite.Connection,
        ask_id: str,
        nodes: Sequence[Node],
        *,
        conversation_id: str | None,
        title: str | None,
    ) -> None:
        record = await self._record(connection, ask_id)
        draft = await self._draft(connection, record)
        if draft is None or conversation_id is None:
            # What is asked in a conversation stays in it, whatever name upstream gives it in its answer; and a draft
            # that upstream gives none stays one.
            conversation_id = record.conversation
        mine = before = await trees.load(connection, self.account, conversation_id)
        if draft is not None and draft.id != conversation_id:
            mine = await adopt(connection, self.account, mine, [draft], conversation_id=conversation_id)
            if draft.deleted_at is not None:  # with all there was, before upstream had named it
                await bury(connection, self.account, conversation_id, at=draft.deleted_at)
        if mine is None:  # deleted and purged while the answer was under way
            return
        confirmed = [
            replace(node, completeness=Completeness.COMPLETE) for node in _unconfirmed(mine, record.prompt_node)
        ]
        newest = max((node.create_time for node in nodes if node.create_time is not None), default=None)
        update_time = max((time for time in (newest, mine.update_time) if time is not None), default=self._clock.now())
        fragment = _fragment(mine, [*confirmed, *nodes], update_time=update_time)
        after = merge(mine, replace(fragment, title=title), source=Source.ASK)
        # What began as a draft is whole; of another conversation there may be more than was fetched.
        await trees.store(connection, self.account, before, after, has_content=draft is not None)

    async def _draft(self, connection: aiosqlite.Connection, record: AskRecord) -> Draft | None:
        rows = await connection.execute_fetchall(
            "select deleted_at from conversation where account = ? and id = ? and is_local = 1",
            (self.account, record.conversation),
        )
        return next((Draft(record.conversation, record.prompt_node, row[0]) for row in rows), None)

    async def _take_back(self, connection: aiosqlite.Connection, ask_id: str) -> None:
        record = await self._record(connection, ask_id)
        tree = await trees.load(connection, self.account, record.conversation)
        sent = [] if tree is None else _unconfirmed(tree, record.prompt_node)
        binding = {
            "account": self.account,
            "id": ask_id,
            "conversation": record.conversation,
            "prompt": record.prompt_node,
        }
        await connection.executemany(
            "delete from node where account = ? and conversation = ? and id = ?",
            [(self.account, record.conversation, node.id) for node in sent],
        )
        await connection.execute(
            """
            update conversation
            set current_node = (select previous_node from ask where account = :account and id = :id)
            where account = :account and id = :conversation and current_node = :prompt
            """,
            binding,
        )
        rows = await connection.execute_fetchall(
            """
            select 1 from conversation
            where account = :account and id = :conversation and is_local = 1
              and not exists (select 1 from node where account = :account and conversation = :conversation)
            """,
            binding,
        )
        if list(rows):
            await trees.remove(connection, self.account, record.conversation)


async def recover(connection: aiosqlite.Connection) -> int:
    """Close what a process that died left open, in every account, and answer how many there were.

    A prompt that upstream has not confirmed is uncertain: it is never sent again by itself. One whose answer had
    begun is incomplete. Both stay readable.
    """
    rows = await connection.execute_fetchall(
        """
        update ask set state = iif(
            (
                select completeness from node
                where node.account = ask.account and node.conversation = ask.conversation and node.id = ask.prompt_node
            ) = 0,
            'uncertain',
            'incomplete'
        )
        where state = 'asked' returning account, conversation
        """
    )
    found = list(rows)
    await connection.executemany(
        "update conversation set fetched_update_time = null where account = ? and id = ?",
        [(row[0], row[1]) for row in found],
    )
    return len(found)


def _record(row: aiosqlite.Row) -> AskRecord:
    identifier, conversation, prompt_node, answer_node, state, request_digest = row
    return AskRecord(identifier, conversation, prompt_node, answer_node, AskState(state), request_digest)


def _unconfirmed(tree: Conversation, prompt: str) -> list[Node]:
    """The prompt and what was sent with it, as far as there is no sign of them yet: upstream answers nothing else."""
    sent: list[Node] = []
    for node in reversed(branches.branch(tree.nodes, prompt)):
        if node.completeness is not Completeness.UNCONFIRMED:
            break
        sent.append(node)
    return sent


def _draft(draft_id: str, *, title: str | None, model: str | None, now: int) -> Conversation:
    return Conversation(
        id=draft_id,
        title=title,
        create_time=now,
        update_time=now,
        current_node=None,
        nodes={},
        model=model,
        is_title_pending=title is not None,
    )


def _fragment(mine: Conversation, nodes: Sequence[Node], *, update_time: int | None) -> Conversation:
    return Conversation(
        id=mine.id,
        title=None,
        create_time=None,
        update_time=update_time,
        current_node=nodes[-1].id if nodes else mine.current_node,
        nodes={node.id: node for node in nodes},
    )
