# SPDX-License-Identifier: GPL-2.0-or-later
"""Conversations as an export brings them to the mirror, in rows ready to be written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from chatgpt_rest import chatgpt_json
from chatgpt_rest.incoming import Incoming, Marks, Pointer
from chatgpt_rest.mirror import AccountMirror, Taken
from chatgpt_rest.model import Shape
from tests.shapes import conversation_json


def incoming(
    *path: dict[str, Any] | None,
    name: str = "c",
    account: str = "alice",
    pointers: Sequence[Pointer] = (),
    marks: Sequence[Marks] = (),
    **members: object,
) -> Incoming:
    """A conversation whose one branch is `path`."""
    value = conversation_json(*path, conversation_id=name, **members)
    return incoming_of(value, account=account, pointers=pointers, marks=marks)


def incoming_of(
    value: dict[str, Any],
    *,
    account: str,
    pointers: Sequence[Pointer] = (),
    marks: Sequence[Marks] = (),
) -> Incoming:
    """A conversation of an export, which has blanks in its JSON where upstream has none."""
    tree = chatgpt_json.conversation(value)
    raw = json.dumps(value).encode()
    said = [each for each in tree.nodes.values() if each.message is not None]
    return Incoming(
        id=tree.id,
        title=tree.title,
        create_time=tree.create_time,
        update_time=tree.update_time,
        current_node=tree.current_node,
        envelope=chatgpt_json.pack(tree.envelope),
        is_archived=tree.is_archived,
        is_starred=tree.is_starred,
        project=tree.project,
        model=tree.model,
        is_slim=any(each.shape is Shape.SLIM for each in said),
        digest=blake2b(raw, digest_size=16).digest(),
        messages=len(said),
        hidden=sum(chatgpt_json.is_hidden(json.loads(each.message or b"null")) for each in said),
        nodes=[
            (
                account,
                tree.id,
                each.id,
                position,
                each.parent,
                None if each.children is None else json.dumps(each.children),
                chatgpt_json.pack(each.extra) if each.extra else None,
                None if each.message is None else json.dumps(json.loads(each.message)).encode(),
                each.create_time,
                int(each.shape),
            )
            for position, each in enumerate(tree.nodes.values())
        ],
        pointers=list(pointers),
        marks=list(marks),
    )


async def take(mirror: AccountMirror, *batch: Incoming, dry_run: bool = False) -> list[Taken]:
    """Take these in. Whatever becomes of them, every message of theirs is counted once."""
    taken = await mirror.imports.take(batch, dry_run=dry_run)
    for each, what in zip(batch, taken, strict=True):
        assert what.imported + what.enriched + what.unchanged + what.left_deleted == each.messages
        assert what.hidden == each.hidden
    return taken
