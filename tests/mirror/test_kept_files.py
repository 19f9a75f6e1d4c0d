# SPDX-License-Identifier: GPL-2.0-or-later
"""Other files of an export, cut and joined by whole entries."""

from __future__ import annotations

import pytest

from chatgpt_rest.mirror.kept_files import UNITED_BYTES, numbered, united, without


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b' [ {"id": "c-other"} ]', b' [ {"id": "c-other"} ]', id="another is left as it is"),
        pytest.param(b'{"title":"c-gone away"}', b'{"title":"c-gone away"}', id="a text that goes on"),
        pytest.param(b'[{"id":"c-gone"}, {"id": 1 }]', b'[{"id": 1 }]', id="an entry"),
        pytest.param(b'[{"c":{"id":"c-gone"},"title":"T"},2]', b"[2]", id="deep in an entry"),
        pytest.param(rb'[{"id":"\u0063-gone"},2]', b"[2]", id="escaped"),
        pytest.param(b'\xef\xbb\xbf["c-gone",2]', b"[2]", id="after a byte order mark"),
        pytest.param(b'{"a":[{"id":"c-gone"},2],"b":{"c-gone":1}}', b'{"a":[2],"b":{}}', id="a member"),
        pytest.param(b'{"id":"c-gone","title":"T"}', None, id="all of it"),
        pytest.param(b'{"a":{"id":"c-gone","title":"T"},"b":1}', b'{"b":1}', id="a member that is it"),
        pytest.param(b'{"id":"c-gone"', None, id="no JSON"),
        pytest.param(b'\xff"c-gone"', None, id="no text"),
    ],
)
def test_what_names_a_conversation_goes(content: bytes, expected: bytes | None) -> None:
    """And nothing else."""
    assert without(content, {"c-gone", "c-unheard-of"}) == expected


def test_arrays_are_united_by_whole_entries() -> None:
    """Each is there once, in the order in which they came."""
    assert united(b'[1, {"a": 2}]', b'[3,{"a": 2}]') == b'[1,{"a": 2},3]'
    assert united(b"[1, 2]", b"[2]") == b"[1, 2]"


def test_what_is_no_array_or_too_large_is_not_united() -> None:
    """The caller keeps both."""
    assert united(b"[1]", b"{}") is united(b"{", b"[1]") is None
    assert united(b"[1]", b"[%s]" % (b" " * UNITED_BYTES + b"2")) is None


def test_a_numbered_name_keeps_its_ending() -> None:
    """So that it still says what it is."""
    assert numbered("notes.json", 2) == "notes (2).json"
