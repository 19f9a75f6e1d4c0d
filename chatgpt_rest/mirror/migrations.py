# SPDX-License-Identifier: GPL-2.0-or-later
"""Bringing the schema up to date: numbered files, forward only, each applied in one transaction.

A database that a newer program wrote, or that is no mirror at all, is left untouched and stops the start. Before the
first migration that changes an existing mirror, a copy of it is made beside it.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import aiosqlite

from chatgpt_rest.errors import StartError

APPLICATION_ID: Final = 0x43475254
"""`CGRT`, in the header of every mirror: another program's database is recognised before anything is written to it."""

_NAME: Final = re.compile(r"[0-9]{4}_[a-z0-9_]+\.sql")

log = logging.getLogger(__name__)


async def pending_migrations(connection: aiosqlite.Connection, path: Path, folder: Path) -> list[Path]:
    """What is still to be applied, in order. Only reads, so that what is not ours stays untouched: raises StartError
    where the database is newer than this program, or another program's.
    """
    files = migration_files(folder)
    version = await _pragma(connection, "user_version")
    is_empty = await _pragma(connection, "schema_version") == 0
    if not is_empty and await _pragma(connection, "application_id") != APPLICATION_ID:
        raise StartError(f"{path} is a database of another program; name another place with [mirror] path")
    if version > len(files):
        raise StartError(
            f"{path} was written by a newer version (schema {version}, this program knows {len(files)}); "
            "install that version, or restore a backup"
        )
    return files[version:]


async def migrate(connection: aiosqlite.Connection, path: Path, pending: list[Path]) -> None:
    """Apply what is pending, each file in one transaction; a copy of a mirror that holds something is made first."""
    if pending and _number(pending[0]) > 1:
        await _back_up(connection, path.with_name(f"{path.name}.before-{pending[0].name[:4]}"))
    for file in pending:
        await _apply(connection, file)


def migration_files(folder: Path) -> list[Path]:
    """The migrations in order. Raises StartError where one is missing or misnamed: a gap would never be filled."""
    files = sorted(folder.glob("*.sql"))
    for number, file in enumerate(files, start=1):
        if _NAME.fullmatch(file.name) is None or _number(file) != number:
            raise StartError(f"{file}: migrations are named 0001_what.sql, 0002_what.sql, …, with none left out")
    if not files:
        raise StartError(f"{folder}: there are no migrations; the installation is incomplete")
    return files


def statements(script: str) -> Iterator[str]:
    """The statements of a script one by one. `executescript` would commit what is open before it runs."""
    pending = ""
    for piece in re.split(r"(?<=;)", script):
        pending += piece
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
    if any(line.strip() and not line.strip().startswith("--") for line in pending.splitlines()):
        raise StartError(f"a migration ends in mid-statement: {pending.strip()[:60]}")


def _number(file: Path) -> int:
    return int(file.name[:4])


async def _apply(connection: aiosqlite.Connection, file: Path) -> None:
    script = file.read_text(encoding="utf-8")  # noqa: ASYNC240 - before the loop serves anyone
    await connection.execute("begin immediate")
    try:
        for statement in statements(script):
            await connection.execute(statement)
        await connection.execute(f"pragma application_id = {APPLICATION_ID}")
        await connection.execute(f"pragma user_version = {_number(file)}")
        await connection.commit()
    except BaseException:
        await connection.rollback()
        raise
    log.info("applied migration=%s", file.name)


async def _back_up(connection: aiosqlite.Connection, copy: Path) -> None:
    partial = copy.with_name(copy.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    async with aiosqlite.connect(partial) as target:
        await connection.backup(target)
    partial.rename(copy)
    log.info("made a copy before migrating copy=%s", copy.name)


async def _pragma(connection: aiosqlite.Connection, name: str) -> int:
    rows = list(await connection.execute_fetchall(f"pragma {name}"))
    return int(rows[0][0])
