# SPDX-License-Identifier: GPL-2.0-or-later
"""`server.py export`: an account's conversations as files, read beside the running server or, where none runs, from the
mirror alone.
"""

from __future__ import annotations

import asyncio
import time
import unicodedata
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from chatgpt_rest.app import running
from chatgpt_rest.archive import names
from chatgpt_rest.archive.forms import FORMS
from chatgpt_rest.archive.library import Shelving, write_library
from chatgpt_rest.archive.official import Contents, write_official
from chatgpt_rest.archive.partial import disk_faults
from chatgpt_rest.chatgpt_text import everything, plain
from chatgpt_rest.clock import SECOND, Clock
from chatgpt_rest.config import Config
from chatgpt_rest.context import MIRROR_OF_ALL
from chatgpt_rest.errors import BadRequest, MirrorError, NotFound, StartError
from chatgpt_rest.mirror import Account, AccountMirror, Mirror
from chatgpt_rest.mirror.reading import open_for_reading
from chatgpt_rest.model import Conversation
from chatgpt_rest.sync_status import counted

OFFICIAL: Final = "chatgpt"
"""The form that is one archive and no folder of files: ChatGPT's own."""

_NAMED: Final = 5  # of the files that a summary has something to say of
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


async def export_now(
    config: Config,
    clock: Clock,
    console: Console,
    folder: Path,
    *,
    form: str,
    since: str | None,
    query: str | None,
    account: str | None,
) -> None:
    """Write an account's conversations into `folder`: a file each or, in the form `chatgpt`, one ZIP named after the
    account and the time. With `since` those updated no earlier (a date or a time, in this machine's zone where it
    names none), with `query` those that hold all of its words. What was written is told on `console`, progress on
    standard error.

    Raises BadRequest, NotFound, Conflict, StartError, StorageFailed, MirrorError. Cancelled, it leaves each file whole.
    """
    updated_since = None if since is None else _time(since)
    began = time.monotonic()
    async with _reading(config, clock) as mirror:
        meant = await _account(mirror, account)
        selection = _Selection(mirror.of(meant.id), updated_since, _words(query or ""))
        total, not_here = await selection.mirror.conversations.count_exportable(since=updated_since)
        try:
            with _Bar(total) as bar:
                if form == OFFICIAL:
                    target = _archive_place(folder, meant, clock)
                    told = _told_archive(
                        target,
                        await write_official(
                            target,
                            selection.trees(bar.step),
                            mirror=selection.mirror,
                            files=mirror.files,
                            email=meant.email,
                            is_whole=selection.is_whole,
                            on_bytes=bar.take,
                        ),
                        max_entries=config.archive.max_entries,
                    )
                else:
                    told = _told_library(
                        await write_library(
                            folder,
                            selection.trees(bar.step),
                            mirror=selection.mirror,
                            files=mirror.files,
                            form=FORMS[form],
                            on_bytes=bar.take,
                        ),
                    )
        except asyncio.CancelledError:
            console.print("interrupted; every file that was written is whole; run this again to go on")
            raise
    for line in told:
        console.print(escape(line))
    if not_here:
        console.print(f"{counted(not_here, 'conversation')} left out: known by name only; `server.py sync` brings them")
    console.print(f"done in {time.monotonic() - began:.1f} s")


@asynccontextmanager
async def _reading(config: Config, clock: Clock) -> AsyncIterator[Mirror]:
    """The mirror: opened where nobody has it, which brings its schema up to date; else read beside the one who has."""
    async with AsyncExitStack() as stack:
        try:
            app = await stack.enter_async_context(running(config, clock=clock))
        except StartError as error:
            if error.code != "locked":
                raise
            yield await stack.enter_async_context(open_for_reading(config.mirror.path, clock=clock))
        else:
            yield app[MIRROR_OF_ALL]


async def _account(mirror: Mirror, id_or_name: str | None) -> Account:
    known = await mirror.accounts.all()
    if not known:
        raise NotFound("account", text="there is nothing to export yet: `server.py import` or `server.py sync` first")
    identifier = await mirror.accounts.resolve(id_or_name)
    return next(each for each in known if each.id == identifier)


@dataclass(frozen=True, slots=True)
class _Selection:
    """Which conversations are meant."""

    mirror: AccountMirror
    since: int | None
    words: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        return self.since is None and not self.words

    async def trees(self, on_each: Callable[[], None]) -> AsyncIterator[Conversation]:
        """They themselves, one after the other. `on_each` is called for each that was looked at."""
        async for identifier in self.mirror.conversations.exportable(since=self.since):
            on_each()
            try:
                tree = await self.mirror.conversations.get(identifier)
            except NotFound:
                continue  # deleted meanwhile
            if _holds(tree, self.words):
                yield tree


class _Bar:
    """Progress on standard error, where that is a terminal."""

    def __init__(self, total: int) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._bar = self._progress.add_task("conversations", total=total, told="")
        self._bytes = 0

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self) -> None:
        self._progress.advance(self._bar)

    def take(self, size_bytes: int) -> None:
        self._bytes += size_bytes
        self._progress.update(self._bar, told=f"{self._bytes / 1e6:.1f} MB")


def _time(text: str) -> int:
    """A date or a time of ISO 8601 as µs. Raises BadRequest."""
    try:
        moment = datetime.fromisoformat(text).astimezone()  # what names no zone is meant in this machine's
        return (moment - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        raise BadRequest("--since must be a date or a time, like 2026-05-01 or 2026-05-01T18:30") from None


def _words(query: str) -> tuple[str, ...]:
    return tuple(_folded(query).split())


def _holds(tree: Conversation, words: tuple[str, ...]) -> bool:
    """Whether all these words stand in its title or in what a reader can see of it, on any branch."""
    missing = [word for word in words if word not in _folded(tree.title or "")]
    if missing:
        seen = _folded("\n".join(plain(said) for said in everything(tree) if not said.is_hidden))
        missing = [word for word in missing if word not in seen]
    return not missing


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _archive_place(folder: Path, account: Account, clock: Clock) -> Path:
    with disk_faults(folder):
        if folder.exists() and not folder.is_dir():
            raise MirrorError(f"{folder} is no folder; name another place")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    now = datetime.fromtimestamp(clock.now() // SECOND).astimezone().strftime("%Y-%m-%d-%H%M%S")
    target = folder / f"chatgpt-export-{names.safe(account.name or account.id).replace(' ', '-')}-{now}.zip"
    if target.exists():
        raise MirrorError(f"{target} is there already")
    return target


# --------------------------------------------------------------------------------------------------------------- words


def _told_archive(target: Path, contents: Contents, *, max_entries: int) -> list[str]:
    lines = [f"{target}: {counted(contents.conversations, 'conversation')}, {counted(contents.assets, 'asset')}"]
    if contents.files > max_entries:
        lines.append(f"it holds {counted(contents.files, 'file')}: to import it, set [archive] max_entries to as many")
    return lines + _lost(contents.lost)


def _told_library(done: Shelving) -> list[str]:
    lines = [f"written {done.written}, unchanged {done.unchanged}, {counted(done.assets, 'asset')} copied"]
    if done.beside:
        lines.append(f"edited by somebody and left so, the current version beside it as (new): {_some(done.beside)}")
    if left := [name for name in done.edited if name not in done.beside]:
        lines.append(f"edited by somebody and left so: {_some(left)}")
    if done.gone:
        lines.append(f"deleted from the mirror, their files left where they are: {_some(done.gone)}")
    return lines + _lost(done.lost)


def _lost(number: int) -> list[str]:
    if not number:
        return []
    return [f"{counted(number, 'asset')} left out: known to the mirror, but the file is gone; import the export again"]


def _some(files: list[str]) -> str:
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    return ", ".join(files[:_NAMED]) + more
