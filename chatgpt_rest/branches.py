# SPDX-License-Identifier: GPL-2.0-or-later
"""The tree of a conversation: who hangs below whom, where the current branch ends, and the way there. Pure.

Always rebuilt from each node's `parent`: exports since 2026 leave `children` out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from chatgpt_rest.model import Conversation, Node


def children(nodes: Mapping[str, Node]) -> dict[str, list[str]]:
    """Parent id to child ids, rebuilt from `parent`: in the parent's own order first, then by time, then as the source
    had them.
    """
    found: dict[str, list[str]] = {key: [] for key in nodes}
    for each in nodes.values():
        if each.parent in found and each.parent != each.id:
            found[each.parent].append(each.id)
    for parent, brood in found.items():
        told = {child: index for index, child in enumerate(nodes[parent].children or ())}
        brood.sort(key=lambda child: (told.get(child, len(told)), _time_or_last(nodes[child])))
    return found


def leaf(tree: Conversation) -> str | None:
    """Where the current branch ends: `current_node` where it exists, else the newest node without children. None in an
    empty tree.
    """
    if tree.current_node in tree.nodes:
        return tree.current_node
    parents = {each.parent for each in tree.nodes.values()}
    leaves = [each for each in tree.nodes.values() if each.id not in parents] or list(tree.nodes.values())
    return max(leaves, key=lambda each: each.create_time or -1).id if leaves else None


def branch(nodes: Mapping[str, Node], end: str | None) -> list[Node]:
    """The nodes from the root to `end`, root first. Survives cycles and orphans: 2023 exports have both."""
    path: list[Node] = []
    visited: set[str] = set()
    while end is not None and end in nodes and end not in visited:
        visited.add(end)
        path.append(nodes[end])
        end = nodes[end].parent
    path.reverse()
    return path


def _time_or_last(each: Node) -> float:
    return math.inf if each.create_time is None else each.create_time
