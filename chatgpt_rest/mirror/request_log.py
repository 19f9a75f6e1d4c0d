# SPDX-License-Identifier: GPL-2.0-or-later
"""The log of requests that went upstream: the state of every account's bucket, and the audit trail.

The rule is told in `chatgpt_rest.budget`; here it is one atomic statement, so that no two takers can share a token and
no restart or crash gives one back.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from chatgpt_rest.budget import NO_LIMIT, WINDOW, Budget, budget
from chatgpt_rest.clock import DAY, SECOND, Clock
from chatgpt_rest.errors import BudgetSpent, UpstreamLimit
from chatgpt_rest.mirror.database import Database

NOBODY: Final = ""
"""The account of a request whose token upstream refused."""

_JUMP: Final = 2 * SECOND  # less than this is corrected without a word: clocks drift
_LONGEST_BLOCK: Final = 7 * DAY  # no limit of upstream's lasts longer; one that seems to was set by a wrong clock

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One token taken. `arrived` says when its hour begins."""

    account: str
    id: str
    _log: RequestLog

    async def arrived(self, outcome: int | str) -> None:
        """Upstream has the request by now: its response's status, or the name of the fault that ended the attempt."""
        await self._log.arrived(self.id, self.account, outcome=str(outcome))


class RequestLog:
    """Takes tokens and tells what is left, which a `capacity` of NO_LIMIT makes as much as anybody wants.
    `longest_attempt_seconds` bounds the way of a request to upstream.
    """

    def __init__(
        self, database: Database, clock: Clock, *, capacity: int, checks: int, longest_attempt_seconds: float
    ) -> None:
        self._database = database
        self._clock = clock
        self._longest_attempt = int(longest_attempt_seconds * SECOND)
        self.capacity = capacity
        self._checks = checks

    async def resume(self) -> None:
        """Bring the log of earlier processes into this process's time; to be called once, before the first take.

        A wall clock that was set forward meanwhile would make the log look older than it is and grant its tokens early.
        In the same boot the machine's uptime tells by how much, and the log moves with it. A clock that was set back
        is met the cautious way, in any boot: rows that lie in the future count as taken now.
        """
        now, boot = self._clock.now(), self._clock.boot()
        async with self._database.write() as connection:
            rows = await connection.execute_fetchall("select boot_id, elapsed, wall from clock_reading where id = 1")
            for boot_id, elapsed, wall in rows:
                if boot is None or boot.boot_id != boot_id or boot.elapsed < elapsed:
                    continue
                jump = max(0, (now - wall) - (boot.elapsed - elapsed))
                if jump >= _JUMP:
                    log.warning("the wall clock was set forward seconds=%d", jump // SECOND)
                # What is older than an hour by the new clock too counts no more, and stays the audit trail that it is.
                await connection.execute(
                    """
                    update upstream_request set taken_at = taken_at + :jump, arrived_by = arrived_by + :jump
                    where arrived_by + :jump > :now - :window
                    """,
                    {"jump": jump, "now": now, "window": WINDOW},
                )
                await connection.execute("update account set blocked_until = blocked_until + ?", (jump,))
                await connection.execute("update model_block set blocked_until = blocked_until + ?", (jump,))
            await connection.execute(
                """
                update upstream_request
                set arrived_by = min(arrived_by, iif(outcome is null, :now + :longest_attempt, :now)),
                    taken_at = min(taken_at, :now)
                where arrived_by > :now
                """,
                {"now": now, "longest_attempt": self._longest_attempt},
            )
            latest = now + _LONGEST_BLOCK
            await connection.execute("update account set blocked_until = min(blocked_until, ?)", (latest,))
            await connection.execute("update model_block set blocked_until = min(blocked_until, ?)", (latest,))
            if boot is not None:
                await connection.execute(
                    "insert or replace into clock_reading (id, boot_id, elapsed, wall) values (1, ?, ?, ?)",
                    (boot.boot_id, boot.elapsed, now),
                )

    async def take(
        self, account: str, method: str, path: str, *, leave: int = 0, is_check: bool = False
    ) -> LoggedRequest:
        """Take one token, if more than `leave` are there. Raises BudgetSpent, and then nothing may leave.

        A check of an unknown token is counted twice: in the account that the token claims, and in the small budget of
        all checks together, which bounds what a stranger's forgeries can spend of somebody else's.
        """
        now = self._clock.now()
        request = LoggedRequest(account, uuid4().hex, self)
        async with self._database.write() as connection:
            rows = await connection.execute_fetchall(
                """
                insert into upstream_request (account, id, taken_at, arrived_by, method, path, is_check)
                select :account, :id, :now, :now + :longest_attempt, :method, :path, :is_check
                where (
                    select count(*) from upstream_request where account = :account and arrived_by > :now - :window
                ) < :capacity
                and not exists (select 1 from account where account = :account and blocked_until > :now)
                and (
                    not :is_check
                    or (
                        select count(*) from upstream_request where is_check = 1 and arrived_by > :now - :window
                    ) < :checks
                )
                returning id
                """,
                {
                    "account": account,
                    "id": request.id,
                    "now": now,
                    "longest_attempt": self._longest_attempt,
                    "method": method,
                    "path": path,
                    "is_check": is_check,
                    "window": WINDOW,
                    "capacity": self._share(leave),
                    "checks": self._checks,
                },
            )
        if not list(rows):
            if is_check and await self.has_left(account):
                raise BudgetSpent(retry_after_seconds=(await self.checks()).wait_seconds)
            raise await self.refusal(account, leave=leave)
        return request

    async def arrived(self, request_id: str, account: str, *, outcome: str) -> None:
        """The hour of this request's token begins now."""
        now = self._clock.now()
        async with self._database.write() as connection:
            await connection.execute(
                "update upstream_request set arrived_by = ?, outcome = ? where account = ? and id = ?",
                (now, outcome, account, request_id),
            )

    async def disown(self, request: LoggedRequest) -> None:
        """Upstream refused the token of this check: the account that it claimed has nothing to do with it."""
        async with self._database.write() as connection:
            await connection.execute(
                "update upstream_request set account = ? where account = ? and id = ?",
                (NOBODY, request.account, request.id),
            )

    async def budget(self, account: str, *, leave: int = 0) -> Budget:
        """The bucket of an account as it is now, for one who leaves so many tokens to others."""
        now = self._clock.now()
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                "select arrived_by from upstream_request where account = ? and arrived_by > ?", (account, now - WINDOW)
            )
            blocks = await connection.execute_fetchall(
                "select blocked_until from account where account = ?", (account,)
            )
        blocked_until = next((int(block[0]) for block in blocks if block[0] is not None), None)
        return budget((row[0] for row in rows), capacity=self._share(leave), now=now, blocked_until=blocked_until)

    def _share(self, leave: int) -> int:
        """The capacity for one who leaves so many tokens to people. Nobody has to leave any where there is no limit."""
        return self.capacity if self.capacity == NO_LIMIT else max(1, self.capacity - leave)

    async def checks(self) -> Budget:
        """The bucket from which first checks of unknown tokens are taken."""
        now = self._clock.now()
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                "select arrived_by from upstream_request where is_check = 1 and arrived_by > ?", (now - WINDOW,)
            )
        return budget((row[0] for row in rows), capacity=self._checks, now=now)

    async def has_left(self, account: str, *, leave: int = 0) -> bool:
        """Whether a request of this account could leave now, and leave so many tokens behind."""
        return (await self.budget(account, leave=leave)).remaining > 0

    async def refusal(self, account: str, *, leave: int = 0) -> BudgetSpent:
        """Why nothing may leave for this account now: the bucket is empty, or upstream's own limit holds, which is told
        in upstream's words.
        """
        state = await self.budget(account, leave=leave)
        if not state.is_blocked:
            return BudgetSpent(retry_after_seconds=state.wait_seconds)
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall("select blocked_body from account where account = ?", (account,))
        said = next((row[0] for row in rows if row[0] is not None), None)
        return BudgetSpent(
            retry_after_seconds=state.wait_seconds,
            code=UpstreamLimit.code,
            body=None if said is None else json.loads(said),
        )

    async def block(self, account: str, *, seconds: float, body: bytes | None = None) -> None:
        """Upstream's own hourly limit holds this account back for so long; `body` is the JSON it said that with."""
        until = self._clock.now() + int(seconds * SECOND)
        async with self._database.write() as connection:
            await connection.execute(
                """
                update account set blocked_until = max(coalesce(blocked_until, 0), ?), blocked_body = ?
                where account = ?
                """,
                (until, body, account),
            )

    async def block_model(self, account: str, model: str, *, seconds: float, body: bytes | None = None) -> None:
        """Upstream's cap of one model holds asks to that model back; `body` is the JSON it said that with."""
        until = self._clock.now() + int(seconds * SECOND)
        async with self._database.write() as connection:
            await connection.execute(
                "insert or replace into model_block (account, model, blocked_until, blocked_body) values (?, ?, ?, ?)",
                (account, model, until, body),
            )

    async def check_model(self, account: str, model: str) -> None:
        """Raises UpstreamLimit, in upstream's words, while its cap of this model holds."""
        now = self._clock.now()
        async with self._database.read() as connection:
            rows = await connection.execute_fetchall(
                """
                select blocked_until, blocked_body from model_block
                where account = ? and model = ? and blocked_until > ?
                """,
                (account, model, now),
            )
        for until, body in rows:
            raise UpstreamLimit(
                "upstream's cap of this model is reached",
                is_of_one_model=True,
                retry_after_seconds=(until - now) / SECOND,
                body=None if body is None else json.loads(body),
            )
