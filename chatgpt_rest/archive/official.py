# SPDX-License-Identifier: GPL-2.0-or-later
"""An account as ChatGPT's own export has it: a ZIP in the full shape, sharded with a manifest, that any importer of
such exports reads.

The same mirror gives the same bytes: entries come in a fixed order and carry no time. Conversations that live here only
are in it, too, under the ids they have here.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

from chatgpt_rest import chatgpt_json, chatgpt_official
from chatgpt_rest.archive import names
from chatgpt_rest.archive.attachments import assets_of, attachments
from chatgpt_rest.archive.partial import SUFFIX, disk_faults, partial, remove_leftovers
from chatgpt_rest.errors import NotFound
from chatgpt_rest.mirror import AccountMirror, Asset, AssetFiles
from chatgpt_rest.model import Conversation

SHARD_CONVERSATIONS: Final = 100
"""As many as ChatGPT's own exports hold in one file."""

_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\/]|(?<=^[A-Za-z]):")
_NO_TIME: Final = (1980, 1, 1, 0, 0, 0)
_CHUNK_BYTES: Final = 1024 * 1024
_MANIFEST: Final = "export_manifest.json"
_ASSET_NAMES: Final = "conversation_asset_file_names.json"
_USER: Final = "user.json"
_WRITTEN_ANEW: Final = re.compile(r"conversations(-\d+)?\.json|chat\.html", re.ASCII | re.IGNORECASE)
_MOST_RATIO: Final = 100
"""Who reads archives takes a file that unpacks to many times its size for a bomb; here it is twice as many as this."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What went into an archive. `lost` assets are known to the mirror, but their bytes are not there; `files` are all
    that it holds.
    """

    conversations: int
    assets: int
    lost: int
    files: int


async def write_official(
    target: Path,
    conversations: AsyncIterator[Conversation],
    *,
    mirror: AccountMirror,
    files: AssetFiles,
    email: str | None,
    is_whole: bool,
    on_bytes: Callable[[int], None],
) -> Contents:
    """Write these conversations of the account to the new file `target`, which appears when it is whole, mode 0600.

    `is_whole` says that they are all of them: then all assets and the other files of imported exports come along, else
    only the assets that these conversations point to. `on_bytes` is told how much of them was written, again and again.
    Raises StorageFailed, MirrorError.
    """
    assets: dict[str, Asset] = {}

    async def seen() -> AsyncIterator[Conversation]:
        async for tree in conversations:
            if not is_whole:
                assets.update((each.id, each) for each in assets_of(await attachments(mirror, tree.id)))
            yield tree

    with disk_faults(target):
        remove_leftovers(target.parent)
    beside = target.with_name(f"{target.name}{SUFFIX}")
    with disk_faults(target), partial(target, beside=beside, is_durable=True) as file, _Archive.over(file) as archive:
        shards, count = await _write_conversations(archive, seen(), on_bytes)
        if is_whole:
            assets = await _all_assets(mirror)
        members = {each: archive.free_name(f"{each}.dat", apart="-") for each in sorted(assets)}
        _write_asset_names(archive, members, assets)
        for name, content in (await _other_files(mirror, email=email, is_whole=is_whole)).items():
            archive.write(archive.free_name(name, apart=" "), content)
        lost = await _write_assets(archive, members, assets, files, on_bytes)
        archive.write_manifest(shards)
    return Contents(count, len(assets) - lost, lost, archive.files)


async def _write_conversations(
    archive: _Archive, conversations: AsyncIterator[Conversation], on_bytes: Callable[[int], None]
) -> tuple[list[str], int]:
    shards: list[str] = []
    count = 0
    following = await anext(conversations, None)
    while following is not None or not shards:  # importers expect one, be it empty
        shards.append(f"conversations-{len(shards):03}.json")
        with archive.member(shards[-1]) as shard:
            shard.write(b"[")
            for position in range(SHARD_CONVERSATIONS):
                if following is None:
                    break
                raw = chatgpt_official.official(following)
                shard.write(b",\n" + raw if position else raw)
                on_bytes(len(raw))
                count += 1
                following = await anext(conversations, None)
            shard.write(b"]\n")
    return shards, count


async def _all_assets(mirror: AccountMirror) -> dict[str, Asset]:
    """Every asset but those whose conversations are all deleted here."""
    found: dict[str, Asset] = {}
    for each in await mirror.assets.all():
        with suppress(NotFound):
            found[each.id] = await mirror.assets.find(each.id)
    return found


async def _other_files(mirror: AccountMirror, *, email: str | None, is_whole: bool) -> dict[str, bytes]:
    """The files of imported exports as they were, without what is written anew. There is always a user.json."""
    kept = dict(await mirror.imports.files())
    user = kept.pop(_USER, None) or chatgpt_json.dump({"id": mirror.account, "email": email})
    others = {name: kept[name] for name in sorted(kept) if is_whole and not _is_written_anew(name)}
    return {_USER: user, **others}


def _write_asset_names(archive: _Archive, members: Mapping[str, str], assets: Mapping[str, Asset]) -> None:
    names = {member: assets[identifier].name or identifier for identifier, member in members.items()}
    archive.write(_ASSET_NAMES, chatgpt_json.dump(names))


async def _write_assets(
    archive: _Archive,
    members: Mapping[str, str],
    assets: Mapping[str, Asset],
    files: AssetFiles,
    on_bytes: Callable[[int], None],
) -> int:
    lost = 0
    for identifier, member in members.items():
        try:
            with closing(archive.copy(files.path(assets[identifier].digest), member)) as pieces:
                for written in pieces:
                    on_bytes(written)
                    await asyncio.sleep(0)  # a signal is heard in the middle of gigabytes, too
        except FileNotFoundError:
            lost += 1
    return lost


def _is_written_anew(name: str) -> bool:
    return name.lower() in {_MANIFEST, _ASSET_NAMES} or _WRITTEN_ANEW.fullmatch(name) is not None


class _Archive:
    """A ZIP under way, and what is in it so far."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file
        self._sizes: list[dict[str, object]] = []
        self._taken = {_MANIFEST, _ASSET_NAMES}  # folded

    @property
    def files(self) -> int:
        """How many it holds so far."""
        return len(self._sizes)

    def free_name(self, name: str, *, apart: str) -> str:
        """`name` as every ZIP may hold it, with a number after `apart` where another file's is the same to a file
        system that is lenient about letters. It is taken from then on.
        """
        path = PurePosixPath(_UNSAFE.sub("_", name))
        numbered = (str(path.with_stem(f"{path.stem}{apart}({number})")) for number in itertools.count(2))
        free = next(each for each in itertools.chain([str(path)], numbered) if names.folded(each) not in self._taken)
        self._taken.add(names.folded(free))
        return free

    @classmethod
    @contextmanager
    def over(cls, file: IO[bytes]) -> Iterator[_Archive]:
        """Write to `file`. What is left in the middle of it gets no directory: it is no archive."""
        zipped = zipfile.ZipFile(file, "w")
        try:
            yield cls(zipped)
            zipped.close()
        finally:
            zipped.fp = None  # it would else finish, as rubbish, whatever went wrong

    @contextmanager
    def member(self, name: str, *, size_bytes: int | None = None) -> Iterator[IO[bytes]]:
        """One file of it: deflated, or stored where its size is known beforehand."""
        info = zipfile.ZipInfo(name, _NO_TIME)
        info.external_attr = 0o100600 << 16
        info.compress_type = zipfile.ZIP_DEFLATED if size_bytes is None else zipfile.ZIP_STORED
        info.file_size = size_bytes or 0
        handle = self._file.open(info, "w", force_zip64=size_bytes is None)
        if size_bytes is None:
            handle._compressor = _Deflater()  # type: ignore[attr-defined]  # zipfile has no other place for it
        try:
            yield handle
        except BaseException:
            with suppress(OSError):
                handle.close()
            raise
        handle.close()
        self._taken.add(names.folded(name))
        self._sizes.append({"path": name, "size_bytes": info.file_size})

    def write(self, name: str, content: bytes) -> None:
        """A file of it, whole."""
        with self.member(name) as member:
            member.write(content)

    def copy(self, source: Path, name: str) -> Generator[int]:
        """Store a file, and tell how much of it went in, piece by piece. Raises FileNotFoundError."""
        with source.open("rb") as file, self.member(name, size_bytes=source.stat().st_size) as member:
            while chunk := file.read(_CHUNK_BYTES):
                member.write(chunk)
                yield len(chunk)

    def write_manifest(self, shards: list[str]) -> None:
        manifest = {
            "version": 1,
            "manifest_file": _MANIFEST,
            "export_files": self._sizes,
            "logical_files": {"conversations.json": {"files": shards, "sharded": True}},
        }
        self.write(_MANIFEST, chatgpt_json.dump(manifest))


class _Deflater:
    """Deflates as zlib does, but for what would become less than a hundredth: that is stored, as Deflate can."""

    def __init__(self) -> None:
        self._zlib = _zlib()
        self._held = bytearray()

    def compress(self, content: bytes) -> bytes:
        self._held += content
        return self._pack() if len(self._held) >= _CHUNK_BYTES else b""

    def flush(self) -> bytes:
        return self._pack() + _zlib().flush()

    def _pack(self) -> bytes:
        held, self._held = bytes(self._held), bytearray()
        packed = self._zlib.compress(held) + self._zlib.flush(zlib.Z_SYNC_FLUSH)
        if len(held) <= _MOST_RATIO * len(packed):
            return packed
        # Another one goes on from here: this one would refer to what is not written as it wrote it.
        self._zlib, storing = _zlib(), _zlib(zlib.Z_NO_COMPRESSION)
        return storing.compress(held) + storing.flush(zlib.Z_SYNC_FLUSH)


def _zlib(level: int = zlib.Z_DEFAULT_COMPRESSION) -> zlib._Compress:
    return zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
