# SPDX-License-Identifier: GPL-2.0-or-later
"""What an export's other files say of conversations, and how two parts' files of one name become one. JSON is cut and
joined by whole entries: what stays, stays byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Final

import aiosqlite
import msgspec

UNITED_BYTES: Final = 16 * 1024 * 1024
"""A larger array is not united with another."""

_TEXT: Final = re.compile(rb'(?<=")[A-Za-z0-9][A-Za-z0-9_:-]{0,127}(?=")')
_ESCAPED_ASCII: Final = re.compile(rb"\\u00([2-7][0-9A-Fa-f])")
_BOM: Final = b"\xef\xbb\xbf"

_array: Final = msgspec.json.Decoder(list[msgspec.Raw])
_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def without(content: bytes, gone: Collection[str]) -> bytes | None:
    """The same without what names one of these conversations: an entry of an array, a member of an object, or all of
    it (None) where it says so of itself, or cannot be understood.
    """
    names = {name.encode() for name in gone}
    return _without(content.removeprefix(_BOM), names) if _names(content, names) else content


def united(one: bytes, other: bytes) -> bytes | None:
    """Two arrays as one, each entry once; None where one of them is no array, or both are too much."""
    try:
        entries = [bytes(each) for part in (one, other) for each in _array.decode(part.removeprefix(_BOM))]
    except ValueError:
        return None
    known = {bytes(each) for each in _array.decode(one.removeprefix(_BOM))}
    if known.issuperset(entries):
        return one
    return _joined(list(dict.fromkeys(entries))) if len(one) + len(other) <= UNITED_BYTES else None


def numbered(name: str, number: int) -> str:
    """`notes (2).json`, after `notes.json`."""
    path = PurePosixPath(name)
    return f"{path.stem} ({number}){path.suffix}"


async def forget(connection: aiosqlite.Connection, account: str, conversations: Collection[str]) -> None:
    """These conversations are being purged: neither a kept file nor what an import told names one of them."""
    if not conversations:
        return
    for name, content in await connection.execute_fetchall(
        "select name, content from export_file where account = ?", (account,)
    ):
        if (rest := without(content, conversations)) is None:
            await connection.execute("delete from export_file where account = ? and name = ?", (account, name))
        elif rest != content:
            await connection.execute(
                "update export_file set content = ? where account = ? and name = ?", (rest, account, name)
            )
    for identifier, outcome in await connection.execute_fetchall(
        "select id, outcome from import_job where account = ? and outcome is not null", (account,)
    ):
        if (rest := without(outcome, conversations)) != outcome:
            await connection.execute(
                "update import_job set outcome = ? where account = ? and id = ?", (rest, account, identifier)
            )


def _without(raw: bytes, gone: set[bytes]) -> bytes | None:
    if not _names(raw, gone):
        return raw
    try:
        return _joined([bytes(each) for each in _array.decode(raw) if not _names(bytes(each), gone)])
    except ValueError:
        pass
    try:
        members = {name: bytes(value) for name, value in _object.decode(raw).items()}
    except ValueError:
        return None
    if any(value.startswith(b'"') and _names(value, gone) for value in members.values()):
        return None
    kept = {name: rest for name, value in members.items() if (rest := _without(value, gone)) is not None}
    pieces = [msgspec.json.encode(name) + b":" + value for name, value in kept.items() if name.encode() not in gone]
    return b"{" + b",".join(pieces) + b"}"


def _names(raw: bytes, gone: set[bytes]) -> bool:
    plain = _ESCAPED_ASCII.sub(lambda found: bytes([int(found[1], 16)]), raw)
    return any(found[0] in gone for found in _TEXT.finditer(plain))


def _joined(entries: list[bytes]) -> bytes:
    return b"[" + b",".join(entries) + b"]"
