# SPDX-License-Identifier: GPL-2.0-or-later
"""The assets of one conversation, as those who render it want them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from chatgpt_rest import branches, chatgpt_json
from chatgpt_rest.chatgpt_assets import asset_pointers
from chatgpt_rest.chatgpt_text import AttachedFile
from chatgpt_rest.mirror import AccountMirror, Asset, AssetFiles, Attached
from chatgpt_rest.model import Conversation, Node


async def attachments(mirror: AccountMirror, conversation_id: str) -> list[Attached]:
    """The assets that a conversation points to and that were ever imported, each once."""
    found = {each.id: each for each in await mirror.assets.of_conversation(conversation_id)}
    return [each for each in found.values() if each.asset is not None]


def assets_of(attached: Iterable[Attached]) -> list[Asset]:
    """The assets alone."""
    return [each.asset for each in attached if each.asset is not None]


def attached_files(
    attached: Iterable[Attached], files: AssetFiles, *, link: Callable[[Asset], str | None]
) -> dict[str, AttachedFile]:
    """They by their ids, as renderers take them, but for those whose bytes are lost; `link` finds one from where the
    text will stand, if it can be found there.
    """
    return {
        asset.id: AttachedFile(
            asset.id,
            each.name or asset.name or asset.id,
            asset.media_type,
            link(asset),
            files.path(asset.digest),
            asset.size_bytes,
        )
        for each in attached
        if (asset := each.asset) is not None and files.path(asset.digest).exists()
    }


def with_placed(tree: Conversation, attached: Sequence[Attached]) -> Conversation:
    """The conversation with those assets in it that only an export's library tells of: attached to the message they
    came with where a reader sees that one, else to the last that is seen.
    """
    if not attached:
        return tree
    pointed_to = {identifier for node in tree.nodes.values() for identifier, _, _ in asset_pointers(_message(node))}
    seen = [each.id for each in branches.branch(tree.nodes, branches.leaf(tree)) if _is_seen(each)]
    nodes = dict(tree.nodes)
    for each in attached:
        home = each.node if each.node in nodes and _is_seen(nodes[each.node]) else next(reversed(seen), None)
        if each.id not in pointed_to and home is not None:
            nodes[home] = _attach(nodes[home], each)
    return replace(tree, nodes=nodes)


def _attach(node: Node, attached: Attached) -> Node:
    message = _message(node)
    metadata = message.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}
    before = known.get("attachments")
    asset = attached.asset
    entry = {
        "id": attached.id,
        "name": attached.name or (asset.name if asset else None) or attached.id,
        "mime_type": asset.media_type if asset else attached.media_type,
    }
    after = [*(before if isinstance(before, list) else []), entry]
    return replace(node, message=chatgpt_json.dump({**message, "metadata": {**known, "attachments": after}}))


def _is_seen(node: Node) -> bool:
    return not chatgpt_json.is_hidden(_message(node))


def _message(node: Node) -> dict[str, Any]:
    raw = json.loads(node.message or b"null")
    return raw if isinstance(raw, dict) else {"weight": 0}
