# SPDX-License-Identifier: GPL-2.0-or-later
"""A folder with one file a conversation, kept up to date without ever taking a file away from its owner.

A hidden index remembers which file holds which conversation, so that it keeps its name whatever becomes of its title,
and what was written there, so that a file which somebody has edited since is known. It is lines of JSON: each is
appended before its file is put in place, and in the end the index is written anew without what is old. One that is lost
or damaged is rebuilt from the names of the files and the ids in them.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import stat
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import IO, Final

from chatgpt_rest.archive import names
from chatgpt_rest.archive.partial import SUFFIX, disk_faults, partial, remove_leftovers
from chatgpt_rest.archive.regular import open_regular
from chatgpt_rest.errors import Conflict, MirrorError
from chatgpt_rest.model import Conversation

INDEX: Final = ".chatgpt_rest.jsonl"
ASSETS: Final = "assets"

_PARTIAL: Final = SUFFIX
_MARKED: Final = re.compile(r".* \(([A-Za-z0-9_-]+)\)(\.[a-z]+)", re.DOTALL)
_HEAD_BYTES: Final = 64 * 1024
"""As far as a file is looked through for the id of its conversation."""


class Outcome(Enum):
    """What became of a conversation's file."""

    WRITTEN = "written"
    UNCHANGED = "unchanged"
    EDITED = "edited"
    """Somebody has changed it, and it was left so."""
    BESIDE = "beside"
    """The same, and there is news: the current version was written beside it, as `… (new)`, or as `… (new 2)` where
    somebody has changed that, too.
    """


@dataclass(slots=True)
class Shelved:
    """The file of one conversation: its name, and digests of what was written there, the last one last."""

    name: str
    digests: list[str] = field(default_factory=list)
    is_met: bool = False
    """This export came by it."""


class Shelf:
    """The folder, open for one form of files: those that end in `suffix`. Its methods raise OSError."""

    def __init__(self, folder: Path, suffix: str, index: IO[bytes], shelved: dict[tuple[str, str], Shelved]) -> None:
        self.folder = folder
        self._suffix = suffix
        self._index = index
        self._shelved = shelved
        known = {each.name for each in shelved.values()}
        self._strays: dict[str, list[str]] = {}
        self._taken = {names.folded(name) for name in known}
        for name in (file.name for file in folder.iterdir()):
            self._taken.add(names.folded(name))
            mark = _MARKED.fullmatch(name)
            if name not in known and mark is not None and mark[2] == suffix and (folder / name).is_file():
                self._strays.setdefault(mark[1], []).append(name)

    def put(self, tree: Conversation, content: bytes) -> Outcome:
        """Let the file of this conversation hold `content`. Nothing is written where it does already."""
        shelved = self._shelved.get((tree.id, self._suffix))
        if shelved is None:
            shelved = Shelved(self._stray(tree.id) or self._new_name(tree))
            self._shelved[tree.id, self._suffix] = shelved
        shelved.is_met = True
        path = self.folder / shelved.name
        digest = _digest(content)
        there = _read(path)
        if there == content:
            if shelved.digests[-1:] != [digest]:
                self._remember(tree.id, shelved, digest)
            return Outcome.UNCHANGED
        # An empty file is one that a power cut took: there is nothing of anybody's in it.
        if there and _digest(there) not in shelved.digests:
            if shelved.digests[-1:] == [digest]:
                return Outcome.EDITED
            self._write(self._place_beside(path, {*shelved.digests, digest}), content)
            self._remember(tree.id, shelved, digest)
            return Outcome.BESIDE
        # Remembered first: were this process killed in between, the file would else look edited.
        self._remember(tree.id, shelved, digest)
        self._write(path, content)
        return Outcome.WRITTEN

    def name_of(self, conversation_id: str) -> str:
        """What the file of a conversation is called that was put here."""
        return self._shelved[conversation_id, self._suffix].name

    def not_met(self) -> Iterator[tuple[str, str]]:
        """Conversation and file, where there is a file that this export did not come by."""
        for (identifier, suffix), shelved in self._shelved.items():
            if suffix == self._suffix and not shelved.is_met and (self.folder / shelved.name).exists():
                yield identifier, shelved.name

    @contextmanager
    def new_asset(self, name: str) -> Iterator[IO[bytes]]:
        """The file of an asset, put in place when it is left."""
        folder = self.folder / ASSETS
        folder.mkdir(mode=0o700, exist_ok=True)
        with partial(folder / name, beside=folder / _PARTIAL, is_durable=False) as file:
            yield file

    def has_asset(self, name: str, *, size_bytes: int) -> bool:
        """Whether the asset is there: what lies under an id never changes."""
        try:
            return (self.folder / ASSETS / name).stat().st_size == size_bytes
        except FileNotFoundError:
            return False

    def _write(self, path: Path, content: bytes) -> None:
        with partial(path, beside=self.folder / _PARTIAL, is_durable=False) as file:
            file.write(content)

    def _place_beside(self, path: Path, ours: Container[str]) -> Path:
        """Where nothing of anybody's is: what lies there is missing, empty, or has one of these digests."""
        stems = itertools.chain((f"{path.stem} (new)",), (f"{path.stem} (new {n})" for n in itertools.count(2)))
        places = (path.with_name(f"{stem}{self._suffix}") for stem in stems)
        return next(place for place in places if not (there := _read(place)) or _digest(there) in ours)

    def _remember(self, conversation_id: str, shelved: Shelved, digest: str) -> None:
        shelved.digests.append(digest)
        self._index.write(_line(id=conversation_id, name=shelved.name, digest=digest))
        self._index.flush()

    def _stray(self, conversation_id: str) -> str | None:
        """The file that holds this conversation although no index says so."""
        for mark in names.marks(conversation_id):
            for name in self._strays.get(mark, ()):
                with (self.folder / name).open("rb") as file:
                    if re.search(rb"\b%b\b" % re.escape(conversation_id.encode()), file.read(_HEAD_BYTES)):
                        return name
        return None

    def _new_name(self, tree: Conversation) -> str:
        short, long = names.marks(tree.id)
        marks = itertools.chain((short, long), (f"{long}-{number}" for number in itertools.count(2)))
        possible = (names.file_name(tree, self._suffix, mark=mark) for mark in marks)
        name = next(each for each in possible if names.folded(each) not in self._taken)
        self._taken.add(names.folded(name))
        return name


@contextmanager
def open_shelf(folder: Path, *, account: str, suffix: str) -> Iterator[Shelf]:
    """The folder, made where it is not there, for as long as one process writes into it.

    Raises Conflict where another process does, or where it holds another account's conversations; MirrorError where it
    is no folder, or cannot be written; StorageFailed where its disk is full.
    """
    with disk_faults(folder):
        if folder.exists() and not folder.is_dir():
            raise MirrorError(f"{folder} is no folder; name another place")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder):
            _check_own(folder)
            shelved = _read_index(folder, account)
            remove_leftovers(folder)
            remove_leftovers(folder / ASSETS)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(folder / INDEX, flags, 0o600), "ab") as index:
                # The last line may be half of one; without a line of its own the account would be forgotten.
                index.write((b"\n" if index.tell() else b"") + _line(version=1, account=account))
                index.flush()
                yield Shelf(folder, suffix, index, shelved)
            _write_index(folder, account, shelved)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
                raise Conflict(f"another export is writing into {folder}; wait for its end") from None
            # A file system that knows no locks: then it is up to its owner.
        yield
    finally:
        os.close(descriptor)


def _check_own(folder: Path) -> None:
    """What is written into is this very folder's: a link would lead elsewhere, and a pipe to nobody."""
    for name, kind, is_kind in ((INDEX, "file", stat.S_ISREG), (ASSETS, "folder", stat.S_ISDIR)):
        try:
            mode = (folder / name).lstat().st_mode
        except FileNotFoundError:
            continue
        if not is_kind(mode):
            what = "a link" if stat.S_ISLNK(mode) else "something else"
            raise MirrorError(f"{folder / name} is {what} and no {kind}; move it away", code="storage_failed")


def _read_index(folder: Path, account: str) -> dict[tuple[str, str], Shelved]:
    """What the index says, as far as it can be read. Raises Conflict where it is another account's."""
    found: dict[tuple[str, str], Shelved] = {}
    if not (folder / INDEX).exists():
        return found
    with (folder / INDEX).open("rb") as lines:
        for line in lines:
            match _parsed(line):
                case {"account": str(other)} if other != account:
                    raise Conflict(f"{folder} holds conversations of account {other}; choose another for {account}")
                case {"id": str(identifier), "name": str(name), "digest": str(digest)} if _is_plain(name):
                    shelved = found.setdefault((identifier, Path(name).suffix), Shelved(name))
                    shelved.digests.append(digest)
    return found


def _write_index(folder: Path, account: str, shelved: dict[tuple[str, str], Shelved]) -> None:
    with partial(folder / INDEX, beside=folder / _PARTIAL, is_durable=True) as file:
        file.write(_line(version=1, account=account))
        for (identifier, _), each in shelved.items():
            file.writelines(_line(id=identifier, name=each.name, digest=digest) for digest in each.digests[-1:])


def _line(**members: object) -> bytes:
    return json.dumps(members).encode() + b"\n"


def _parsed(line: bytes) -> object:
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value


def _is_plain(name: str) -> bool:
    """Whether it names a file of this very folder: an index that came from elsewhere could say anything."""
    return name == Path(name).name and not name.startswith(".") and "\0" not in name


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _read(path: Path) -> bytes | None:
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
