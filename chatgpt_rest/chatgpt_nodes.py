# SPDX-License-Identifier: GPL-2.0-or-later
"""What a node of ChatGPT's trees says of itself: which members a `Node` holds, which only their raw value can tell
again, and our own marks among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Final

from chatgpt_rest.model import Completeness

HELD: Final = frozenset({"id", "message", "parent", "children"})
"""What a `Node` has a place for."""

# Our own marks, `true` where they stand.
PARTIAL: Final = "is_partial"
UNCONFIRMED: Final = "is_unconfirmed"
ABSENT_UPSTREAM: Final = "is_absent_upstream"
FROM_CLIENT: Final = "is_from_client"
"""Of a system message that a client sent: unlike the others it stays among a node's raw members."""


def is_held(name: str, value: object, *, key: str, kin: Set[str]) -> bool:
    """Whether a `Node` can tell again what the member `name` of the node `key` says. `kin` are the nodes that name this
    one as their parent: a list of children that leaves some out could not be told from one that gained them later.
    """
    if name == "id":
        return value == key
    if name == "parent":
        return value is None or _is_text(value)
    if name == "children":
        return isinstance(value, list) and all(map(_is_text, value)) and kin <= set(value)
    return name in HELD


def parent(value: object) -> str | None:
    """The node that a member `parent` names."""
    return value if isinstance(value, str) else None


def children(value: object) -> tuple[str, ...] | None:
    """The order that a member `children` tells; None where it tells none."""
    return tuple(child for child in value if isinstance(child, str)) if isinstance(value, list) else None


def kin(mapping: Mapping[str, object]) -> dict[str | None, set[str]]:
    """The nodes that name each other one as their parent: no node is its own child."""
    found: dict[str | None, set[str]] = {}
    for key, members in mapping.items():
        above = parent(members.get("parent")) if isinstance(members, dict) else None
        if above != key:
            found.setdefault(above, set()).add(key)
    return found


def marks(members: Mapping[str, Any]) -> set[str]:
    """Which of our own marks a node carries."""
    return {name for name in (PARTIAL, UNCONFIRMED, ABSENT_UPSTREAM) if members.get(name) is True}


def completeness(marked: Set[str]) -> Completeness:
    """What the marks say of it."""
    if UNCONFIRMED in marked:
        return Completeness.UNCONFIRMED
    return Completeness.PARTIAL if PARTIAL in marked else Completeness.COMPLETE


def _is_text(value: object) -> bool:
    """Whether it is text that SQLite can hold: no lone surrogate is in it."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
