# SPDX-License-Identifier: GPL-2.0-or-later
"""An answer's pieces as the one text that a client of OpenAI's puts together, and answers that something befell."""

from __future__ import annotations

import asyncio
import json
from typing import Final

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest.api.openai_answers import GrowingText, chunks
from chatgpt_rest.live import LiveAsk, Piece
from chatgpt_rest.turns import answer_text
from chatgpt_rest.upstream.simulated import SimulatedChatGPT, answer_to
from tests.chat import complete, content, user
from tests.disks import read_only
from tests.house import House


def told(pieces: list[Piece]) -> str:
    """What a client has in the end that was told these."""
    text = GrowingText()
    return "".join([*(text.add(piece) for piece in pieces), text.rest()])


WORDS: Final = st.text(alphabet="ab \n\ue200\ue201\ue202", max_size=12)


@given(st.lists(st.lists(WORDS, min_size=1, max_size=4), max_size=4))
def test_pieces_add_up_to_the_content(messages: list[list[str]]) -> None:
    """However the messages are cut into pieces, a stream says what the whole answer says."""
    pieces = [Piece(words, str(at)) for at, message in enumerate(messages) for words in message]
    whole = [{"message": "".join(message), "author": {"role": "assistant"}} for message in messages]
    assert told(pieces) == answer_text(whole)


def test_a_rewrite_goes_on_by_position() -> None:
    """What was told cannot be taken back: the new text is told from where the old one ended."""
    pieces = [Piece("One two", "a"), Piece("1 2 3 four", "a", is_rewrite=True), Piece(" five", "a")]
    assert told(pieces) == "One twoour five"


def test_a_shorter_rewrite_says_nothing_yet() -> None:
    """Only what goes beyond the old text is new."""
    pieces = [Piece("One two", "a"), Piece("1", "a", is_rewrite=True), Piece(" and much more", "a")]
    assert told(pieces) == "One twouch more"


def test_a_message_that_is_over_is_not_told_again() -> None:
    """A word that comes late to an earlier message has no place any more."""
    pieces = [Piece("One", "a"), Piece("Two", "b"), Piece(" late", "a"), Piece(" three", "b")]
    assert told(pieces) == "One\n\nTwo three"


async def test_an_answer_that_cannot_be_written_is_given_all_the_same(house: House, chatgpt: SimulatedChatGPT) -> None:
    """Whole, although the mirror has only the half of it that came before."""
    held = chatgpt.fault("conversation", hold_after_events=3)
    asking = asyncio.create_task(complete(house.client, user("Hello?")))
    await held.until_held()
    async with read_only(house):
        held.release()
        answer = await asking
    assert content(answer) == answer_to("Hello?")


async def test_a_fault_of_ours_in_mid_answer_is_opaque(caplog: pytest.LogCaptureFixture) -> None:
    """The stream ends with an error that says where to look, and the log has what happened."""
    live = LiveAsk(conversation_id="c1", request_digest=b"")

    async def fail() -> dict[str, object]:
        live.show("m1", "Hi.")
        raise LookupError("nobody foresaw this")

    live.follow(asyncio.create_task(fail()))
    request = make_mocked_request("POST", "/v1/chat/completions")
    events = [event async for event in chunks(request, live, model="gpt-5", now=0, wants_usage=False)]
    last = json.loads(events[-1].removeprefix(b"data: "))
    assert (last["error"]["code"], last["error"]["type"]) == ("internal", "server_error")
    assert b"foresaw" not in b"".join(events)
    assert "nobody foresaw this" in caplog.text
