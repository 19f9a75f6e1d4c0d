# SPDX-License-Identifier: GPL-2.0-or-later
"""An answer's pieces as the one text that a client of OpenAI's puts together."""

from __future__ import annotations

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest.api.openai_answers import GrowingText
from chatgpt_rest.live import Piece
from chatgpt_rest.turns import answer_text


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
