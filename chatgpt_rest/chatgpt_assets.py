# SPDX-License-Identifier: GPL-2.0-or-later
"""Which files a message of ChatGPT's points to: pictures, recordings, documents. Pure, and nothing here ever raises."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_POINTER: Final = re.compile(r"(?:sediment|file-service)://(.+)", re.DOTALL)
_FILE_ID: Final = re.compile(r"file[-_][A-Za-z0-9_-]{1,120}", re.ASCII)
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", re.ASCII)
_POINTING: Final = frozenset({"attachments", "aggregate_result"})
_WORDS: Final = frozenset({"content_type", "parts"})
_TEXTS: Final = frozenset({str})
_DEEPEST: Final = 8  # levels of parts within parts; ChatGPT's own have four


def asset_id(pointer: str) -> str | None:
    """The id in a pointer, `sediment://file_…` or `file-service://file-…`; None where the text is no pointer.

    What follows a `?` or `#` is a place within the file, except that page images write the file's id behind the `#`.
    """
    if (match := _POINTER.match(pointer)) is None:
        return None
    if (named := _FILE_ID.search(match[1])) is not None:
        return named[0]
    plain = re.split(r"[?#]", match[1], maxsplit=1)[0]
    return plain if _PLAIN_ID.fullmatch(plain) else None


def asset_pointers(message: Mapping[str, Any]) -> list[tuple[str, str | None, str | None]]:
    """`(asset id, name, media type)` of every file that a message points to, each once, in the order of the message.

    Only attachments tell name and media type. Parts of unknown types are searched as well as the known ones.
    """
    content, metadata = message.get("content"), message.get("metadata")
    named = _in_content(content) if not _is_words(content) else []
    found: dict[str, tuple[str | None, str | None]] = dict.fromkeys(named, (None, None))
    if not isinstance(metadata, dict) or _POINTING.isdisjoint(metadata):
        return [(identifier, None, None) for identifier in found]
    if "aggregate_result" in metadata:
        found |= dict.fromkeys(_in_result(metadata["aggregate_result"]), (None, None))
    for attachment in _dicts(metadata.get("attachments")):
        identifier = attachment.get("id")
        if isinstance(identifier, str) and _PLAIN_ID.fullmatch(identifier):
            name, media_type = attachment.get("name"), attachment.get("mime_type") or attachment.get("mimeType")
            known = found.get(identifier, (None, None))
            found[identifier] = (_text(name) or known[0], _text(media_type) or known[1])
    return [(identifier, *told) for identifier, told in found.items()]


def _is_words(content: object) -> bool:
    """Whether the content is what nearly every message's is, which is found out quickly: text and nothing else."""
    if not isinstance(content, dict) or content.keys() != _WORDS:
        return False
    parts = content["parts"]
    return isinstance(parts, list) and _TEXTS.issuperset(map(type, parts))


def _in_content(content: object) -> list[str]:
    """Of everything in the content, depth first, that stands under a name like `asset_pointer`."""
    found: list[str] = []
    waiting: list[tuple[object, bool, int]] = [(content, False, 0)]
    while waiting:
        value, is_pointer, depth = waiting.pop()
        if isinstance(value, dict) and depth < _DEEPEST:
            for name, inner in reversed(value.items()):
                is_named = "asset_pointer" in name
                if is_named or isinstance(inner, dict | list):
                    waiting.append((inner, is_named, depth + 1))
        elif isinstance(value, list) and depth < _DEEPEST:
            rest = value if is_pointer else [inner for inner in value if not isinstance(inner, str)]
            waiting.extend((inner, is_pointer, depth + 1) for inner in reversed(rest))
        elif is_pointer and isinstance(value, str) and (identifier := asset_id(value)) is not None:
            found.append(identifier)
    return found


def _in_result(result: object) -> list[str]:
    """The pictures that code drew."""
    urls = [each.get("image_url") for each in _dicts(result.get("messages"))] if isinstance(result, dict) else []
    found = [asset_id(url) for url in urls if isinstance(url, str)]
    return [identifier for identifier in found if identifier is not None]


def _dicts(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
