# SPDX-License-Identifier: GPL-2.0-or-later
"""The mirror beside the process that has it: read-only, with no lock and no migration.

One process writes, others may read: a read-only connection never checkpoints, and the writer never waits for it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiosqlite

from chatgpt_rest.clock import Clock
from chatgpt_rest.errors import StartError
from chatgpt_rest.mirror.database import Database
from chatgpt_rest.mirror.migrations import pending_migrations
from chatgpt_rest.mirror.mirror import MIGRATIONS, Mirror
from chatgpt_rest.mirror.request_log import RequestLog


@asynccontextmanager
async def open_for_reading(path: Path, *, clock: Clock) -> AsyncIterator[Mirror]:
    """Open the mirror at the absolute `path` while another process has it. Whatever would write in it, a token taken of
    the budget too, fails.

    Raises StartError where it is no mirror, or one of another version's schema.
    """
    _look(path)
    async with AsyncExitStack() as stack:
        try:
            connections = [
                await stack.enter_async_context(
                    aiosqlite.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)
                )
                for _ in range(2)
            ]
            pending = await pending_migrations(connections[0], path, MIGRATIONS)
        except sqlite3.DatabaseError as error:
            raise StartError(f"{path} cannot be read as a mirror: {error}") from error
        if pending:
            raise StartError(
                f"{path} is held by an older version of this program (schema {int(pending[0].name[:4]) - 1}, this one "
                f"needs {int(pending[-1].name[:4])}); restart it with this version"
            )
        # The writer is read-only, too: what tries to write is told so by SQLite itself.
        database = Database(path, connections[0], tuple(connections[1:]))
        requests = RequestLog(database, clock, capacity=0, checks=0, longest_attempt_seconds=0)
        yield Mirror(database, clock, requests, cache_bytes=0)


def _look(path: Path) -> None:
    """Refuse what SQLite could not open. aiosqlite does not wait for the thread of a connection that failed to open,
    and that thread would report to this loop when it is closed.
    """
    # Not by opening it: closing a file drops every lock that this process has on it, SQLite's too.
    if not os.access(path, os.R_OK) or not path.is_file():
        raise StartError(f"{path} cannot be read as a mirror: there is no such file, or it is not for you to read")
