# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of an export that tell about the others: user.json, export_manifest.json,
conversation_asset_file_names.json and library_files.json. Each is believed as far as it makes sense.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from chatgpt_rest.archive.members import base_name
from chatgpt_rest.archive.wire import Placement
from chatgpt_rest.chatgpt_json import is_id, printable

_LONGEST_ACCOUNT: Final = 200  # characters
_LONGEST_NAME: Final = 255  # characters
_LONGEST_PATH: Final = 1_024  # characters
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class User:
    """Whose export it is: the id is the one that access tokens carry."""

    id: str
    email: str | None


@dataclass(frozen=True, slots=True)
class Listed:
    """A file that a manifest names: its path in the export, and its size where that is told."""

    path: str
    size_bytes: int | None


def user(raw: bytes) -> User:
    """What user.json says. Raises ValueError where it names nobody."""
    members = _object(raw)
    account, email = members.get("id"), members.get("email")
    if not isinstance(account, str) or not 0 < len(account) <= _LONGEST_ACCOUNT or not account.isprintable():
        raise ValueError("it does not tell whose export this is")
    is_address = isinstance(email, str) and 0 < len(email) <= _LONGEST_NAME and email.isprintable()
    return User(account, email if is_address else None)


def manifest(raw: bytes) -> list[Listed]:
    """The files that export_manifest.json names, in either spelling. Raises ValueError where it is no manifest."""
    members = _object(raw)
    sizes: dict[str, int | None] = {}
    for entry in _list(members.get("export_files")):
        size = entry.get("size_bytes") if isinstance(entry, dict) else None
        for path in _path(entry):
            sizes[path] = size if type(size) is int else None
    logical = members.get("logical_files")
    for entry in logical.values() if isinstance(logical, dict) else _list(logical):
        for file in _list(entry.get("files") if isinstance(entry, dict) else None):
            for path in _path(file):
                sizes.setdefault(path, None)
    return [Listed(path, size_bytes) for path, size_bytes in sizes.items()]


def asset_names(raw: bytes) -> dict[str, str]:
    """What assets were called before, by id. Raises ValueError where this is no such list."""
    return {
        asset: name
        for key, name in _object(raw).items()
        if isinstance(name, str) and is_id(asset := key.removesuffix(".dat"))
    }


def placement(raw: bytes) -> Placement | None:
    """What an entry of library_files.json says of an asset; None where it names none."""
    try:
        members = _object(raw)
    except ValueError:
        return None
    asset = _id(members.get("file_id"))
    if asset is None:
        return None
    name, media_type = members.get("file_name"), members.get("mime_type")
    return Placement(
        asset=asset,
        conversation=_id(members.get("initiating_conversation_id")),
        node=_id(members.get("origination_message_id")),
        name=clean_name(name) if isinstance(name, str) else None,
        media_type=media_type if isinstance(media_type, str) and media_type.isprintable() else None,
    )


def clean_name(path: str) -> str | None:
    """The last part of a path, as a name that can be shown and stored; None where nothing is left of it."""
    return _CONTROL.sub("", printable(base_name(path)) or "")[:_LONGEST_NAME] or None


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw.removeprefix(b"\xef\xbb\xbf"))
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    return value


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _path(entry: object) -> Iterator[str]:
    """The path that an entry is, or holds, if a file can be called so."""
    path = entry.get("path") if isinstance(entry, dict) else entry
    if isinstance(path, str) and base_name(path) and len(path) <= _LONGEST_PATH:
        yield path


def _id(value: object) -> str | None:
    return value if isinstance(value, str) and is_id(value) else None
