# SPDX-License-Identifier: GPL-2.0-or-later
"""Every way a stream's bytes have been seen to come."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest.errors import UpstreamBroken
from chatgpt_rest.upstream.events import EventReader
from chatgpt_rest.upstream.limits import LARGEST_STREAM_BYTES, LONGEST_LINE_BYTES, MIB

JSON = st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(), max_size=4)


def feed(chunks: Iterable[bytes]) -> list[object]:
    """All events of a stream that consists of `chunks`."""
    reader = EventReader()
    return [event for chunk in chunks for event in reader.feed(chunk)] + list(reader.end())


def events(*chunks: bytes) -> list[object]:
    """The same."""
    return feed(chunks)


@pytest.mark.parametrize(
    "stream",
    [
        b'data: {"a": 1}\n\ndata: {"b": 2}\n\ndata: [DONE]\n\n',
        b'data:{"a": 1}\n\ndata:{"b": 2}\n\ndata:[DONE]\n\n',
        b'data: {"a": 1}\r\n\r\ndata: {"b": 2}\r\n\r\ndata: [DONE]\r\n\r\n',
        b'data: {"a": 1}\ndata: {"b": 2}\ndata: [DONE]\n',
        b'data: {\ndata: "a":\ndata: 1}\n\ndata: {"b": 2}\n\n',
        b'data: {"a": 1}\n\ndata: {"b": 2}',
        b'data: {"a": 1}\n\ndata: {"b":\ndata: 2}',
        b'\xef\xbb\xbfdata: {"a": 1}\n\ndata: {"b": 2}\n\n',
        b': comment\nid: 7\nretry: 10\nevent: message\ndata: {"a": 1}\n\n\n\ndata: {"b": 2}\n\n',
        b'data: {"a": 1}\n\ndata: {"half of\n\ndata: {"b": 2}\n\n',
        b'data: {"a": 1}\n\ndata: {"b": 2}\n\ndata: [DONE]\n\ndata: {"c": 3}\n\n',
    ],
    ids=[
        "plain",
        "no_space",
        "carriage_returns",
        "no_empty_lines",
        "multi_line_data",
        "no_last_newline",
        "no_last_newline_in_multi_line_data",
        "byte_order_mark",
        "other_fields",
        "an_event_that_is_no_json",
        "more_after_done",
    ],
)
def test_the_same_two_events_come_of_each_form(stream: bytes) -> None:
    """What differs only in form gives the same events."""
    assert events(stream) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1e", "\r"])
def test_raw_separators_do_not_end_a_line(separator: str) -> None:
    """A line ends at a newline and nowhere else, whatever `str.splitlines` thinks."""
    text = f"one{separator}two"
    assert events(f'data: {{"text": "{text}"}}\n\n'.encode()) == [{"text": text}]


@given(st.lists(JSON, max_size=5), st.booleans(), st.booleans(), st.data())
def test_where_the_network_cuts_makes_no_difference(
    sent: list[object], is_ascii: bool, is_done: bool, data: st.DataObject
) -> None:
    """Chunks may end anywhere, inside a character too."""
    stream = b"".join(
        f"data: {json.dumps(event, ensure_ascii=is_ascii)}\n\n".encode("utf-8", "replace") for event in sent
    )
    stream += b"data: [DONE]\n\n" if is_done else b""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    chunks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert events(*chunks) == events(stream)
    assert len(events(stream)) == len(sent)


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_are_read_or_refused(chunks: list[bytes]) -> None:
    """Rubbish raises nothing but UpstreamBroken."""
    with suppress(UpstreamBroken):
        events(*chunks)


def test_a_bad_byte_costs_a_character_not_the_event() -> None:
    """Invalid UTF-8 is replaced."""
    assert events(b'data: {"text": "a\xffb"}\n\n') == [{"text": "a\ufffdb"}]


def test_what_is_not_finite_is_null() -> None:
    """NaN and numbers too large for a float could not be written as JSON again."""
    assert events(b'data: {"a": NaN, "b": -Infinity, "c": 1e999, "d": 1.5}\n\n') == [
        {"a": None, "b": None, "c": None, "d": 1.5}
    ]


def test_an_event_nested_beyond_reason_is_passed_over() -> None:
    """100,000 brackets do not crash the reader."""
    assert events(b"data: " + b"[" * 100_000 + b'\n\ndata: {"a": 1}\n\n') == [{"a": 1}]


def test_done_is_remembered() -> None:
    """A stream that says `[DONE]` is told from one that merely ends."""
    reader = EventReader()
    list(reader.feed(b"data: [DO"))
    assert not reader.is_done
    list(reader.feed(b"NE]\n"))
    assert reader.is_done


def test_internal_server_error_line_breaks_the_stream() -> None:
    """The bare line that upstream sends in mid-stream is an error."""
    with pytest.raises(UpstreamBroken, match="Internal Server Error"):
        events(b'data: {"a": 1}\n\nInternal Server Error\n')


def test_internal_server_error_as_the_last_words_breaks_the_stream() -> None:
    """Also with no newline after it."""
    with pytest.raises(UpstreamBroken, match="Internal Server Error"):
        events(b'data: {"a": 1}\n\nInternal server error')


def test_delta_encoding_is_named() -> None:
    """The 2026 web client's encoding is not taken for silence."""
    with pytest.raises(UpstreamBroken, match="delta encoding") as caught:
        events(b'event: delta_encoding\ndata: "v1"\n\n')
    assert caught.value.code == "upstream_delta_encoding"


def test_what_is_no_event_is_kept_for_the_diagnosis() -> None:
    """A page in a stream's place can be recognised afterwards, and is not collected for ever."""
    reader = EventReader()
    list(reader.feed(b"<html>\n<body>"))
    list(reader.end())
    assert reader.stray == b"<html>\n<body>\n"
    for _ in range(4):
        list(reader.feed(b"x" * MIB + b"\n"))
    assert len(reader.stray) < 3 * MIB


def test_huge_line_is_refused() -> None:
    """A line that never ends does not fill the memory."""
    with pytest.raises(UpstreamBroken, match="line"):
        feed(b"data: " + b"x" * MIB for _ in range(LONGEST_LINE_BYTES // MIB + 2))


def test_huge_event_of_many_lines_is_refused() -> None:
    """Nor does an event that never ends."""
    with pytest.raises(UpstreamBroken, match="event"):
        feed(b"data: {" + b"x" * MIB + b"\n" for _ in range(LONGEST_LINE_BYTES // MIB + 2))


def test_huge_stream_is_refused() -> None:
    """Nor a stream of comments."""
    chunk = b":" + b"x" * (4 * MIB) + b"\n"
    with pytest.raises(UpstreamBroken, match="larger"):
        feed(chunk for _ in range(LARGEST_STREAM_BYTES // len(chunk) + 2))
