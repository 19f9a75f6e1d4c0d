# SPDX-License-Identifier: GPL-2.0-or-later
"""A conversation as an export holds it, in rows ready to be written.

The one form in which the process that reads an export hands conversations to the one that writes the mirror: what takes
time was done by the former, so that the latter can go on answering.
"""

from __future__ import annotations

import msgspec

NodeRow = tuple[str, str, str, int, str | None, str | None, bytes | None, bytes | None, int | None, int]
"""account, conversation, id, position, parent, children, extra, message (all three JSON), create_time (µs), shape."""


class Marks(msgspec.Struct, frozen=True, array_like=True):
    """What this program's own exports say of a node beyond ChatGPT's: that it is not complete, or vanished upstream."""

    node: str
    completeness: int
    is_absent_upstream: bool


class Pointer(msgspec.Struct, frozen=True, array_like=True):
    """A message points to an asset. `node` is "" where only the conversation is known."""

    node: str
    asset: str
    name: str | None = None
    media_type: str | None = None


class Incoming(msgspec.Struct, frozen=True, array_like=True):
    """One conversation. Texts are as SQLite can hold them, raw JSON is byte for byte as the export has it.

    `digest` is of the conversation's JSON as it stood in the file. `messages` counts nodes with a message, `hidden`
    those of them that ChatGPT's own page leaves out.
    """

    id: str
    title: str | None
    create_time: int | None
    update_time: int | None
    current_node: str | None
    envelope: bytes
    is_archived: bool
    is_starred: bool
    project: str | None
    model: str | None
    is_slim: bool
    digest: bytes
    messages: int
    hidden: int
    nodes: list[NodeRow]
    pointers: list[Pointer]
    marks: list[Marks] = []
    """Of the few nodes that have any; all others are complete and shown upstream."""
    is_deleted_upstream: bool = False
