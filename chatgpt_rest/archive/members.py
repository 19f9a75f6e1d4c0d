# SPDX-License-Identifier: GPL-2.0-or-later
"""What a file of an export is, by its name: exports of each time name theirs in another way, and in any folder."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final


class Kind(Enum):
    """What is done with a file."""

    CONVERSATIONS = auto()
    MANIFEST = auto()
    ASSET_NAMES = auto()
    LIBRARY = auto()
    USER = auto()
    KEPT = auto()
    """JSON that ChatGPT's exports are known to hold beside conversations."""
    JSON = auto()
    """Other JSON. To be kept too where it lies among what an export holds."""
    ASSET = auto()
    ZIP = auto()
    NOTHING = auto()
    UNKNOWN = auto()


_BY_NAME: Final = {
    "export_manifest.json": Kind.MANIFEST,
    "conversation_asset_file_names.json": Kind.ASSET_NAMES,
    "library_files.json": Kind.LIBRARY,
    "user.json": Kind.USER,
    "user_settings.json": Kind.KEPT,
    "message_feedback.json": Kind.KEPT,
    "shared_conversations.json": Kind.KEPT,
    "group_chats.json": Kind.KEPT,
    "shopping.json": Kind.KEPT,
    "sora.json": Kind.KEPT,
    "model_comparisons.json": Kind.KEPT,
    "thumbs.db": Kind.NOTHING,
    "desktop.ini": Kind.NOTHING,
}
# Also `conversations (1).json`, as browsers and people name copies.
_CONVERSATIONS: Final = re.compile(r"conversations(?:[-_ .(].*)?\.json", re.IGNORECASE)
_SHARD: Final = re.compile(r"conversations-(\d{1,9})\.json", re.IGNORECASE)
# `file-0HDUxyz.dat`, `file-0HDUxyz-Screenshot.png`, `file_00ab-sanitized.png`. What follows a dash belongs to the name.
_ASSET: Final = re.compile(r"(file[-_][A-Za-z0-9]+)(?:-(.+)|\..+)?", re.DOTALL)
_GIVEN_BY_PROGRAM: Final = re.compile(r"(?:sanitized|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.\w+")


def kind_of(name: str) -> Kind:
    """What a file is, by its path inside its source."""
    base = base_name(name)
    lower = base.lower()
    if lower in _BY_NAME:
        return _BY_NAME[lower]
    if base.startswith(".") or name.startswith("__MACOSX/") or "/__MACOSX/" in name:
        return Kind.NOTHING
    if asset_id(name) is not None:
        return Kind.ASSET
    if _CONVERSATIONS.fullmatch(base):
        return Kind.CONVERSATIONS
    if lower.endswith(".json"):
        return Kind.JSON
    if lower.endswith(".zip"):
        return Kind.ZIP
    return Kind.NOTHING if lower.endswith((".html", ".htm")) else Kind.UNKNOWN


def is_zip(name: str) -> bool:
    """Whether this is a part of an export, and no ZIP that somebody once showed to ChatGPT."""
    return kind_of(name) is Kind.ZIP


def asset_id(name: str) -> str | None:
    """The id that messages point to, where the file's own name begins with one."""
    found = _ASSET.fullmatch(base_name(name))
    return found[1] if found else None


def asset_name(name: str) -> str | None:
    """What an asset was called when it was sent, where its file's name still says that."""
    found = _ASSET.fullmatch(base_name(name))
    return found[2] if found and found[2] and not _GIVEN_BY_PROGRAM.fullmatch(found[2]) else None


def shard_number(name: str) -> int | None:
    """Which of the numbered files of conversations this is."""
    found = _SHARD.fullmatch(base_name(name))
    return int(found[1]) if found else None


def base_name(name: str) -> str:
    """The last part of a path."""
    return name.rsplit("/", 1)[-1]
