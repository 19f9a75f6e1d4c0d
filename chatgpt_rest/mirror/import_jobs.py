# SPDX-License-Identifier: GPL-2.0-or-later
"""The imports of one account, as jobs that somebody may ask for later: what became of them outlives the process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import aiosqlite

from chatgpt_rest.clock import Clock
from chatgpt_rest.errors import NotFound
from chatgpt_rest.mirror.database import Database

JobState = Literal["waiting", "running", "done", "failed", "interrupted"]
JobEnd = Literal["done", "failed", "interrupted"]

MOST_KEPT: Final = 100
"""Of an account's that are over: the newest."""


@dataclass(frozen=True, slots=True)
class ImportJob:
    """One import. `outcome` is JSON: the ledger of what is in, or the error. Times in µs."""

    id: str
    state: JobState
    began_at: int
    ended_at: int | None = None
    outcome: bytes | None = None


class ImportJobs:
    """One account's. Every query binds it: none can ask for another's."""

    def __init__(self, database: Database, clock: Clock, account: str) -> None:
        self.account = account
        self._database = database
        self._clock = clock

    async def begin(self, job_id: str) -> None:
        """A new one, which waits for its turn."""
        async with self._database.write() as connection:
            await connection.execute(
                "insert into import_job (account, id, state, began_at) values (?, ?, 'waiting', ?)",
                (self.account, job_id, self._clock.now()),
            )

    async def run(self, job_id: str) -> None:
        """Its turn has come."""
        async with self._database.write() as connection:
            await connection.execute(
                "update import_job set state = 'running' where account = ? and id = ?", (self.account, job_id)
            )

    async def finish(self, job_id: str, state: JobEnd, outcome: bytes | None) -> None:
        """It is over, one way or another, and the oldest ones are forgotten."""
        async with self._database.write() as connection:
            await connection.execute(
                "update import_job set state = ?, ended_at = ?, outcome = ? where account = ? and id = ?",
                (state, self._clock.now(), outcome, self.account, job_id),
            )
            # This one stays whatever the clock says: it is about to be asked for.
            await connection.execute(
                """
                delete from import_job
                where account = :account and id <> :id and ended_at is not null and id not in (
                    select id from import_job
                    where account = :account and id <> :id and ended_at is not null
                    order by ended_at desc limit :others
                )
                """,
                {"account": self.account, "id": job_id, "others": MOST_KEPT - 1},
            )

    async def get(self, job_id: str) -> ImportJob:
        """How it stands. Raises NotFound."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                "select id, state, began_at, ended_at, outcome from import_job where account = ? and id = ?",
                (self.account, job_id),
            )
        for row in rows:
            return ImportJob(*row)
        raise NotFound("import")


async def interrupt(connection: aiosqlite.Connection, *, now: int) -> None:
    """Close what a process that died left open, in every account; to be called once, before any import begins. What
    came before it died is in; to go on, the same is imported again.
    """
    await connection.execute(
        "update import_job set state = 'interrupted', ended_at = ? where state in ('waiting', 'running')", (now,)
    )
