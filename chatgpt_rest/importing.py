# SPDX-License-Identifier: GPL-2.0-or-later
"""`server.py import`: an export into the mirror, by the process that has it or, where there is none, by this one.

The export is read by a process that this command starts, in either case: the files are there for whoever runs it, and
a server need not be able to see them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from chatgpt_rest import __version__
from chatgpt_rest.archive.ledger import Aside, Fault, Ledger
from chatgpt_rest.archive.reading import glance, reading, source_of
from chatgpt_rest.clock import Clock
from chatgpt_rest.config import Config
from chatgpt_rest.control import call_server, control_over, send_import, serve_control
from chatgpt_rest.errors import MirrorError, StartError
from chatgpt_rest.reach import opened

_MOST_SHOWN: Final = 20  # of what was set aside; --json has more
_AGAIN: Final = "what came is kept; run it again to go on"


class _Take(Protocol):
    """Has the frames of an export taken in by the process that has the mirror."""

    async def __call__(self, frames: AsyncIterator[bytes], *, dry_run: bool) -> Ledger: ...


async def import_now(
    config: Config,
    clock: Clock,
    console: Console,
    sources: Sequence[Path],
    *,
    account: str | None,
    is_dry_run: bool,
    as_json: bool,
) -> None:
    """Take in these files and folders, and print the ledger. Cancelling ends it; what came stays. Raises MirrorError
    where nothing could be taken in, where no conversation could be read, and where it ended before its end.
    """
    try:
        ledger = await _import(config, clock, sources, account=account, is_dry_run=is_dry_run)
    except asyncio.CancelledError:
        Console(stderr=True, soft_wrap=True).print(f"interrupted; {_AGAIN}")
        raise
    if as_json:
        console.out(json.dumps(ledger.as_json(), indent=2), highlight=False)
    else:
        for line in in_words(ledger):
            console.print(escape(line))
    if ledger.error is not None:
        raise MirrorError(f"{ledger.error.error}; {_AGAIN}", code=ledger.error.code)
    if (files := ledger.files.set_aside) and not ledger.conversations.read:
        raise MirrorError(f"no conversation could be read: {_counted(files, 'file')} {_were(files)} set aside")


async def _import(
    config: Config, clock: Clock, sources: Sequence[Path], *, account: str | None, is_dry_run: bool
) -> Ledger:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[told]}"),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        watch = _Watch(progress)
        async with reading(source_of(sources, config)) as reader:
            found = reader.opened
            asked = {
                "version": __version__,
                "named": found.account,
                "email": found.email,
                "wanted": account,
                "dry_run": is_dry_run,
            }
            async with _mirror(config, clock, asked) as (account_id, take):
                watch.begin(found.total_bytes)
                await reader.go(account_id)
                ledger = await take(watch.over(reader.bodies()), dry_run=is_dry_run)
    if watch.fault is not None:
        return msgspec.structs.replace(ledger, error=Fault.of(watch.fault))
    return ledger


class _Watch:
    """Shows how far it is, by the frames that pass."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar = progress.add_task("opening", total=None, told="")
        self._conversations = 0
        self.fault: MirrorError | None = None
        """How the reader has died: the writer sees only that nothing comes any more."""

    def begin(self, total_bytes: int) -> None:
        self._progress.update(self._bar, description="importing", total=total_bytes)

    async def over(self, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same frames."""
        try:
            async for body in frames:
                self._show(body)
                yield body
        except MirrorError as error:
            self.fault = error

    def _show(self, body: bytes) -> None:
        seen = glance(body)
        self._conversations += len(seen.conversations)
        if seen.done_bytes:
            told = f"{_counted(self._conversations, 'conversation')}"
            self._progress.update(self._bar, completed=seen.done_bytes, told=told)


@asynccontextmanager
async def _mirror(config: Config, clock: Clock, asked: dict[str, Any]) -> AsyncIterator[tuple[str, _Take]]:
    """The account that the export goes to, and the way there."""
    socket = config.control_socket
    try:
        account: str | None = await call_server(socket, "open_import", asked)
    except ConnectionError:
        account = None
    if account is not None:
        yield account, partial(_send, socket, account)
        return
    async with opened(config, clock) as app:
        own = control_over(app, clock, is_server=False)
        async with serve_control(own, socket):
            account = await own.open_import(**asked)
            yield account, partial(own.take_import, account)


async def _send(socket: Path, account: str, frames: AsyncIterator[bytes], *, dry_run: bool) -> Ledger:
    try:
        return await send_import(socket, account, frames, dry_run=dry_run)
    except (ConnectionError, StartError):
        raise MirrorError(f"the process that has the mirror has stopped; {_AGAIN}") from None


# --------------------------------------------------------------------------------------------------------------- words


@dataclass(slots=True)
class _Row:
    """What came, what became of it, and what else there is to say, of one kind of things."""

    name: str
    read: int
    outcomes: dict[str, int]
    further: dict[str, int] = field(default_factory=dict)

    def line(self, *, name_width: int, number_width: int) -> str:
        told = "; ".join(filter(None, (_listed(self.outcomes), _listed(self.further))))
        return f"{self.name:<{name_width}}  {self.read:>{number_width},}  {told}".rstrip()


def in_words(ledger: Ledger) -> list[str]:
    """The ledger for a person, a line each: what came, and then what needs looking after, with what to do."""
    dry = "nothing was written; this is what an import would do" if ledger.dry_run else ""
    rows = _rows(ledger)
    name_width = max(len(row.name) for row in rows)
    number_width = max(len(f"{row.read:,}") for row in rows)
    return [
        f"account {_one_line(ledger.account)}" + (f": {dry}" if dry else ""),
        *(row.line(name_width=name_width, number_width=number_width) for row in rows),
        _cost(ledger),
        *_missing(ledger),
        *_set_aside(ledger),
    ]


def _rows(ledger: Ledger) -> list[_Row]:
    conversations, messages, assets, files = ledger.conversations, ledger.messages, ledger.assets, ledger.files
    rows = [
        _Row("conversations", conversations.read, _outcomes(conversations)),
        _Row("messages", messages.read, _outcomes(messages), {"of them hidden": messages.hidden}),
    ]
    if assets.read or assets.missing:
        standing = {"placed": assets.placed, "unplaced": assets.unplaced, "missing": assets.missing}
        rows.append(_Row("assets", assets.read, _outcomes(assets), standing))
    if read := files.kept + files.ignored + files.set_aside:
        kinds = {"kept": files.kept, "ignored": files.ignored, "set aside": files.set_aside}
        rows.append(_Row("other files", read, kinds))
    return rows


def _outcomes(counts: msgspec.Struct) -> dict[str, int]:
    names = ("imported", "stored", "enriched", "unchanged", "left_deleted", "set_aside")
    return {name.replace("_", " "): getattr(counts, name) for name in names if hasattr(counts, name)}


def _cost(ledger: Ledger) -> str:
    if ledger.seconds < 1:
        return f"read {_size(ledger.bytes)} in less than a second"
    rate = _size(round(ledger.bytes / ledger.seconds))
    return f"read {_size(ledger.bytes)} in {_counted(round(ledger.seconds), 'second')}, {rate}/s"


def _missing(ledger: Ledger) -> list[str]:
    lines = []
    if names := ledger.files.missing:
        shown = ", ".join(_one_line(name) for name in names[:_MOST_SHOWN])
        total = ledger.files.missing_total
        more = f", and {total - _MOST_SHOWN:,} more" if total > _MOST_SHOWN else ""
        lines += [
            f"{_counted(total, 'file')} of the export {_are(total)} not there: {shown}{more}",
            f"  → import the part that holds {_them(total)}, or ask ChatGPT for the export again",
        ]
    if missing := ledger.assets.missing:
        lines += [
            f"{_counted(missing, 'asset')} that messages point to {_are(missing)} in no export so far",
            f"  → another export may hold {_them(missing)}; ChatGPT leaves out what has expired there",
        ]
    return lines


def _set_aside(ledger: Ledger) -> list[str]:
    total = ledger.set_aside_total
    if not total:
        return []
    more = total - len(ledger.set_aside[:_MOST_SHOWN])
    return [
        f"{total:,} {_are(total)} set aside, everything else was taken in:",
        *(f"  {_told(aside)}" for aside in ledger.set_aside[:_MOST_SHOWN]),
        *(
            [f"  and {more:,} more; --json lists {'them' if total == len(ledger.set_aside) else 'some'}"]
            if more
            else []
        ),
    ]


def _told(aside: Aside) -> str:
    title = f" “{_one_line(aside.title)}”" if aside.title else ""
    name = f" {_one_line(aside.id)}" if aside.id else ""
    lost = f", {_counted(aside.messages, 'message')}" if aside.messages else ""
    return f"{aside.kind}{name}{title}{lost}: {_one_line(aside.reason)} ({_one_line(aside.place)})"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def _them(number: int) -> str:
    return "it" if number == 1 else "them"


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _one_line(text: str) -> str:
    """What would break the line or steer the terminal is a blank."""
    return "".join(character if character.isprintable() else " " for character in text)
