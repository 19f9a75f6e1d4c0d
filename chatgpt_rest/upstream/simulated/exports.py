# SPDX-License-Identifier: GPL-2.0-or-later
"""The official data export of a simulated account, as ChatGPT's own mail offers it for download."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from .accounts import Account
from .conversations import SimConversation, stable_uuid

_SHARD: Final = 100  # conversations a file
_PICTURE_SIDE: Final = 96  # pixels


def write_export(account: Account, path: Path) -> None:
    """Write a ZIP with every conversation the account has, archived ones and projects included, in the full shape, and
    one generated image that only library_files.json knows of.
    """
    conversations = [each for each in account.everything if each.is_visible]
    shards = [conversations[start : start + _SHARD] for start in range(0, len(conversations), _SHARD)] or [[]]
    files: dict[str, bytes] = {
        f"conversations-{number:03}.json": _json([each.detail() | {"id": each.id} for each in shard])
        for number, shard in enumerate(shards)
    }
    names = list(files)
    files["user.json"] = _json({"id": account.user_id, "email": account.email, "chatgpt_plus_user": True})
    files["message_feedback.json"] = files["shared_conversations.json"] = _json([])
    if conversations:
        image = f"file_{stable_uuid(account.user_id, 'image').replace('-', '')}"
        files[f"{image}.dat"] = _picture()
        files["conversation_asset_file_names.json"] = _json({f"{image}.dat": f"{stable_uuid(image)}.png"})
        files["library_files.json"] = _json([_library_entry(image, conversations[0], len(files[f"{image}.dat"]))])
    files["export_manifest.json"] = _json(
        {
            "version": 1,
            "manifest_file": "export_manifest.json",
            "export_files": [{"path": name, "size_bytes": len(content)} for name, content in files.items()],
            "logical_files": {"conversations.json": {"files": names, "sharded": True}},
        }
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def _library_entry(image: str, conversation: SimConversation, size_bytes: int) -> dict[str, object]:
    return {
        "id": {"id": f"libfile_{stable_uuid(image, 'library').replace('-', '')}"},
        "file_id": image,
        "file_name": "Saturn and its moons.png",
        "mime_type": "image/png",
        "file_size_bytes": size_bytes,
        "origination_message_id": conversation.last("assistant"),
        "initiating_conversation_id": conversation.id,
        "created_at": datetime.fromtimestamp(conversation.update_time, UTC).isoformat(),
    }


def _picture() -> bytes:
    """A PNG: a ringed disc on a dark ground."""
    rows = bytearray()
    middle = _PICTURE_SIDE / 2
    for y in range(_PICTURE_SIDE):
        rows.append(0)  # no filter
        for x in range(_PICTURE_SIDE):
            across, down = x - middle, y - middle
            is_disc = across**2 + down**2 < (0.26 * _PICTURE_SIDE) ** 2
            ring = (across / 44) ** 2 + ((down + across * 0.25) / 12) ** 2
            is_ring = 0.7 < ring < 1 and not (is_disc and down + across * 0.25 < 0)
            rows += bytes((226, 205, 160) if is_ring else (214, 170, 104) if is_disc else (18, 20, 38))
    header = struct.pack(">IIBBBBB", _PICTURE_SIDE, _PICTURE_SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
