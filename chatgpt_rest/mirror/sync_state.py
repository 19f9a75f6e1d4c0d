# SPDX-License-Identifier: GPL-2.0-or-later
"""What sync remembers of one account beyond its conversations: sweeps, and how upstream has failed of late."""

from __future__ import annotations

from dataclasses import dataclass

import aiosqlite

from chatgpt_rest.clock import DAY, HOUR, Clock
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
    sweep_not_before: int | None = None
    """Lists were cut short of late: what they leave out proves nothing."""
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
                select sweep_began_at, swept_at, sweep_not_before, failures, rests_until, error_code, error_text,
                       error_at
                from sync where account = ?
                """,
                (self.account,),
            )
        for began_at, swept_at, not_before, failures, rests_until, code, text, at in rows:
            error = None if code is None else LastError(code, text, at)
            return SyncState(began_at, swept_at, not_before, failures, rests_until, error)
        return SyncState()

    async def begin_sweep(self, at: int) -> None:
        """Every list is to be read to its end, by a reading that began no earlier than `at`; one under way goes on."""
        await self._write(
            """
            insert into sync (account, sweep_began_at) values (:account, :at)
            on conflict (account) do update set sweep_began_at = coalesce(sweep_began_at, :at)
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

    async def abandon_sweep(self, began_at: int, *, not_before: int) -> None:
        """The sweep that began then was misled, and found out nothing. None begins by itself before `not_before`."""
        await self._write(
            """
            update sync set sweep_began_at = nullif(sweep_began_at, :began_at), sweep_not_before = :not_before
            where account = :account
            """,
            began_at=began_at,
            not_before=not_before,
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
        """Upstream answers again."""
        await self._write("update sync set failures = 0, rests_until = null where account = :account")

    async def grant(self) -> None:
        """Somebody wants to know whether upstream answers again: one more try, after which it rests on."""
        await self._write("update sync set rests_until = null where account = :account")

    async def tries(self, conversation_id: str | None) -> None:
        """This conversation is about to be fetched; None once it could not be. That it came needs no note."""
        await self._write(
            """
            insert into sync (account, trying) values (:account, :id)
            on conflict (account) do update set trying = :id
            """,
            id=conversation_id,
        )

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

    async def _write(self, statement: str, **values: str | int | None) -> None:
        async with self._database.write() as connection:
            await connection.execute(statement, {"account": self.account, **values})


async def resume(connection: aiosqlite.Connection, *, now: int) -> None:
    """Put right what an earlier process left, in every account; to be called once, before anything is asked for.

    A conversation that is stale, or slim, although it was being fetched counts a failure: the process may have died of
    it, and would again. And what a clock that was ahead dated into the future happened just now, or sync would wait for
    that to come; a sweep under way begins after it, as nobody knows what of it came before.
    """
    await connection.execute(
        """
        update conversation set failures = failures + 1, failure = 'interrupted'
        where (account, id) in (select account, trying from sync where trying is not null)
          and (is_stale = 1 or is_slim = 1)
        """
    )
    await connection.execute(
        """
        update sync set trying = null, sweep_began_at = min(sweep_began_at, :now), swept_at = min(swept_at, :now),
                        sweep_not_before = min(sweep_not_before, :now + :day),
                        rests_until = min(rests_until, :now + 2 * :hour)
        """,
        {"now": now, "day": DAY, "hour": HOUR},
    )
    rows = await connection.execute_fetchall(
        """
        update listing set read_at = min(read_at, :now - 1), swept_at = min(swept_at, :now - 1),
                           begun_at = iif(begun_at > :now, null, begun_at),
                           absent_until = min(absent_until, :now + :longest_absence)
        where max(coalesce(read_at, 0), coalesce(swept_at, 0), coalesce(begun_at, 0)) > :now
           or absent_until > :now + :longest_absence
        returning list
        """,
        {"now": now, "longest_absence": DAY},
    )
    if list(rows):
        await connection.execute(
            """
            update conversation set listed_at = min(listed_at, :now - 1), fetched_at = min(fetched_at, :now - 1)
            where listed_at > :now or fetched_at > :now
            """,
            {"now": now},
        )
