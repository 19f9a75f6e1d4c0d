# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever happens upstream, here and on the way: no message is lost, and once nothing fails the mirror is what
upstream shows. Histories are generated; the mirror is a real file, upstream is asked without HTTP.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from chatgpt_rest import chatgpt_json
from chatgpt_rest.clock import DAY, HOUR, MINUTE, SECOND
from chatgpt_rest.model import Completeness, Conversation, Shape
from chatgpt_rest.upstream.simulated.conversations import SimConversation
from tests.histories import Do, Pass, Restart, Step, histories, peaceful_histories
from tests.house import NOON
from tests.rows import rows
from tests.world import ALICE, World

BOB: Final = "user-bob"
LONGEST_PASS: Final = DAY  # over two dozen conversations, at forty requests an hour


@dataclass(frozen=True)
class Kept:
    """A node as the mirror was seen to hold it."""

    conversation: str
    message: bytes | None
    shape: Shape
    completeness: Completeness


@dataclass
class Watch:
    """Sees to it that nothing that was ever here is gone or has become less, and that nobody else is touched."""

    world: World
    kept: dict[str, Kept] = field(default_factory=dict)
    bobs: list[tuple[Any, ...]] = field(default_factory=list)

    async def begin(self) -> None:
        """Bob has conversations of the same ids, and nothing of his will ever change."""
        mirror = self.world.mirror
        for account in (ALICE, BOB):
            await mirror.accounts.accept(account, account.encode(), email=None, expires_at=NOON + 365 * DAY)
        for conversation in self.world.account.everything:
            await mirror.of(BOB).conversations.save_whole(replace(shown_by(conversation), title="Bob's"))
        self.bobs = self.rows_of_bob()

    def look(self) -> None:
        """Hold what is here now against what was here before, and against what was done."""
        purged = self._names("purged_at is not null")
        assert purged <= self.world.buried
        self._keep(purged)
        assert self.world.buried <= self._names("deleted_at is not null")
        assert self._names("is_deleted_upstream = 1") <= self.world.upstream.said_gone | self.world.brought_back
        titles = dict(self.world.rows("select id, title from conversation where is_title_pending = 1"))
        assert titles == {name: title for name, title in self.world.titles.items() if name not in purged}
        assert self.rows_of_bob() == self.bobs
        faults = rows(self.world.mirror.path, "select 1 from sync where error_code = 'internal'")
        assert not faults, "a fault of the program, or of this test, was taken for upstream's"

    def _keep(self, purged: set[str]) -> None:
        kept = {
            name: Kept(conversation, message, Shape(shape), Completeness(completeness))
            for name, conversation, message, shape, completeness in self.world.rows(
                "select id, conversation, message, shape, completeness from node"
            )
        }
        for name, before in self.kept.items():
            if before.conversation not in purged and name not in self.world.taken_back:
                assert name in kept, f"{name} of {before.conversation} is lost"
                self._is_no_less(name, before, kept[name])
        self.kept = kept

    def _is_no_less(self, name: str, before: Kept, now: Kept) -> None:
        assert now.conversation == before.conversation or before.conversation.startswith("draft")
        assert (now.completeness, now.shape) >= (before.completeness, before.shape)
        if name in self.world.written_here:
            assert words(now.message).startswith(words(before.message))
        elif now.shape is before.shape:
            assert now.message == before.message

    def _names(self, condition: str) -> set[str]:
        return {name for (name,) in self.world.rows(f"select id from conversation where {condition}")}

    def rows_of_bob(self) -> list[tuple[Any, ...]]:
        return [
            (table, *row)
            for table in ("conversation", "node", "listing", "sync", "upstream_request", "ask")
            for row in rows(self.world.mirror.path, f"select * from {table} where account = '{BOB}'")
        ]


# A whole history takes a third of a second.
@settings(max_examples=1_000 if settings.get_current_profile_name() == "soak" else 40)
@given(
    history=histories,
    afterwards=peaceful_histories,
    conversations=st.sampled_from([0, 2, 9, 14]),
    page=st.sampled_from([6, 100]),
)
async def test_nothing_is_lost_and_the_mirror_comes_true(
    history: list[Step], afterwards: list[Step], conversations: int, page: int
) -> None:
    """Through edits, deletions, renames, branches that go, clocks that are off, ends of the process, lies and failures:
    what was here stays, what was set or deleted here stays so, and only upstream's own word marks a thing as gone. A
    full sweep in which nothing fails ends with what upstream shows, and so does each pass from there on.
    """
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), conversations=conversations, page=page)
        watch = Watch(world)
        await world.start()
        try:
            await watch.begin()
            for step in [Pass(), *history]:
                await world.do(step)
                if isinstance(step, Restart):
                    watch.bobs = watch.rows_of_bob()  # a clock that was ahead is put right for everybody
                watch.look()
            while world.asking:
                await world.do(Do("break"))
            world.set_right()
            await world.alice.backlog.try_again()
            world.clock.move(seconds=(DAY + HOUR) / SECOND)  # what upstream did not have is looked for again
            await sync(world, watch)  # to the end of a sweep that is under way: another one begins only then
            await world.alice.sync.begin_sweep(world.clock.now())
            await sync(world, watch)
            await is_true(world, is_swept=True)
            for step in afterwards:
                await world.do(step)
            world.clock.move(seconds=DAY / SECOND)  # every list is due
            await sync(world, watch)
            await is_true(world, is_swept=False)
        finally:
            await world.process.aclose()


async def sync(world: World, watch: Watch) -> None:
    """One pass to its end, however long it waits for tokens."""
    latest = world.clock.now() + LONGEST_PASS
    this = await world.sync.advance(ALICE)
    while this.waits_for is not None:
        watch.look()
        assert world.clock.now() < latest
        world.clock.move(seconds=max(MINUTE, (this.waits_until or 0) - world.clock.now()) / SECOND)
        this = await world.sync.advance(ALICE)
    watch.look()


async def is_true(world: World, *, is_swept: bool) -> None:
    """The mirror is what upstream shows; what it shows no more, only a full sweep must have found."""
    counts = await world.alice.backlog.counts()
    assert (counts.stale, counts.set_aside) == (0, 0)
    deleted_prompts = world.rows(
        "select prompt_node from ask join conversation on conversation.id = ask.conversation"
        f" where ask.account = '{ALICE}' and is_local = 1 and deleted_at is not null"
    )
    for conversation in world.account.everything:
        if conversation.id in world.buried or any(prompt in conversation.mapping for (prompt,) in deleted_prompts):
            continue
        if conversation.is_visible:
            mine = await world.alice.conversations.get(conversation.id)
            is_same(mine, shown_by(conversation), title=world.titles.get(mine.id))
        elif is_swept:
            found = world.rows(f"select is_deleted_upstream from conversation where id = '{conversation.id}'")
            assert found in ([], [(1,)]), f"{conversation.id} is gone, and nobody noticed"


def is_same(mine: Conversation, theirs: Conversation, *, title: str | None) -> None:
    """What upstream shows of a conversation is here, and what else is here is marked."""
    assert not mine.is_deleted_upstream
    assert mine.title == (title or theirs.title)
    assert (mine.is_archived, mine.project) == (theirs.is_archived, theirs.project)
    assert mine.current_node == theirs.current_node
    present = {name: node for name, node in mine.nodes.items() if not node.is_absent_upstream}
    assert present.keys() == theirs.nodes.keys()
    for name, node in theirs.nodes.items():
        assert (present[name].parent, present[name].message) == (node.parent, node.message)


def shown_by(conversation: SimConversation) -> Conversation:
    """The conversation as upstream shows it now."""
    return chatgpt_json.conversation(json.loads(json.dumps(conversation.detail())))


def words(message: bytes | None) -> str:
    """What a message says."""
    return "" if message is None else chatgpt_json.text(json.loads(message))
