# SPDX-License-Identifier: GPL-2.0-or-later
"""The one rule by which what upstream shows, an export holds and an ask brings become one tree.

Nodes are united and none is ever dropped. Of two versions of one node the complete beats the partial and the full the
slim, else the newer source wins. Title, current node and flags come from the newer source, except a title set here
and not pushed yet; an export is newer there only by whole seconds, since a rename moves no update time and would be
undone by an export from before it. Nothing is overwritten by less.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from chatgpt_rest.clock import SECOND
from chatgpt_rest.model import Conversation, ListedConversation, Node


class Source(Enum):
    """Where a version of a conversation comes from, which is how much its silence says."""

    UPSTREAM = "upstream"
    """The whole tree as upstream shows it now: a node that is not in it has vanished there."""
    EXPORT = "export"
    """The whole tree as it was when the export was made."""
    ASK = "ask"
    """A prompt and what came back, hung onto a tree that stays as it is."""


def merge(mine: Conversation | None, theirs: Conversation, *, source: Source) -> Conversation:
    """What the mirror holds after `theirs` came in. Merging the same thing twice changes nothing."""
    if mine is None:
        return theirs
    newer, older = (theirs, mine) if _is_newer(theirs, than=mine) else (mine, theirs)
    nodes = {
        key: _united(node, theirs.nodes.get(key), prefer_theirs=newer is theirs) for key, node in mine.nodes.items()
    }
    nodes |= {key: node for key, node in theirs.nodes.items() if key not in mine.nodes}
    if source is Source.UPSTREAM and newer is theirs:
        nodes = {key: replace(node, is_absent_upstream=key not in theirs.nodes) for key, node in nodes.items()}
    head, other = newer, older
    if source is Source.EXPORT and not _says_more(theirs, than=mine):
        head, other = mine, theirs
    unsaid = _unsaid(mine, theirs) if head is mine and newer is theirs else frozenset()
    pending = next((each for each in (mine, theirs) if each.is_title_pending), None)
    return Conversation(
        id=mine.id,
        title=_title(head.title, other.title) if pending is None else pending.title,
        create_time=_earliest(mine.create_time, theirs.create_time),
        update_time=newer.update_time,
        current_node=next(
            (end for end in (head.current_node, other.current_node) if end in nodes),
            head.current_node or other.current_node,
        ),
        nodes=nodes,
        envelope={**mine.envelope, **theirs.envelope, **head.envelope},
        is_archived=mine.is_archived if source is Source.ASK else head.is_archived or "is_archived" in unsaid,
        is_starred=mine.is_starred if source is Source.ASK else head.is_starred or "is_starred" in unsaid,
        project=head.project or other.project,
        model=head.model or other.model,
        is_title_pending=pending is not None,
        is_deleted_upstream=False if source is Source.UPSTREAM else mine.is_deleted_upstream,
    )


def merge_listed(mine: ListedConversation | None, theirs: ListedConversation) -> ListedConversation:
    """What the mirror holds of a conversation after upstream's list named it. A list that tells no update time is as
    new as what is here. A title not pushed yet is the caller's.
    """
    if mine is None:
        return theirs
    if theirs.update_time is not None and whole_seconds(theirs.update_time) < whole_seconds(mine.update_time):
        return mine
    is_same_second = theirs.update_time is None or whole_seconds(theirs.update_time) == whole_seconds(mine.update_time)
    return replace(
        theirs,
        title=_title(theirs.title, mine.title),
        create_time=_earliest(mine.create_time, theirs.create_time),
        update_time=mine.update_time if is_same_second else theirs.update_time,
        project=theirs.project or mine.project,
    )


def whole_seconds(time: int | None) -> int:
    """The precision at which two update times may be compared, a missing one being older than all.

    Lists carry whole seconds, details fractions: compared exactly, every conversation would stay stale forever.
    """
    return -1 if time is None else time // SECOND


def _is_newer(theirs: Conversation, *, than: Conversation) -> bool:
    return whole_seconds(theirs.update_time) >= whole_seconds(than.update_time)


def _says_more(theirs: Conversation, *, than: Conversation) -> bool:
    """Whether an export's title and flags are news: at the same second only where there are none here."""
    ours, time = whole_seconds(than.update_time), whole_seconds(theirs.update_time)
    return time > ours or (time == ours and not than.nodes and than.title is None)


def _unsaid(mine: Conversation, theirs: Conversation) -> frozenset[str]:
    """The flags that theirs sets and of which nothing was ever said here, since slim exports have none."""
    flags = {"is_archived": theirs.is_archived, "is_starred": theirs.is_starred}
    return frozenset(name for name, is_set in flags.items() if is_set and mine.nodes and name not in mine.envelope)


def _united(mine: Node, theirs: Node | None, *, prefer_theirs: bool) -> Node:
    if theirs is None:
        return mine
    better, lesser = (
        (theirs, mine) if (_rank(theirs), prefer_theirs) > (_rank(mine), not prefer_theirs) else (mine, theirs)
    )
    return replace(
        better,
        parent=better.parent or lesser.parent,
        children=_more(better.children, lesser.children),
        extra={**lesser.extra, **better.extra},
        create_time=better.create_time if better.create_time is not None else lesser.create_time,
        # An older source says nothing of what vanished since.
        is_absent_upstream=mine.is_absent_upstream and (theirs.is_absent_upstream or not prefer_theirs),
    )


def _rank(node: Node) -> tuple[bool, int, int]:
    return node.message is not None, node.completeness, node.shape


def _title(newer: str | None, older: str | None) -> str | None:
    return newer if newer and not newer.isspace() else older or newer


def _more(better: tuple[str, ...] | None, lesser: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if better is None:
        return lesser
    return better + tuple(child for child in lesser or () if child not in better)


def _earliest(mine: int | None, theirs: int | None) -> int | None:
    return min((time for time in (mine, theirs) if time is not None), default=None)
