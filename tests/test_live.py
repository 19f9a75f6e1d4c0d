# SPDX-License-Identifier: GPL-2.0-or-later
"""An answer under way: what readers see of it, each from its beginning and at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest.errors import Unavailable, UpstreamBroken
from chatgpt_rest.live import LONGEST_PIECE, LiveAsk, Piece


class Ask:
    """An ask whose end the test decides."""

    def __init__(self, conversation_id: str | None = "conversation-1") -> None:
        self.live = LiveAsk(conversation_id=conversation_id, request_digest=b"")
        self._outcome: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._run())
        self.live.follow(self.task)

    async def _run(self) -> dict[str, Any]:
        return await self._outcome

    async def succeed(self, text: str, message_id: str = "answer") -> None:
        message = {"id": message_id, "message": text, "conversation_id": "conversation-1"}
        self.live.settle(message)
        self._outcome.set_result(message)
        await asyncio.wait((self.task,))

    async def fail(self, error: Exception) -> None:
        self._outcome.set_exception(error)
        await asyncio.wait((self.task,))


class Reader:
    """One who reads along."""

    def __init__(self, live: LiveAsk) -> None:
        self.pieces: list[Piece] = []
        self.task = asyncio.create_task(self._read(live))

    async def _read(self, live: LiveAsk) -> None:
        async for piece in live.pieces():
            self.pieces.append(piece)

    async def catch_up(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


async def read(live: LiveAsk) -> list[Piece]:
    """Everything, of an ask that has ended."""
    return [piece async for piece in live.pieces()]


def texts(pieces: Sequence[Piece]) -> dict[str, str]:
    """What a client has of each message, having done what the pieces say."""
    held: dict[str, str] = {}
    for piece in pieces:
        held[piece.message_id] = piece.text if piece.is_rewrite else held.get(piece.message_id, "") + piece.text
    return held


async def test_each_piece_is_what_is_new() -> None:
    """A reader who keeps up gets each growth once."""
    ask = Ask()
    reader = Reader(ask.live)
    for text in ("One", "One two", "One two three"):
        ask.live.show("answer", text)
        await reader.catch_up()
    await ask.succeed("One two three")
    await reader.task
    assert reader.pieces == [Piece("One", "answer"), Piece(" two", "answer"), Piece(" three", "answer")]


async def test_who_joins_late_reads_from_the_beginning() -> None:
    """A second reader gets what the first one has had, in one piece, and goes on from there."""
    ask = Ask()
    ask.live.show("answer", "One two")
    late = Reader(ask.live)
    await late.catch_up()
    ask.live.show("answer", "One two three")
    await ask.succeed("One two three")
    await late.task
    assert late.pieces == [Piece("One two", "answer"), Piece(" three", "answer")]


async def test_the_end_says_what_was_not_shown_yet() -> None:
    """The answer as it is in the end completes what readers have."""
    ask = Ask()
    ask.live.show("answer", "One")
    await ask.succeed("One two")
    assert texts(await read(ask.live)) == {"answer": "One two"}


async def test_an_answer_of_an_earlier_ask_is_one_piece() -> None:
    """Where nothing was watched, as with a repeated Idempotency-Key, the whole answer is given at the end."""
    ask = Ask(conversation_id=None)
    await ask.succeed("All of it.")
    assert await read(ask.live) == [Piece("All of it.", "answer")]
    assert ask.live.conversation_id == "conversation-1"


async def test_a_rewritten_text_replaces_what_was_given() -> None:
    """Where upstream takes words back, the whole text comes again, marked as such."""
    ask = Ask()
    reader = Reader(ask.live)
    ask.live.show("answer", "A cat")
    await reader.catch_up()
    ask.live.show("answer", "A dog")
    await ask.succeed("A dog barks")
    await reader.task
    assert reader.pieces == [Piece("A cat", "answer"), Piece("A dog barks", "answer", is_rewrite=True)]


async def test_another_message_begins_anew() -> None:
    """What the assistant says before it uses a tool and after it are two messages, each under its own id."""
    ask = Ask()
    ask.live.show("first", "Let me look.")
    ask.live.show("second", "It is 12.")
    await ask.succeed("It is 12.", "second")
    assert texts(await read(ask.live)) == {"first": "Let me look.", "second": "It is 12."}


async def test_a_continuation_has_no_seam() -> None:
    """What continues a cut message is appended to it, under the id that began it."""
    ask = Ask()
    ask.live.show("first", "One\n")
    ask.live.begin_continuation()
    ask.live.show("second", "\nTwo")
    await ask.succeed("One\n\nTwo", "second")
    assert await read(ask.live) == [Piece("One\n\nTwo", "first")]


async def test_a_continuation_without_a_word_repeats_nothing() -> None:
    """Where a cut message had been at its end already, what continued it gives the whole another id, and no more."""
    ask = Ask()
    ask.live.show("first", "One.")
    ask.live.begin_continuation()
    await ask.succeed("One.", "second")
    assert await read(ask.live) == [Piece("One.", "first")]


async def test_half_a_character_waits_for_its_other_half() -> None:
    """Upstream cuts between the two halves of an emoji; no piece holds half of one."""
    ask = Ask()
    reader = Reader(ask.live)
    ask.live.show("answer", "Hi \ud83d")
    await reader.catch_up()
    await ask.succeed("Hi 😀")
    await reader.task
    assert reader.pieces == [Piece("Hi ", "answer"), Piece("😀", "answer")]


async def test_a_long_text_comes_in_bounded_pieces() -> None:
    """What a reader holds at once does not grow with the answer."""
    ask = Ask()
    text = "x" * (3 * LONGEST_PIECE + 1)
    await ask.succeed(text)
    pieces = await read(ask.live)
    assert [len(piece.text) for piece in pieces] == [LONGEST_PIECE, LONGEST_PIECE, LONGEST_PIECE, 1]
    assert texts(pieces) == {"answer": text}


async def test_a_failure_ends_the_pieces_and_is_the_result() -> None:
    """Readers keep what came; the error is what the ask ends with."""
    ask = Ask()
    ask.live.show("answer", "One")
    await ask.fail(UpstreamBroken("upstream broke"))
    assert await read(ask.live) == [Piece("One", "answer")]
    with pytest.raises(UpstreamBroken):
        await ask.live.result()


async def test_a_reader_who_leaves_ends_nothing() -> None:
    """Cancelling one who waits for the result leaves the ask and the other readers alone."""
    ask = Ask()
    waiting, reader = asyncio.create_task(ask.live.result()), Reader(ask.live)
    await reader.catch_up()
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert waiting.cancelled()
    await ask.succeed("All of it.")
    await reader.task
    assert texts(reader.pieces) == {"answer": "All of it."}


async def test_an_ask_that_never_had_its_turn_says_that_the_server_ends() -> None:
    """One that is cancelled before it began is refused, not cancelled, in the eyes of who waits for it."""
    ask = Ask()
    ask.task.cancel()
    with pytest.raises(Unavailable):
        await ask.live.result()
    assert await read(ask.live) == []


async def test_begun_tells_of_the_first_word_and_of_the_end() -> None:
    """It returns with the first text, and where the ask ends without one."""
    spoken, silent = Ask(), Ask()
    waits = [asyncio.create_task(ask.live.begun()) for ask in (spoken, silent)]
    await asyncio.sleep(0)
    assert not any(wait.done() for wait in waits)
    spoken.live.show("answer", "One")
    await silent.fail(UpstreamBroken("upstream broke"))
    await asyncio.gather(*waits)
    assert (spoken.live.has_said, silent.live.has_said) == (True, False)
    await spoken.succeed("One")


@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abc"), st.text(alphabet="xy\ud83d\ude00😀", max_size=6), st.booleans()), max_size=20
    )
)
def test_every_reader_ends_with_the_same_texts(steps: list[tuple[str, str, bool]]) -> None:
    """Whenever a reader joins, and whatever is rewritten, it ends with what the messages say."""

    async def run() -> None:
        ask = Ask()
        readers = [Reader(ask.live)]
        for message_id, text, keeps_up in steps:
            ask.live.show(message_id, text)
            if keeps_up:
                await readers[0].catch_up()
                readers.append(Reader(ask.live))
        await ask.succeed("The end.", "end")
        await asyncio.gather(*(reader.task for reader in readers))
        whole = texts(await read(ask.live))
        assert whole["end"] == "The end."
        assert all(_nonempty(texts(reader.pieces)) == _nonempty(whole) for reader in readers)

    asyncio.run(run())


def _nonempty(held: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in held.items() if value}
