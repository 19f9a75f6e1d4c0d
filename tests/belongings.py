# SPDX-License-Identifier: GPL-2.0-or-later
"""What an account has in its mirror, put there without an import: conversations, and assets that belong to them."""

from __future__ import annotations

from typing import Any, Final

from chatgpt_rest.archive.wire import Placement
from chatgpt_rest.mirror import Mirror
from tests.house import NOON
from tests.shapes import conversation, message

PNG: Final = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
"""What begins like a picture."""


def identifier(number: int) -> str:
    """An id as ChatGPT makes them."""
    return f"{number:08x}-0000-4000-8000-000000000000"


async def add_conversation(
    mirror: Mirror, number: int, *path: dict[str, Any], account: str = "alice", **members: object
) -> str:
    """A conversation as upstream shows it, of the day of the tests unless `members` say otherwise. Answers its id."""
    name = identifier(number)
    time = NOON / 1_000_000
    members = {"title": f"Talk {number}", "create_time": time, "update_time": time, **members}
    tree = conversation(*(path or (message(f"Words {number}."),)), conversation_id=name, **members)
    await mirror.of(account).conversations.save_whole(tree)
    return name


async def add_asset(
    mirror: Mirror,
    asset_id: str,
    content: bytes,
    *,
    conversation_id: str | None,
    node: str | None = None,
    name: str | None = None,
    account: str = "alice",
) -> None:
    """A file, and the message or conversation that it came with."""
    mine = mirror.of(account)
    async with mirror.files.incoming() as file:
        await file.write(content)
        await mine.assets.add(asset_id, await file.keep(), name=name, member=None)
    if conversation_id is not None:
        await mine.imports.place([Placement(asset_id, conversation_id, node, name, None)])
