# SPDX-License-Identifier: GPL-2.0-or-later
"""Walking over JSON values that no strict reader takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatgpt_rest.archive.scanning import NotJson, Walk
from tests.shapes import json_values


def walked(raw: bytes, size: int) -> int | None:
    """Where the value at the beginning ends, found in pieces of this size; None where it does not."""
    walk, held, begin, fed = Walk(), b"", 0, 0
    while not walk.is_over:
        held, begin = held[begin:] + raw[fed : fed + size], 0
        fed = min(fed + size, len(raw))
        begin = walk.go(held, begin, is_all=fed == len(raw))
        if fed == len(raw) and not walk.is_over:
            return None
    return fed - len(held) + begin


@given(
    value=json_values,
    is_ascii=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    size=st.integers(1, 50),
    rest=st.sampled_from([b"", b" ", b",", b"]", b"}", b' {"a"', b"\n\n\x00"]),
)
def test_a_value_ends_where_it_was_written_to(
    *, value: Any, is_ascii: bool, indent: int | None, size: int, rest: bytes
) -> None:
    """Whatever follows, and however little of it is seen at a time."""
    raw = json.dumps(value, ensure_ascii=is_ascii, indent=indent).encode("utf-8", "surrogatepass")
    assert walked(raw + rest, size) == len(raw)


@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize("raw", [b"", b"[", b'{"a"', b'{"a": ', b'"abc', b'"abc\\', b"[1", b'["a",'])
def test_a_value_that_is_cut_has_no_end(raw: bytes, size: int) -> None:
    """More data could still make it one."""
    assert walked(raw, size) is None


@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize(
    ("raw", "position"),
    [
        (b"x", 0),
        (b"]", 0),
        (b"[1,]", 3),
        (b"[1 2]", 3),
        (b"[1}", 2),
        (b'{"a":1,}', 7),
        (b'{"a" 1}', 5),
        (b'{"a":1 "b":2}', 7),
        (b'{"a"}', 4),
        (b"{1:2}", 1),
        (b"{[", 1),
        (b'["a" "b"]', 5),
        (b'["a":1]', 4),
        (b"[-]", 1),
        (b"[nul]", 1),
        (b"[\x00]", 1),
        (b'[ \n "a", \xff]', 9),
        (b"[" * 200_001, 200_000),
        (b"[" + b"7" * 200_000, 1),
    ],
    ids=lambda value: value[:12].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_what_is_no_json_is_told_by_its_place(raw: bytes, position: int, size: int) -> None:
    """At the first byte that no JSON could have there."""
    with pytest.raises(NotJson) as fault:
        walked(raw, size if len(raw) < 1_000 else len(raw) // 2)
    assert size < len(raw) or fault.value.position == position
