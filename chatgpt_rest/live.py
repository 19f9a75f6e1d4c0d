# SPDX-License-Identifier: GPL-2.0-or-later
"""One ask under way as its readers see it: any number of them, each from the answer's beginning and at its own pace.

The text is held once, whoever reads it, and a reader is a position in it: one that stalls costs nothing, and one that
leaves changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

from chatgpt_rest.errors import Unavailable

LONGEST_PIECE: Final = 16_384
"""Characters that a reader who comes late is given at once: what one that stalls holds in memory is bounded by it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Text to append to the message `message_id`: one that was not named before begins with it. With `is_rewrite` it
    stands in place of all that came of that message.
    """

    text: str
    message_id: str
    is_rewrite: bool = False


@dataclass(slots=True)
class _Passage:
    """One message of an answer. What continues a message that was cut belongs to it, whatever its own id."""

    id: str
    ids: set[str]
    text: str = ""
    before: str = ""  # what a continuation goes on from: it begins with its own first word
    rewrites: int = 0


@dataclass(slots=True)
class _Position:
    """How far a reader is in a passage."""

    sent: int = 0
    rewrites: int = 0

    def next_piece(self, passage: _Passage) -> Piece | None:
        """What is to be read from here, None where that is nothing now."""
        is_rewrite = self.rewrites != passage.rewrites and self.sent > 0
        if self.rewrites != passage.rewrites:
            self.sent, self.rewrites = 0, passage.rewrites
        text = passage.text[self.sent : self.sent + LONGEST_PIECE]
        self.sent += len(text)
        return Piece(text, passage.id, is_rewrite) if text or is_rewrite else None


class LiveAsk:
    """An ask from its first moment to its last. Built by `Asking.start`, which owns its task."""

    def __init__(self, *, conversation_id: str | None, request_digest: bytes) -> None:
        self.request_digest = request_digest
        self.names = set[str]() if conversation_id is None else {conversation_id}
        """The ids its conversation goes by: upstream's, and the local one of a new conversation."""
        self.conversation_id = conversation_id
        """None until a new conversation has upstream's id."""
        self._passages: list[_Passage] = []
        self._cut: str | None = None  # the text that a continuation goes on from
        self._begun = asyncio.Event()
        self._changed = asyncio.Event()
        self._at_end: list[Callable[[], None]] = []
        self._task: asyncio.Task[dict[str, Any]] | None = None

    # -------------------------------------------------------------------------------------------------- readers

    @property
    def has_ended(self) -> bool:
        """Whether the answer is whole, or will never be."""
        return self._task is not None and self._task.done()

    @property
    def has_said(self) -> bool:
        """Whether there is anything to read yet."""
        return bool(self._passages)

    async def begun(self) -> None:
        """Wait until something of the answer has come, or the ask has ended."""
        await self._begun.wait()

    async def ended(self) -> None:
        """Wait until the ask has ended, however it did."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def result(self) -> dict[str, Any]:
        """The answer's message object; raises what the ask raised. Cancelling who waits here cancels nothing else."""
        if self._task is None:
            raise RuntimeError("the ask was never started")
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if self._task.cancelled():  # and not the one who waits for it: it never had its turn
                raise shutting_down() from None
            raise

    async def pieces(self) -> AsyncIterator[Piece]:
        """The answer from its beginning, piece by piece as it comes, until the ask has ended. Raises nothing.

        Nothing is given twice. Together the pieces are the text of `result()`, after those of messages before it.
        """
        read: list[_Position] = []
        while True:
            changed, is_over = self._changed, self.has_ended
            read += [_Position() for _ in range(len(self._passages) - len(read))]
            for passage, position in zip(list(self._passages), read, strict=False):
                while (piece := position.next_piece(passage)) is not None:
                    yield piece
            if not changed.is_set():
                if is_over:
                    return
                await changed.wait()

    # ----------------------------------------------------------------------------------------------------- the ask

    def follow(self, task: asyncio.Task[dict[str, Any]]) -> None:
        """Take the task that does the asking. With its end the readers come to theirs."""
        self._task = task
        task.add_done_callback(self._end)

    def on_end(self, act: Callable[[], None]) -> None:
        """Do this as well when the ask has ended."""
        self._at_end.append(act)

    def belongs_to(self, conversation_id: str) -> None:
        """Upstream's name for the conversation is known."""
        self.conversation_id = conversation_id
        self.names.add(conversation_id)

    def show(self, message_id: str, text: str) -> None:
        """All that has come of this message so far: longer than before, or, now and then, another text."""
        passage = next((each for each in self._passages if message_id in each.ids), None)
        if passage is None and self._cut is not None:
            passage = self._passages[-1]
            passage.ids.add(message_id)
            passage.before, self._cut = self._cut, None
        elif passage is None:
            passage = _Passage(message_id, {message_id})
            self._passages.append(passage)
        text = passage.before + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            text = text[:-1]  # half a character; the other half comes with the next piece
        if not text.startswith(passage.text):
            passage.rewrites += 1
        passage.text = text
        self._tell()

    def begin_continuation(self) -> None:
        """What comes from here on continues the last message without a seam."""
        self._cut = self._passages[-1].text if self._passages else None

    def settle(self, message: dict[str, Any]) -> None:
        """This is the answer: what readers were shown is brought to what it says."""
        if self.conversation_id is None:
            self.belongs_to(message["conversation_id"])
        if self._cut is not None:  # what continued the last message had no words, but the whole goes by its name
            self._passages[-1].ids.add(message["id"])
        for passage in self._passages:
            passage.before = ""
        self._cut = None
        if message["message"]:
            self.show(message["id"], message["message"])

    def _end(self, task: asyncio.Task[dict[str, Any]]) -> None:
        if not task.cancelled():
            task.exception()  # asked for here too: everybody who waited for it may have hung up
        self._tell()
        for act in self._at_end:
            act()

    def _tell(self) -> None:
        self._begun.set()
        self._changed.set()
        self._changed = asyncio.Event()


def shutting_down() -> Unavailable:
    """The refusal of what comes while the server ends."""
    return Unavailable("the server is shutting down; ask again in a moment", retry_after_seconds=5)
