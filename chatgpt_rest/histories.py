# SPDX-License-Identifier: GPL-2.0-or-later
"""Which conversation a client's history is, and where in it: OpenAI's clients send all of it with every prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chatgpt_rest.errors import NotFound
from chatgpt_rest.mirror import AccountMirror, Mirror
from chatgpt_rest.model import Turn
from chatgpt_rest.turns import Match, canonical_turns, history_hashes, longest_match

_MESSAGES_AT_ONCE: Final = 200  # hashed in one transaction, which everybody who writes waits for: about 30 ms
_MOST_BEGINNINGS: Final = 16
_MOST_TREES: Final = 32


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

    async def place(self, mirror: AccountMirror, turns: Sequence[Turn]) -> Place:
        """Where the messages before a new prompt, oldest first, are to go on: at the end of the longest beginning that
        is in one conversation, which is an answer that upstream has, or what a client got of it before it hung up.

        Two conversations may begin with the same words: with no answer known, it is a new one. Of several that hold the
        same, it is the one whose current branch ends there, then the one updated last.
        """
        if all(turn.role != "assistant" for turn in turns):
            return NOWHERE
        await mirror.history_hashes.bring_up_to_date(messages=_MESSAGES_AT_ONCE, even_local=self._even_local)
        wanted = canonical_turns(turns)
        words = [turn for turn, _ in wanted]
        hashes = history_hashes(words)
        found = await mirror.history_hashes.known_beginnings(hashes)
        if len(found) > _MOST_BEGINNINGS:
            # The last one is the first prompt alone: all that there is to go by where the first answer was broken off.
            found = [*found[: _MOST_BEGINNINGS - 1], found[-1]]
        best: tuple[Match, str] | None = None
        seen: set[str] = set()
        for beginning in found:
            if best is not None and best[0].known > beginning:
                break  # no other one shares as much
            names = await mirror.history_hashes.candidates(hashes[beginning], even_local=self._even_local)
            for name in (each for each in names if each not in seen):
                seen.add(name)
                match = await _match(mirror, name, words)
                if match is not None and (best is None or match[:3] > best[0][:3]):
                    best = match, name
                if len(seen) == _MOST_TREES or (match is not None and match[:3] == (len(words), len(words), True)):
                    return _place(best, wanted)
        return _place(best, wanted)

    async def keep_up(self, mirror: Mirror) -> int:
        """Go on with the index of histories, a little for each account. Answers how many messages that came to."""
        hashed = 0
        for account in await mirror.accounts.all():
            hashes = mirror.of(account.id).history_hashes
            hashed += await hashes.bring_up_to_date(messages=_MESSAGES_AT_ONCE, even_local=self._even_local)
        return hashed


async def _match(mirror: AccountMirror, conversation_id: str, turns: list[Turn]) -> Match | None:
    try:
        tree = await mirror.conversations.get(conversation_id)
    except NotFound:  # deleted since it was found
        return None
    return longest_match(tree, turns)


def _place(best: tuple[Match, str] | None, wanted: Sequence[tuple[Turn, int]]) -> Place:
    if best is None:
        return NOWHERE
    match, conversation_id = best
    return Place(conversation_id, match.node, wanted[match.known - 1][1])
