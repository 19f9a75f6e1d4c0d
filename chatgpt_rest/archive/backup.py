# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup: one ZIP that holds a mirror whole, and says of each of its files how long it is and what its SHA-256 is.

    mirror.sqlite          the database as of one moment
    mirror.sqlite.key      what its credentials are hashed with: keep a backup like a file of passwords
    assets/ab/abcdef…      the files that the database names, each under its digest
    backup.json            all of the above, listed

Nothing else is in it, and anything else in it makes it none of ours. backup.json is written last and read first.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from chatgpt_rest.archive.regular import open_regular
from chatgpt_rest.archive.zips import Damaged, Entry, read_directory, unpacked
from chatgpt_rest.errors import BadRequest
from chatgpt_rest.mirror.asset_files import AssetFiles
from chatgpt_rest.mirror.snapshot import Contents, is_asset_named, known_schema

FORMAT: Final = 1
DATABASE: Final = "mirror.sqlite"
KEY: Final = "mirror.sqlite.key"

_LIST: Final = "backup.json"
_ASSET: Final = re.compile(r"assets/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_BLOCK_BYTES: Final = 1024 * 1024
_KEY_BYTES: Final = 32
_LONGEST_LIST_BYTES: Final = 512 * 1024 * 1024  # some two million assets
_MOST_ENTRIES: Final = 4_000_000
_MOST_RATIO: Final = 1_100  # deflate can do no more; a database that is nearly empty comes close
_LIGHTLY: Final = 1
"""Of zlib's levels: 90 MB/s on conversations, and 7% larger than level 6 at 37 MB/s."""

Look = Callable[[int], None]
"""Called now and then with how many bytes more are done. What it raises ends the work, and comes out of it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a mirror lives."""

    database: Path
    assets_folder: Path

    @property
    def key(self) -> Path:
        return self.database.with_name(self.database.name + ".key")

    def asset(self, digest: str) -> Path:
        """Where the bytes of this digest (hex) lie."""
        return AssetFiles(self.assets_folder).path(bytes.fromhex(digest))


class Member(msgspec.Struct, frozen=True):
    """A file of a backup."""

    name: str
    size_bytes: int
    sha256: str

    @property
    def asset(self) -> str | None:
        """The digest of the asset that it is; None where it is none."""
        match = _ASSET.fullmatch(self.name)
        return match[2] if match else None


class Manifest(msgspec.Struct, frozen=True):
    """What backup.json says. `purged` and `missing` are assets that the database names and that are not in it: purged
    while it was made, or gone from the disk for another reason.
    """

    format: int
    schema: int
    version: str
    """The program's."""
    created_at: str
    accounts: int
    conversations: int
    messages: int
    assets: int
    purged: list[str]
    missing: list[str]
    members: list[Member]

    @property
    def size_bytes(self) -> int:
        """All of it, unpacked."""
        return sum(member.size_bytes for member in self.members)


class _Format(msgspec.Struct, frozen=True):
    """What every format of backup.json says, those of newer versions too."""

    format: int
    version: str


# ------------------------------------------------------------------------------------------------------------- writing


def pack(
    stream: BinaryIO,
    place: Place,
    *,
    snapshot: Path,
    contents: Contents,
    key: bytes,
    version: str,
    created_at: str,
    look: Look,
) -> Manifest:
    """Write the backup of the mirror at `place`, of which `snapshot` is the database. Raises OSError."""
    members: list[Member] = []
    purged: list[str] = []
    missing: list[str] = []
    # Named by strings a member is packed, by ZipInfo it is stored: images and recordings gain nothing.
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=_LIGHTLY) as archive:
        with snapshot.open("rb") as file:
            members.append(_put(archive, DATABASE, file, look))
        archive.writestr(zipfile.ZipInfo(KEY), key)
        members.append(Member(KEY, len(key), sha256(key).hexdigest()))
        for digest in contents.assets:
            if (member := _put_asset(archive, digest, place.asset(digest), look)) is not None:
                members.append(member)
            elif is_asset_named(place.database, digest):
                missing.append(digest)
            else:
                purged.append(digest)
        manifest = Manifest(
            format=FORMAT,
            schema=contents.schema,
            version=version,
            created_at=created_at,
            accounts=contents.accounts,
            conversations=contents.conversations,
            messages=contents.messages,
            assets=len(contents.assets) - len(purged) - len(missing),
            purged=purged,
            missing=missing,
            members=members,
        )
        archive.writestr(_LIST, msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


def _put_asset(archive: zipfile.ZipFile, digest: str, path: Path, look: Look) -> Member | None:
    """None where its file is gone, or is not what its name says."""
    try:
        with path.open("rb") as file:
            if _digest(file, look) != digest:
                return None
            file.seek(0)
            return _put(archive, zipfile.ZipInfo(f"assets/{digest[:2]}/{digest}"), file, look)
    except FileNotFoundError:
        return None


def _put(archive: zipfile.ZipFile, name: str | zipfile.ZipInfo, file: BinaryIO, look: Look) -> Member:
    digest, size_bytes = sha256(), 0
    with archive.open(name, "w", force_zip64=True) as member:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            member.write(block)
            size_bytes += len(block)
            look(len(block))
    return Member(name if isinstance(name, str) else name.filename, size_bytes, digest.hexdigest())


def _digest(file: BinaryIO, look: Look) -> str:
    digest = sha256()
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
        look(0)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------- reading


class Backup:
    """A backup whose list and directory agree. Built by `open_backup`."""

    def __init__(self, file: BinaryIO, entries: dict[str, Entry], manifest: Manifest) -> None:
        self._file = file
        self._entries = entries
        self.manifest = manifest

    def read(self, member: Member) -> Iterator[bytes]:
        """The bytes of a member. Raises BadRequest at their end unless they are those that it was made of."""
        digest = sha256()
        try:
            for block in unpacked(self._file.fileno(), self._entries[member.name]):
                digest.update(block)
                yield block
        except Damaged as fault:
            raise _damaged(f"{member.name}: {fault}") from None
        if digest.hexdigest() != member.sha256:
            raise _damaged(f"{member.name} is not what it was")

    def verify(self, *, look: Look) -> None:
        """Read all of it, from first to last. Raises BadRequest."""
        for member in self.manifest.members:
            for block in self.read(member):
                look(len(block))


@contextmanager
def open_backup(path: Path) -> Iterator[Backup]:
    """Raises BadRequest where it is no backup, not a whole one, or of a version that this program does not know."""
    try:
        descriptor = open_regular(path)
    except OSError as error:
        raise BadRequest(f"{path}: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        yield read_backup(file)


def read_backup(file: BinaryIO) -> Backup:
    """The backup in an open file. Raises as `open_backup` does."""
    try:
        found = read_directory(file, "the backup", max_entries=_MOST_ENTRIES, max_ratio=_MOST_RATIO)
    except BadRequest:
        raise BadRequest("this is no backup, or not a whole one: its directory cannot be read") from None
    entries = {entry.name: entry for entry in found}
    manifest = _manifest(file, entries)
    names = [member.name for member in manifest.members]
    if sorted([*names, _LIST]) != sorted(entries):
        raise _damaged("it does not hold the files that its list names, and no others")
    if names[:2] != [DATABASE, KEY] or any(not _is_sound(member) for member in manifest.members[2:]):
        raise BadRequest("this is no backup: it lists files that no backup has")
    if manifest.members[1].size_bytes != _KEY_BYTES:
        raise BadRequest("this is no backup: its key is none")
    for member in manifest.members:
        if entries[member.name].size_bytes != member.size_bytes:
            raise _damaged(f"{member.name} has not the size that it is listed with")
    return Backup(file, entries, manifest)


def _manifest(file: BinaryIO, entries: dict[str, Entry]) -> Manifest:
    entry = entries.get(_LIST)
    if entry is None or entry.size_bytes > _LONGEST_LIST_BYTES:
        raise BadRequest(f"this is no backup: there is no {_LIST} in it")
    try:
        content = b"".join(unpacked(file.fileno(), entry))
        said = msgspec.json.decode(content, type=_Format)
        if said.format > FORMAT:
            raise BadRequest(f"this backup was made by a newer version of this program ({said.version}); install that")
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, Damaged, UnicodeDecodeError):
        raise _damaged(f"{_LIST} cannot be read") from None
    if manifest.schema > (known := known_schema()):
        raise BadRequest(
            f"this backup was made by a newer version of this program ({manifest.version}, schema {manifest.schema}; "
            f"this one knows {known}); install that"
        )
    return manifest


def _is_sound(member: Member) -> bool:
    return member.asset == member.sha256


def _damaged(what: str) -> BadRequest:
    return BadRequest(f"the backup is damaged: {what}; take another one")
