# SPDX-License-Identifier: GPL-2.0-or-later
"""Which conversation a client's history is, and where in it: OpenAI's clients send all of it with every prompt.

Both may be large. What takes longer than a moment is worked out in a thread, from objects that nobody changes and in no
transaction, so that neither other requests nor writers wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from chatgpt_rest.errors import NotFound
from chatgpt_rest.mirror import AccountMirror, Hashed, Mirror
from chatgpt_rest.model import Conversation, Turn
from chatgpt_rest.turns import Match, canonical_turns, history_hashes, longest_match, tree_hashes

_MESSAGES_AT_ONCE: Final = 200  # hashed in one go, and written in one transaction
_MOST_BEGINNINGS: Final = 16
_MOST_TREES: Final = 32
_MOST_MESSAGES: Final = 20_000  # of the trees that are looked through for one request; at least one tree is
_MUCH: Final = 100_000  # bytes, each message counted as _MESSAGE more: 3 ms, while a thread takes 0.2 to begin
_MESSAGE: Final = 1_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """The first `known` messages of a history are in the mirror and end at `parent_id`: what follows them is new. With
    nothing known it is a new conversation.
    """

    conversation_id: str | None
    parent_id: str | None
    known: int


NOWHERE: Final = Place(None, None, 0)


class Histories:
    """Finds histories in the mirror. With `keeps_conversations` it is upstream that goes on in them, and those that
    live here alone are passed over.
    """

    def __init__(self, *, keeps_conversations: bool) -> None:
        self._even_local = not keeps_conversations
        # One thread at a time: they would share one interpreter, and nobody is to find all threads taken.
        self._thread = asyncio.Lock()

    async def place(self, mirror: AccountMirror, turns: Sequence[Turn]) -> Place:
        """Where the messages before a new prompt, oldest first, are to go on: at the end of the longest beginning that
        is in one conversation, which is an answer that upstream has, or what a client got of it before it hung up.

        Two conversations may begin with the same words: with no answer known, it is a new one. Of several that hold the
        same, it is the one whose current branch ends there, then the one updated last.
        """
        if all(turn.role != "assistant" for turn in turns):
            return NOWHERE
        # What has only changed since it was hashed is found by how it began, and the tree itself knows the rest.
        await self._hash_some(mirror, only_new=True)
        wanted, hashes = await self._work_out(
            sum(len(turn.text) + _MESSAGE for turn in turns), lambda: _beginnings(turns)
        )
        words = [turn for turn, _ in wanted]
        found = await mirror.history_hashes.known_beginnings(hashes)
        if len(found) > _MOST_BEGINNINGS:
            # The last one is the first prompt alone: all that there is to go by where the first answer was broken off.
            found = [*found[: _MOST_BEGINNINGS - 1], found[-1]]
        best: tuple[Match, str] | None = None
        seen: set[str] = set()
        messages = 0
        for beginning in found:
            if best is not None and best[0].known > beginning:
                break  # no other one shares as much
            names = await mirror.history_hashes.candidates(
                hashes[beginning], changed=hashes[found[-1]], even_local=self._even_local
            )
            for name in (each for each in names if each not in seen):
                seen.add(name)
                match, size = await self._match(mirror, name, words)
                messages += size
                if match is not None and (best is None or match[:3] > best[0][:3]):
                    best = match, name
                is_enough = len(seen) == _MOST_TREES or messages >= _MOST_MESSAGES
                if is_enough or (match is not None and match[:3] == (len(words), len(words), True)):
                    return _place(best, wanted)
        return _place(best, wanted)

    async def keep_up(self, mirror: Mirror) -> int:
        """Go on with the index of histories, a little for each account. Answers how many messages that came to."""
        return sum([await self._hash_some(mirror.of(each.id), only_new=False) for each in await mirror.accounts.all()])

    async def _hash_some(self, mirror: AccountMirror, *, only_new: bool) -> int:
        """Answers how many messages they had, each conversation at least one; 0 where nothing was left."""
        trees = await mirror.history_hashes.unhashed(
            messages=_MESSAGES_AT_ONCE, even_local=self._even_local, only_new=only_new
        )
        if trees:  # else no writer is waited for
            hashed = await self._work_out(
                sum(_size(each.tree) for each in trees),
                lambda: [Hashed(each.tree.id, each.version, set(tree_hashes(each.tree))) for each in trees],
            )
            await mirror.history_hashes.store(hashed)
        return sum(max(1, len(each.tree.nodes)) for each in trees)

    async def _match(self, mirror: AccountMirror, conversation_id: str, turns: list[Turn]) -> tuple[Match | None, int]:
        """How far it goes along with these turns, and how many messages it has."""
        try:
            tree = await mirror.conversations.get(conversation_id)
        except NotFound:  # deleted since it was found
            return None, 0
        return await self._work_out(_size(tree), lambda: longest_match(tree, turns)), len(tree.nodes)

    async def _work_out(self, size: int, work: Callable[[], T]) -> T:
        """What `work` answers, which is a matter of so many bytes."""
        if size < _MUCH:
            return work()
        async with self._thread:
            return await asyncio.to_thread(work)


def _size(tree: Conversation) -> int:
    return sum(len(node.message or b"") + _MESSAGE for node in tree.nodes.values())


def _beginnings(turns: Sequence[Turn]) -> tuple[list[tuple[Turn, int]], list[int]]:
    wanted = canonical_turns(turns)
    return wanted, history_hashes(turn for turn, _ in wanted)


def _place(best: tuple[Match, str] | None, wanted: Sequence[tuple[Turn, int]]) -> Place:
    if best is None:
        return NOWHERE
    match, conversation_id = best
    return Place(conversation_id, match.node, wanted[match.known - 1][1])
