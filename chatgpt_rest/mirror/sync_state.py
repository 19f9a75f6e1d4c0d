# SPDX-License-Identifier: GPL-2.0-or-later
"""What sync remembers of one account beyond its conversations: sweeps, and how upstream has failed of late."""

from __future__ import annotations

from dataclasses import dataclass

from chatgpt_rest.clock import Clock
from chatgpt_rest.errors import MirrorError
from chatgpt_rest.mirror.database import Database


@dataclass(frozen=True, slots=True)
class LastError:
    """The last thing that went wrong, until a pass goes right. `at` in µs."""

    code: str
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class SyncState:
    """How an account stands. Times in µs."""

    sweep_began_at: int | None = None
    """Of the full sweep under way."""
    swept_at: int | None = None
    """When the last one began that came to its end."""
    failures: int = 0
    """How often in a row upstream as a whole has failed."""
    rests_until: int | None = None
    """Nothing is tried before."""
    error: LastError | None = None


class SyncMemory:
    """The state of one account, kept in its row."""

    def __init__(self, database: Database, clock: Clock, account: str) -> None:
        self.account = account
        self._database = database
        self._clock = clock

    async def load(self) -> SyncState:
        """How it stands."""
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select sweep_began_at, swept_at, failures, rests_until, error_code, error_text, error_at
                from sync where account = ?
                """,
                (self.account,),
            )
        for began_at, swept_at, failures, rests_until, code, text, at in rows:
            return SyncState(
                began_at, swept_at, failures, rests_until, None if code is None else LastError(code, text, at)
            )
        return SyncState()

    async def begin_sweep(self, at: int) -> None:
        """Every list is to be read to its end, by a reading that began no earlier than `at`."""
        await self._write(
            """
            insert into sync (account, sweep_began_at) values (:account, :at)
            on conflict (account) do update set sweep_began_at = :at
            """,
            at=at,
        )

    async def end_sweep(self, began_at: int) -> None:
        """All that there was to learn from the sweep that began then is known; one that began since goes on."""
        await self._write(
            """
            update sync set swept_at = :began_at, sweep_began_at = nullif(sweep_began_at, :began_at)
            where account = :account
            """,
            began_at=began_at,
        )

    async def rest(self, *, until: int) -> None:
        """Upstream failed once more; let it be until then."""
        await self._write(
            """
            insert into sync (account, failures, rests_until) values (:account, 1, :until)
            on conflict (account) do update set failures = failures + 1, rests_until = :until
            """,
            until=until,
        )

    async def wake(self) -> None:
        """Upstream answers again, or somebody wants to know whether it does."""
        await self._write("update sync set failures = 0, rests_until = null where account = :account")

    async def remember(self, error: MirrorError) -> None:
        """Something went wrong. Our words for it are kept, never upstream's."""
        await self._write(
            """
            insert into sync (account, error_code, error_text, error_at) values (:account, :code, :text, :now)
            on conflict (account) do update set error_code = :code, error_text = :text, error_at = :now
            """,
            code=error.code,
            text=error.text,
            now=self._clock.now(),
        )

    async def forgive(self) -> None:
        """A pass went right: what was wrong before is over."""
        await self._write(
            "update sync set error_code = null, error_text = null, error_at = null where account = :account"
        )

    async def _write(self, statement: str, **values: str | int) -> None:
        async with self._database.write() as connection:
            await connection.execute(statement, {"account": self.account, **values})
