# SPDX-License-Identifier: GPL-2.0-or-later
"""What is told of conversations that cannot be read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest.archive.traces import Traces, traces
from tests.shapes import conversation_json, message

TALK = json.dumps(conversation_json(None, message(), message(), title="Ä")).encode()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (TALK, Traces("conversation", "Ä", 2)),
        (TALK[: TALK.index(b'"n2"')], Traces(None, "Ä", 1)),
        (b'{"id": "a-1", "title" : "T", "mapping": {"x": [', Traces("a-1", "T", 0)),
        (TALK + b'"conversation_id": "another"', Traces(None, "Ä", 2)),
        (b'{"mapping": {"title": "of something else"', Traces(None, None, 0)),
        (b'{"title": "half \\ud800"', Traces(None, "half \ud800", 0)),
        (b'{"title": "\\x"', Traces(None, None, 0)),
        (b'{"title": "\xff"', Traces(None, None, 0)),
        (b"", Traces(None, None, 0)),
    ],
    ids=["whole", "cut", "slim", "two ids", "not its title", "half a pair", "no escape", "no UTF-8", "nothing"],
)
def test_what_is_certain_is_told(raw: bytes, expected: Traces) -> None:
    """An id where there is one and no other, its own title, and messages as far as they can be counted."""
    assert traces(raw) == expected


@given(st.binary() | st.integers(0, len(TALK)).map(lambda at: TALK[:at] + b"\\" + TALK[at:]))
def test_no_bytes_stop_it(raw: bytes) -> None:
    """It is asked of damaged things only."""
    traces(raw)
