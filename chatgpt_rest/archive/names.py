# SPDX-License-Identifier: GPL-2.0-or-later
"""What the files of an export are called: safe on every file system, readable to a person, and never outside their
folder.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from datetime import UTC, datetime
from typing import Final

from chatgpt_rest.chatgpt_json import UNTITLED
from chatgpt_rest.clock import SECOND
from chatgpt_rest.model import Conversation

_MOST_TITLE_BYTES: Final = 96
"""With date, mark and suffix a name then stays below the 143 bytes that encrypted file systems allow."""
_SHORTEST_MARK: Final = 8
_FORBIDDEN: Final = frozenset('<>:"/\\|?*')
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
"""Control characters, marks that turn the direction of writing, and what no version of Unicode agrees on yet."""

_SUFFIXES: Final = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "image/avif": ".avif",
    "image/heic": ".heic",
    "image/bmp": ".bmp",
    "image/tiff": ".tiff",
    "image/svg+xml": ".svg",
    "application/pdf": ".pdf",
    "audio/mpeg": ".mp3",
    "audio/wav": ".wav",
    "audio/ogg": ".ogg",
    "audio/flac": ".flac",
    "audio/mp4": ".m4a",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "audio/webm": ".weba",
    "application/zip": ".zip",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": ".pptx",
    "text/plain": ".txt",
    "application/json": ".json",
}
_AMBIGUOUS: Final = frozenset({"text/plain", "application/octet-stream"})
"""Of these a file's own name tells more than its bytes did."""


def file_name(tree: Conversation, suffix: str, *, mark: str | None = None) -> str:
    """`2024-05-01 Title words (1a2b3c4d).md`, by the conversation's time in UTC and the first of its marks, unless
    another one is given.

    It begins with a date or with "undated", so that no title can make it a device of Windows, a hidden file or an
    option.
    """
    time = tree.create_time if tree.create_time is not None else tree.update_time
    date = "undated" if time is None else datetime.fromtimestamp(time // SECOND, UTC).strftime("%Y-%m-%d")
    return f"{date} {safe(tree.title or '') or UNTITLED} ({mark or marks(tree.id)[0]}){suffix}"


def marks(conversation_id: str) -> tuple[str, str]:
    """What tells files of one title and day apart, the second where the first one is taken: the beginning of the id,
    and a hash of all of it.
    """
    return conversation_id[:_SHORTEST_MARK], hashlib.sha256(conversation_id.encode()).hexdigest()[:16]


def safe(text: str) -> str:
    """`text` as part of a file's name: NFC, one line, nothing that a file system forbids or a terminal obeys, cut at
    a word where it is long. It may come to nothing.
    """
    visible = "".join(_safe_character(each) for each in unicodedata.normalize("NFC", text))
    words = " ".join(visible.split()).strip(". ")
    cut = words.encode()[:_MOST_TITLE_BYTES].decode(errors="ignore")
    if cut != words and " " in cut:
        cut = cut.rpartition(" ")[0]
    return cut.strip(". ")


def folded(name: str) -> str:
    """The same for two names that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def asset_name(asset_id: str, media_type: str, name: str | None) -> str:
    """What an asset's copy is called: by its id alone, which never changes, with the suffix of its type."""
    own = re.search(r"\.[A-Za-z0-9]{1,8}\Z", name or "")
    suffix = own[0].lower() if own and media_type in _AMBIGUOUS else _SUFFIXES.get(media_type, ".bin")
    return re.sub(r"[^A-Za-z0-9_-]", "_", asset_id)[:100] + suffix


def _safe_character(character: str) -> str:
    if character in _FORBIDDEN or character.isspace():
        return " "
    return "" if unicodedata.category(character) in _INVISIBLE else character
