# SPDX-License-Identifier: GPL-2.0-or-later
"""Where an ask goes on from: a message that upstream is known to have, for which it may have to be fetched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from chatgpt_rest import branches
from chatgpt_rest.errors import BadRequest, Conflict, NotFound
from chatgpt_rest.mirror import AccountMirror, Standing
from chatgpt_rest.model import Completeness, Conversation, Node

Fetch = Callable[[str], Awaitable[None]]
"""Bring the conversation of this id as upstream shows it now."""


async def find_parent(mirror: AccountMirror, conversation_id: str, parent_id: str | None, *, fetch: Fetch) -> str:
    """The message to go on from in a conversation that upstream keeps: `parent_id`, else the current branch's end.

    Raises NotFound, BadRequest where `parent_id` is none of its messages, Conflict where upstream cannot be asked in
    it, and what `fetch` raises.
    """
    standing = await mirror.conversations.standing(conversation_id)
    if standing is Standing.DELETED:
        raise NotFound("conversation")
    if standing is Standing.LOCAL:
        raise _refusal_of_local(await mirror.conversations.get(conversation_id))
    if standing is Standing.LISTED and parent_id is not None:
        return parent_id  # whether it exists, upstream will say: one request instead of two
    if standing is not Standing.HERE:
        await fetch(conversation_id)
    tree = await mirror.conversations.get(conversation_id)
    parent = _confirmed(tree, parent_id, at_least=Completeness.COMPLETE)
    if parent is None and standing is Standing.HERE:  # upstream may have more than is here
        await fetch(conversation_id)
        tree = await mirror.conversations.get(conversation_id)
    if parent is None:
        parent = _confirmed(tree, parent_id, at_least=Completeness.PARTIAL)
    if parent is None and parent_id is not None:
        raise _no_such_parent()
    return parent or _newest_confirmed(tree)


async def find_local_parent(mirror: AccountMirror, conversation_id: str, parent_id: str | None) -> str | None:
    """The same where conversations live in the mirror alone; None where nothing in it was ever answered.

    Raises NotFound, BadRequest where `parent_id` is none of its messages, Conflict where its words never came here.
    """
    standing = await mirror.conversations.standing(conversation_id)
    if standing in {Standing.DELETED, Standing.UNKNOWN}:
        raise NotFound("conversation")
    if standing is Standing.LISTED:
        raise Conflict(
            "only the title of this conversation is here: import an export that holds it, or ask in a new one",
            code="conversation_not_fetched",
        )
    tree = await mirror.conversations.get(conversation_id)
    if parent_id is None:
        end = next(iter(_confirmed_end(tree)), None)
        return None if end is None else end.id
    if (parent := _confirmed(tree, parent_id, at_least=Completeness.PARTIAL)) is None:
        raise _no_such_parent()
    return parent


def _refusal_of_local(tree: Conversation) -> Conflict:
    if any(node.completeness is not Completeness.UNCONFIRMED for node in tree.nodes.values()):
        return Conflict(
            "this conversation was held with an API key and lives in this mirror alone; ChatGPT does not know it, so "
            "ask in a new one",
            code="conversation_lives_here",
        )
    return Conflict(
        "it is not known whether this conversation ever reached ChatGPT; ask in a new one",
        code="conversation_uncertain",
    )


def _confirmed(tree: Conversation, parent_id: str | None, *, at_least: Completeness) -> str | None:
    """The parent to ask with, None where the mirror cannot vouch for it."""
    end = parent_id if parent_id is not None else branches.leaf(tree)
    node = None if end is None else tree.nodes.get(end)
    return end if node is not None and node.completeness >= at_least else None


def _newest_confirmed(tree: Conversation) -> str:
    for node in _confirmed_end(tree):
        return node.id
    raise Conflict("this conversation has no message to go on from; ask in a new one", code="conversation_empty")


def _confirmed_end(tree: Conversation) -> list[Node]:
    """The current branch from its end, without the prompts that never reached upstream."""
    branch = reversed(branches.branch(tree.nodes, branches.leaf(tree)))
    return [node for node in branch if node.completeness is not Completeness.UNCONFIRMED]


def _no_such_parent() -> BadRequest:
    return BadRequest("parent_id names no message of this conversation")
