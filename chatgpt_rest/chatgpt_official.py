# SPDX-License-Identifier: GPL-2.0-or-later
"""A conversation as ChatGPT's own export writes it: whatever reads those can read it, ours and others' importers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from chatgpt_rest import branches, chatgpt_json, chatgpt_nodes
from chatgpt_rest.chatgpt_json import dump, printable
from chatgpt_rest.clock import SECOND
from chatgpt_rest.model import Completeness, Conversation, Node

# A column of the mirror, and the member that says the same.
_SAID_BY: Final = {
    "title": "title",
    "create_time": "create_time",
    "update_time": "update_time",
    "current_node": "current_node",
    "is_archived": "is_archived",
    "is_starred": "is_starred",
    "project": "conversation_template_id",
    "model": "default_model_slug",
}
_ALWAYS_THERE: Final = ("title", "create_time", "update_time", "current_node")


def official(tree: Conversation) -> bytes:
    """The conversation in the full shape, as JSON. Every key and value that came is in it, messages byte for byte.

    What the mirror has learnt since stands in place of what came: a title, a flag, a time, the current node. Added is
    what slim exports lack and the tree tells (`children`, either id), and our own marks, where there is one to make.
    """
    came = dict(tree.envelope)
    no_nodes: dict[str, Any] = json.loads(came.pop("mapping", b"{}"))
    kin = branches.children(tree.nodes)
    members = {
        **came,
        **_learnt(tree, came),
        "mapping": chatgpt_json.pack(
            {
                key: dump(no_nodes[key]) if key in no_nodes and _is_bare(each) else _node(each, kin[key])
                for key, each in tree.nodes.items()
            }
        ),
    }
    for name in _ALWAYS_THERE:
        members.setdefault(name, b"null")
    for name in ("conversation_id", "id"):
        members.setdefault(name, dump(tree.id))
    if tree.is_deleted_upstream:
        members[chatgpt_json.DELETED_UPSTREAM] = b"true"
    return chatgpt_json.pack(members)


def _learnt(tree: Conversation, came: Mapping[str, bytes]) -> dict[str, bytes]:
    """The members that no longer say what the mirror knows."""
    told = {name: json.loads(raw) for name, raw in came.items()}
    is_its_id = (told.get("conversation_id") or told.get("id")) == tree.id
    said = chatgpt_json.conversation({**told, "conversation_id": tree.id, "mapping": {}})
    learnt = {} if is_its_id else {"conversation_id": dump(tree.id)}
    for column, name in _SAID_BY.items():
        known, before = getattr(tree, column), getattr(said, column)
        if isinstance(known, str):
            known, before = printable(known), printable(before)
        if known is not None and known != before:
            learnt[name] = dump(known / SECOND if name.endswith("_time") else known)
    return learnt


def _is_bare(each: Node) -> bool:
    """Whether nothing but its id is known of it still."""
    return each.message is None and each.parent is None and each.children is None and not each.extra


def _node(each: Node, kin: Sequence[str]) -> bytes:
    told = each.children or ()
    later = set(kin).difference(told)
    members = {
        "id": dump(each.id),
        "message": each.message or b"null",
        "parent": dump(each.parent),
        "children": dump([*told, *(child for child in kin if child in later)]),
        **{name: value for name, value in each.extra.items() if name not in chatgpt_nodes.HELD},
    }
    members |= {name: value for name, value in each.extra.items() if _still_says(name, json.loads(value), each)}
    if each.completeness is not Completeness.COMPLETE:
        members[chatgpt_nodes.PARTIAL] = b"true"
    if each.completeness is Completeness.UNCONFIRMED:
        members[chatgpt_nodes.UNCONFIRMED] = b"true"
    if each.is_absent_upstream:
        members[chatgpt_nodes.ABSENT_UPSTREAM] = b"true"
    return chatgpt_json.pack(members)


def _still_says(name: str, value: object, each: Node) -> bool:
    """Whether an odd member is still the last word: after a merge another source may know better."""
    if name == "parent":
        return printable(chatgpt_nodes.parent(value)) == printable(each.parent)
    if name == "children":
        told = chatgpt_nodes.children(value)
        return _printable(told) == _printable(each.children)
    return name == "id"


def _printable(names: Sequence[str] | None) -> list[str | None] | None:
    return None if names is None else [printable(name) for name in names]
