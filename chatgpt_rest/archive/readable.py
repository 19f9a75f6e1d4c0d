# SPDX-License-Identifier: GPL-2.0-or-later
"""A conversation as JSON for programs that want its words and not its tree: a list of messages, markers resolved.

Every message of every branch is there, hidden ones too, and says where it stands. Nodes with no message are left out:
`parent` is the next message above.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chatgpt_rest import branches
from chatgpt_rest.chatgpt_passages import Asset
from chatgpt_rest.chatgpt_text import AttachedFile, Said, everything, plain
from chatgpt_rest.clock import iso
from chatgpt_rest.model import Conversation


def render(tree: Conversation, *, attached: Mapping[str, AttachedFile]) -> bytes:
    """The whole conversation. `attached` are its files by asset id; `file` is null for those that are not there.

    Valid UTF-8 whatever the conversation holds: half a surrogate pair is written as the escape it came as.
    """
    messages = everything(tree)
    leaf = branches.leaf(tree)
    current = {each.id for each in branches.branch(tree.nodes, leaf)}
    above = _parents(tree, [each.node_id for each in messages])
    below: dict[str, list[str]] = {each.node_id: [] for each in messages}
    place = {child: index for brood in branches.children(tree.nodes).values() for index, child in enumerate(brood)}
    for child in sorted(below, key=lambda each: place.get(each, 0)):
        if (parent := above[child]) is not None:
            below[parent].append(child)
    document = {
        "id": tree.id,
        "title": tree.title,
        "create_time": _iso(tree.create_time),
        "update_time": _iso(tree.update_time),
        "model": tree.model,
        "project": tree.project,
        "url": f"https://chatgpt.com/c/{tree.id}",
        "source": "chatgpt",
        "current_node": leaf,
        "messages": [
            {
                **_message(each, attached),
                "parent": above[each.node_id],
                "children": below[each.node_id],
                "is_on_current_branch": each.node_id in current,
            }
            for each in messages
        ],
    }
    try:
        return json.dumps(document, ensure_ascii=False, indent=2).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(document, indent=2).encode() + b"\n"


def _message(said: Said, attached: Mapping[str, AttachedFile]) -> dict[str, Any]:
    return {
        "id": said.node_id,
        "role": said.role,
        "name": said.name,
        "model": said.model,
        "create_time": _iso(said.create_time),
        "content_type": said.content_type or None,
        "text": plain(said),
        "footnotes": [{"label": each.label, "title": each.title, "url": each.url} for each in said.footnotes],
        "assets": [_asset(each, attached) for each in said.passages if isinstance(each, Asset)],
        "is_hidden": said.is_hidden,
        "is_partial": said.is_partial,
    }


def _asset(asset: Asset, attached: Mapping[str, AttachedFile]) -> dict[str, Any]:
    file = attached.get(asset.id or "")
    return {
        "id": asset.id,
        "kind": asset.kind,
        "name": asset.name or (file.name if file else None),
        "description": asset.description or None,
        "media_type": file.media_type if file else None,
        "file": file.link if file else None,
    }


def _parents(tree: Conversation, messages: Sequence[str]) -> dict[str, str | None]:
    """For each message the nearest one above it. Survives cycles, and walks no way twice."""
    is_message = frozenset(messages)
    nearest: dict[str, str | None] = {}
    for start in messages:
        passed: dict[str, None] = {}
        node = tree.nodes[start].parent
        while node is not None and node in tree.nodes and not (node in is_message or node in nearest or node in passed):
            passed[node] = None
            node = tree.nodes[node].parent
        found = node if node in is_message else nearest.get(node or "")
        nearest |= dict.fromkeys(passed, found)
        nearest[start] = None if found == start else found
    return {each: nearest[each] for each in messages}


def _iso(time: int | None) -> str | None:
    return None if time is None else iso(time)
