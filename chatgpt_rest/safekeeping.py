# SPDX-License-Identifier: GPL-2.0-or-later
"""`server.py backup` and `server.py restore`: the mirror in one file, and back.

A backup is made beside a running server, by a connection that only reads. A restore needs the mirror for itself.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event
from typing import BinaryIO, Final, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from chatgpt_rest import __version__
from chatgpt_rest.archive.backup import Manifest, Place, open_backup, pack, read_backup
from chatgpt_rest.archive.partial import SUFFIX, is_at, remove_leftovers
from chatgpt_rest.archive.staging import Staging
from chatgpt_rest.auth import read_digest_key
from chatgpt_rest.clock import HOUR, SECOND, Clock, iso
from chatgpt_rest.config import Config
from chatgpt_rest.errors import BadRequest, Conflict, MirrorError, StartError, StorageFailed
from chatgpt_rest.folders import fsync_folder
from chatgpt_rest.mirror.database import locked
from chatgpt_rest.mirror.snapshot import (
    CarriedOver,
    carry_over,
    inspect,
    known_schema,
    measure,
    settle,
    take_snapshot,
)
from chatgpt_rest.sync_status import counted

_PACKED_PARTS: Final = 0.5  # of a database, at the most: conversations come to less
_MIB: Final = 1024 * 1024

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Restored:
    manifest: Manifest
    carried: CarriedOver
    kept: Path | None
    """Where what was there before lies now; None where nothing was."""
    at: int


async def backup_now(config: Config, clock: Clock, console: Console, file: Path) -> None:
    """Make a backup of the mirror in `file`, which must not exist, whether or not a server runs. Cancelling leaves
    nothing behind. Raises MirrorError; also where the backup is made and something is missing in it.
    """
    place = Place(config.mirror.path, config.assets_folder)
    manifest = await _run(partial(_back_up, place, clock, file), lambda made: _tell_backup(console, file, made))
    if manifest.missing:
        raise MirrorError(
            f"the backup is made, but {counted(len(manifest.missing), 'file')} of conversations could not be put into "
            f"it, missing or damaged under {place.assets_folder}: {', '.join(manifest.missing[:3])}"
            f"{'' if len(manifest.missing) <= 3 else ', …'}; import the export that brought them again"
        )


async def restore_now(config: Config, clock: Clock, console: Console, file: Path) -> None:
    """Put the mirror of the backup in `file` in the place of what is there, which is kept. Cancelling leaves all as it
    was. Raises MirrorError, and then nothing was replaced.
    """
    place = Place(config.mirror.path, config.assets_folder)
    await _run(partial(_restore, place, clock, file), lambda done: _tell_restore(console, done))


# ------------------------------------------------------------------------------------------------------------- backup


def _back_up(place: Place, clock: Clock, file: Path, meter: _Meter) -> Manifest:
    target = file.absolute()
    with _disk_faults(target):
        if not place.database.exists():
            raise StartError(f"{place.database}: there is no mirror yet")
        key = _key(place)
        database_bytes, asset_bytes = measure(place.database)
        with _partial(target) as stream:
            _check_room(target.parent, int(database_bytes * (1 + _PACKED_PARTS)) + asset_bytes)
            created_at = _time(clock.now())
            with _beside(target) as snapshot:
                meter.begin("copying the database", database_bytes)
                take_snapshot(place.database, snapshot, look=meter.reach)
                meter.begin("checking the copy", None)
                contents = inspect(snapshot, look=meter.check)
                meter.begin("packing", database_bytes + asset_bytes)
                manifest = pack(
                    stream,
                    place,
                    snapshot=snapshot,
                    contents=contents,
                    key=key,
                    version=__version__,
                    created_at=created_at,
                    look=meter.advance,
                )
            stream.flush()
            os.fsync(stream.fileno())
            meter.begin("reading it back", manifest.size_bytes)
            read_backup(stream).verify(look=meter.advance)
    return manifest


def _key(place: Place) -> bytes:
    if not place.key.exists():
        raise StartError(
            f"{place.key} is missing: API keys will open nothing once the server has stopped. "
            "Put it back, or restart the server, which makes a new one"
        )
    return read_digest_key(place.key)


@contextmanager
def _partial(target: Path) -> Iterator[BinaryIO]:
    """A file beside `target` that becomes it in the end, or leaves nothing. Raises Conflict where somebody else makes
    it, or it is there.
    """
    if target.is_dir():
        raise BadRequest(f"{target} is a folder; name a file in it")
    if not target.parent.is_dir():
        raise BadRequest(f"{target.parent}: there is no such folder")
    remove_leftovers(target.parent)
    path = target.with_name(target.name + SUFFIX)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another process is making {target}") from None
        # Who had it may have renamed it before it could be locked: then it is a backup, and not to be written over.
        if not is_at(descriptor, path):
            raise Conflict(f"another process has made {target}")
        try:
            _check_free(target)
            os.fchmod(descriptor, 0o600)
            stream.truncate()
            yield stream
            path.rename(target)
            fsync_folder(target.parent)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _check_free(target: Path) -> None:
    if target.exists():
        raise Conflict(f"{target} exists already; remove it, or name another file")


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """An empty file beside `target` for the time being, readable by its owner alone."""
    path = target.with_name(f"{target.name}{SUFFIX}.sqlite")
    journal = path.with_name(path.name + "-journal")
    path.unlink(missing_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        yield path
    finally:
        journal.unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def _tell_backup(console: Console, file: Path, manifest: Manifest) -> None:
    console.print(escape(f"{file}: {_counts(manifest)}; {_size(file.stat().st_size)}, read back and found whole"))
    console.print("keep it like a file of passwords: it holds every word, and what API keys are checked with")
    if manifest.purged:
        files = counted(len(manifest.purged), "file")
        console.print(f"{files} of deleted conversations were purged meanwhile, and are not in it")


# ------------------------------------------------------------------------------------------------------------ restore


def _restore(place: Place, clock: Clock, file: Path, meter: _Meter) -> _Restored:
    with _disk_faults(place.database), open_backup(file) as backup, _held(place):
        staging = Staging(place)
        try:
            staging.clear()
            meter.begin("looking at what is here", None)
            missing = staging.missing(backup, look_on=meter.check)
            _check_room(place.database.parent, sum(member.size_bytes for member in missing))
            meter.begin("reading the backup", backup.manifest.size_bytes)
            contents = staging.lay_out(backup, missing, look=meter.advance, look_on=meter.check)
            now = clock.now()
            carried = carry_over(staging.database, place.database, now=now)
            if carried.is_current_readable:
                settle(place.database)
            meter.check()
            # From here on it takes milliseconds, and is not to be stopped.
            kept = _free_name(place, now)
            is_kept = staging.take_place(contents, kept=kept, with_key=not carried.continues)
        finally:
            staging.clear()
        return _Restored(backup.manifest, carried, kept if is_kept else None, now)


@contextmanager
def _held(place: Place) -> Iterator[None]:
    if place.database.is_symlink():
        raise StartError(f"{place.database} is a link; name the file itself with [mirror] path")
    try:
        with locked(place.database):
            yield
    except StartError as error:
        if error.code != "locked":
            raise
        who = error.text.partition(";")[0]
        raise StartError(f"{who}; if that is the server, stop it first, and start it again afterwards") from None


def _free_name(place: Place, now: int) -> Path:
    """What the old mirror is to be called: nothing begins so yet."""
    stamp = datetime.fromtimestamp(now // SECOND, UTC).strftime("%Y%m%dT%H%M%SZ")
    name = f"{place.database.name}.before-restore-{stamp}"
    taken = {file.name for file in place.database.parent.iterdir()}
    while any(each.startswith(name) for each in taken):
        name += "+"
    return place.database.with_name(name)


def _tell_restore(console: Console, restored: _Restored) -> None:
    manifest, carried = restored.manifest, restored.carried
    lines = [f"restored {_counts(manifest)}, as of {manifest.created_at}"]
    if restored.kept is not None:
        lines.append(f"what was here is kept as {restored.kept}; remove it when it is not wanted any more")
    if carried.blocked:
        lines.append(
            "nothing is known of what was sent in the last hour; until "
            f"{_time(restored.at + HOUR)} ChatGPT is asked nothing for {', '.join(carried.blocked)}"
        )
    else:
        lines.append("requests of the last hour stay counted")
    if carried.continues:
        lines.append("API keys and tokens are those of today: what was revoked since the backup stays revoked")
    else:
        lines.append("API keys are those of the backup; revoke what should not open it: server.py key list")
    if carried.deleted:
        deleted = counted(carried.deleted, "conversation")
        lines.append(f"deleted since the backup, and so still: {deleted}; to bring back: server.py undelete")
    if absent := len(manifest.purged) + len(manifest.missing):
        lines.append(f"not in the backup: {counted(absent, 'file')} of conversations")
    if manifest.schema < known_schema():
        lines.append("it is of an older version; the next start brings it up to date")
    for line in lines:
        console.print(escape(line))


# -------------------------------------------------------------------------------------------------------- what both do


class _Meter:
    """How far the work is, for the person who waits; and how it is stopped."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)
        self._is_stopped = Event()

    def begin(self, what: str, total_bytes: int | None) -> None:
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=total_bytes)

    def advance(self, by_bytes: int) -> None:
        self.check()
        self._progress.advance(self._task, by_bytes)

    def reach(self, bytes_done: int) -> None:
        self.check()
        self._progress.update(self._task, completed=bytes_done)

    def check(self) -> None:
        """Raises _Stopped where the work is not wanted any more."""
        if self._is_stopped.is_set():
            raise _Stopped

    def stop(self) -> None:
        self._is_stopped.set()


class _Stopped(Exception):
    """Somebody has cancelled the work."""


async def _run(work: Callable[[_Meter], _T], tell: Callable[[_T], None]) -> _T:
    """Do this in a thread, and tell of it. A cancelled one is stopped and waited for; one that is over by then has
    done what it does, and is told of, too.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        meter = _Meter(progress)
        task = asyncio.ensure_future(asyncio.to_thread(work, meter))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            meter.stop()
            await asyncio.wait([task])
            if task.exception() is None:
                tell(task.result())
            raise
    tell(task.result())
    return task.result()


def _check_room(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise StorageFailed(
            f"{folder} has room for {_size(free_bytes)}, and {_size(needed_bytes)} are needed", code="storage_full"
        )


@contextmanager
def _disk_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFailed(f"the disk that holds {path.parent} is full", code="storage_full") from error
        raise StorageFailed(f"{error.filename or path}: {error.strerror}") from error


def _counts(manifest: Manifest) -> str:
    return (
        f"{counted(manifest.accounts, 'account')}, {counted(manifest.conversations, 'conversation')}, "
        f"{counted(manifest.messages, 'message')}, {counted(manifest.assets, 'file')}"
    )


def _size(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:,.1f} MiB"


def _time(time: int) -> str:
    return iso(time // SECOND * SECOND)
