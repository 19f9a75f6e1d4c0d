# SPDX-License-Identifier: GPL-2.0-or-later
"""The nouns: conversations, their nodes, accounts, tokens. Immutable, and nothing here reads or writes anything.

Times are integer microseconds since the epoch, or None where ChatGPT gave none. Raw JSON is `bytes`, exactly one JSON
value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum


class Completeness(IntEnum):
    """How much of a node is known to be there, in the order in which one version beats another."""

    UNCONFIRMED = 0
    """A prompt that left for upstream, of which no sign came back."""
    PARTIAL = 1
    """An answer that broke off."""
    COMPLETE = 2


class Shape(IntEnum):
    """How much ChatGPT wrote of a message: exports since 2026 leave out status, recipient, weight and more."""

    SLIM = 0
    FULL = 1


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a conversation's tree.

    `message` is the raw JSON of the message, None where the node has none (roots). `extra` holds the node's other raw
    members by name. `children` is the order its source gave them in, None where it gave none: a tree is always
    rebuilt from `parent`.
    """

    id: str
    parent: str | None
    message: bytes | None
    children: tuple[str, ...] | None = None
    extra: Mapping[str, bytes] = field(default_factory=dict)
    create_time: int | None = None
    shape: Shape = Shape.FULL
    completeness: Completeness = Completeness.COMPLETE
    is_absent_upstream: bool = False
    """Upstream stopped showing this node; it stays here."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation with its whole tree. `nodes` keeps the order of its source; `envelope` holds every raw member but
    the mapping.
    """

    id: str
    title: str | None
    create_time: int | None
    update_time: int | None
    current_node: str | None
    nodes: Mapping[str, Node]
    envelope: Mapping[str, bytes] = field(default_factory=dict)
    is_archived: bool = False
    is_starred: bool = False
    project: str | None = None
    """`g-p-…` where it belongs to a project, `g-…` where it was held with a custom GPT."""
    model: str | None = None
    is_title_pending: bool = False
    """The title was set here and has not reached upstream yet: nobody else's title replaces it."""
    is_deleted_upstream: bool = False


@dataclass(frozen=True, slots=True)
class ListedConversation:
    """What a list says of a conversation: everything but its content."""

    id: str
    title: str | None
    create_time: int | None
    update_time: int | None
    is_archived: bool = False
    is_starred: bool = False
    project: str | None = None


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of upstream's list, or of a project's."""

    items: tuple[ListedConversation, ...]
    is_last: bool
    cursor: str | None = None
    """Where the next page begins, in lists that go by upstream's own cursors and not by an offset."""
    tells_archived: bool = True
    """Each item says itself whether it is archived."""


@dataclass(frozen=True, slots=True)
class Project:
    """A folder of conversations, which upstream's plain list leaves out."""

    id: str
    name: str | None


@dataclass(frozen=True, slots=True)
class ProjectPage:
    """One page of an account's projects; `cursor` is where the next one begins, None on the last."""

    projects: tuple[Project, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Secret:
    """A token or key that shows itself only to who calls `reveal()`: never in a repr, a log line or a traceback."""

    _value: str

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a history that a client brings along: who speaks (`system`, `user` or `assistant`), and what."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class SentMessage:
    """A message that goes upstream before the prompt, in the same request, under an id chosen here."""

    id: str
    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model that upstream offers: `id` is what a request names it by."""

    id: str
    title: str | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt on its way upstream.

    `message_id` is the prompt's own id, chosen here. With `conversation_id` None it opens a new conversation.
    `before` are new messages that go with it, oldest first: the first one's parent is `parent_id`, the prompt's is the
    last one. `is_continuation` asks to go on writing the answer `parent_id`, and then `prompt` is empty.
    `history` are the words of the branch up to `parent_id`: filled only for an upstream that keeps no conversations.
    """

    message_id: str
    prompt: str
    conversation_id: str | None
    parent_id: str | None
    model: str | None
    is_continuation: bool = False
    before: tuple[SentMessage, ...] = ()
    history: tuple[Turn, ...] = ()
