# SPDX-License-Identifier: GPL-2.0-or-later
"""What can still be told of a conversation whose JSON cannot be read: enough for a person to know which one it is."""

from __future__ import annotations

import json
import re
from typing import Final, NamedTuple

_CONVERSATION_ID: Final = re.compile(rb'"conversation_id"[ \t\r\n]*+:[ \t\r\n]*+"([A-Za-z0-9][A-Za-z0-9_-]{0,127})"')
_FIRST_ID: Final = re.compile(
    rb'\A[ \t\r\n]*+\{[ \t\r\n]*+"id"[ \t\r\n]*+:[ \t\r\n]*+"([A-Za-z0-9][A-Za-z0-9_-]{0,127})"'
)
_TITLE: Final = re.compile(rb'"title"[ \t\r\n]*+:[ \t\r\n]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")', re.DOTALL)
_MESSAGE: Final = re.compile(rb'"message"[ \t\r\n]*+:[ \t\r\n]*+\{')
_LONGEST_HEAD: Final = 65_536  # bytes in which its own title may stand, and not that of something it quotes


class Traces(NamedTuple):
    """An id and a title where they were found, and how many messages there are to count."""

    id: str | None = None
    title: str | None = None
    messages: int = 0


def traces(raw: bytes) -> Traces:
    """Of the JSON of a conversation, or the part of it that is there. In linear time, and it never raises."""
    ids = set(_CONVERSATION_ID.findall(raw)) or set(_FIRST_ID.findall(raw))
    return Traces(
        id=ids.pop().decode() if len(ids) == 1 else None,
        title=_title(raw[:_LONGEST_HEAD]),
        messages=sum(1 for _ in _MESSAGE.finditer(raw)),
    )


def _title(head: bytes) -> str | None:
    match = _TITLE.search(head.partition(b'"mapping"')[0])
    try:
        title = None if match is None else json.loads(match[1], strict=False)
    except ValueError:
        return None
    return title if isinstance(title, str) else None
