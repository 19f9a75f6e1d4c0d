# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup on its way back: all of it laid out beside the mirror and checked, then put into its place.

However this ends, kill -9 and power cuts among them, a start finds a whole mirror: the one that was there until the
very last step, the backup's from then on. What is left lying about is cleared by the next restore.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Set
from hashlib import sha256
from pathlib import Path
from typing import Final

from chatgpt_rest.archive.backup import DATABASE, KEY, Backup, Look, Member, Place
from chatgpt_rest.errors import BadRequest
from chatgpt_rest.folders import fsync_folder, make_folder
from chatgpt_rest.mirror.snapshot import Contents, inspect

_BESIDE: Final = ("-wal", "-journal", "-shm")
"""What SQLite keeps beside a database. Of another database it would spoil this one."""
_BLOCK_BYTES: Final = 1024 * 1024
_NAMED: Final = 3  # of what a backup leaves out


class Staging:
    """What is laid out. Only for the one who holds the mirror's lock."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.database = place.database.with_name(place.database.name + ".restoring")
        self._key = place.key.with_name(place.key.name + ".restoring")
        # Where assets lie that are still coming; a start clears it, too.
        self._assets = place.assets_folder / "incoming"

    def clear(self) -> None:
        """Leave nothing of this one, or of one that was killed."""
        for suffix in ("", *_BESIDE):
            Path(f"{self.database}{suffix}").unlink(missing_ok=True)
        self._key.unlink(missing_ok=True)
        shutil.rmtree(self._assets, ignore_errors=True)
        # Two names of one database are a danger: under each of them SQLite would look for another log.
        for kept in self._place.database.parent.glob("*.before-restore-*"):
            if kept.samefile(self._place.database):
                for suffix in ("", *_BESIDE):
                    Path(f"{kept}{suffix}").unlink(missing_ok=True)

    def missing(self, backup: Backup, *, look_on: Callable[[], None]) -> set[Member]:
        """What of a backup is not here yet: the database, the key, and most often some assets."""
        return {each for each in backup.manifest.members if each.asset is None or not self._is_here(each, look_on)}

    def lay_out(
        self, backup: Backup, missing: Collection[Member], *, look: Look, look_on: Callable[[], None]
    ) -> Contents:
        """Read all of a backup, write what is missing beside the mirror, and check it. Raises BadRequest where the
        backup is damaged, OSError. Answers what its database holds.
        """
        make_folder(self._assets)
        for member in backup.manifest.members:
            target = {DATABASE: self.database, KEY: self._key}.get(member.name, self._assets / member.sha256)
            blocks = backup.read(member)
            if member in missing:
                _write(target, blocks, look)
            else:
                for block in blocks:
                    look(len(block))
        found = inspect(self.database, look=look_on)
        if found.schema != backup.manifest.schema:
            raise BadRequest("the backup is damaged: its database is not the one that its list describes")
        manifest = backup.manifest
        told = {*manifest.purged, *manifest.missing, *(member.asset for member in manifest.members)}
        if left_out := [digest for digest in found.assets if digest not in told]:
            named = ", ".join(left_out[:_NAMED]) + ("" if len(left_out) <= _NAMED else ", …")
            raise BadRequest(
                f"the backup is damaged: its database names what is neither in it nor said to be missing: {named}; "
                "take another one"
            )
        return found

    def take_place(self, contents: Contents, *, kept: Path, with_key: bool) -> bool:
        """Put what is laid out in the place of what is there, which is kept under the name `kept` and others that
        begin so. Answers whether there was anything. Raises OSError; the old database is in its place then.
        """
        if is_replacing := self._place.database.stat().st_size > 0:
            self._keep_assets(Path(f"{kept}.assets"), but=set(contents.assets))
        for file in sorted(self._assets.iterdir()):
            target = self._place.asset(file.name)
            make_folder(target.parent)
            file.replace(target)
            fsync_folder(target.parent)
        database, key = self._place.database, self._place.key
        if is_replacing:
            for suffix in ("", *_BESIDE[:2]):
                _link(Path(f"{database}{suffix}"), Path(f"{kept}{suffix}"))
        if with_key:
            _link(key, Path(f"{kept}.key"))
        # First away with the old one's log, for good: a new database that it lay beside would be spoilt.
        for suffix in _BESIDE:
            Path(f"{database}{suffix}").unlink(missing_ok=True)
        fsync_folder(database.parent)
        # The key first. Between these two steps the old database is there, and API keys that open nothing; the
        # same restore, begun anew, cannot know the new database with the old key from one that was restored long ago.
        if with_key:
            self._key.replace(key)
            fsync_folder(database.parent)
        self.database.replace(database)
        fsync_folder(database.parent)
        return is_replacing

    def _keep_assets(self, folder: Path, *, but: Set[str]) -> None:
        """Give the files that only the old database names a second name: the next purge takes them for nobody's."""
        for file in self._place.assets_folder.glob("[0-9a-f][0-9a-f]/*"):
            if file.name not in but:
                make_folder(folder / file.parent.name)
                (folder / file.parent.name / file.name).hardlink_to(file)

    def _is_here(self, member: Member, look_on: Callable[[], None]) -> bool:
        try:
            with self._place.asset(member.sha256).open("rb") as file:
                digest = sha256()
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
                    look_on()
        except FileNotFoundError:
            return False
        return digest.hexdigest() == member.sha256


def _write(target: Path, blocks: Iterable[bytes], look: Look) -> None:
    descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for block in blocks:
            file.write(block)
            look(len(block))
        file.flush()
        os.fsync(file.fileno())


def _link(file: Path, name: Path) -> None:
    """Give a file a second name, if it is there."""
    if file.exists():
        name.hardlink_to(file)
