# SPDX-License-Identifier: GPL-2.0-or-later
"""Upstream to mirror: what is stale, what it costs, what comes first. One request at a time for each account.

What there is to do is derived from rows before each request, so that a process that ends anywhere has lost that request
at most, and the next one goes on there. What lives in memory is only who reads what, and what has just failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from chatgpt_rest.claims import EXPIRES_SOON
from chatgpt_rest.clock import DAY, MINUTE, SECOND, Clock, growing_pause, iso
from chatgpt_rest.config import SyncConfig
from chatgpt_rest.errors import (
    BudgetSpent,
    MirrorError,
    StorageFailed,
    Unauthorized,
    Unavailable,
    UpstreamAway,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamLimit,
    UpstreamNotFound,
    UpstreamRefusedToken,
    UpstreamRefusesPrograms,
    UpstreamRejected,
)
from chatgpt_rest.fetch import Fetches
from chatgpt_rest.listing import ARCHIVED, PLAIN, PROJECTS
from chatgpt_rest.mirror import AccountMirror, Mirror
from chatgpt_rest.plan import Desk, FetchOne, Job, Pass, Plan, ReadPage
from chatgpt_rest.upstream.protocol import LARGEST_PAGE, Caller, Upstream

_ABSENCE_LASTS: Final = DAY  # of a list that upstream does not have
_FIRST_PAUSE: Final = 3  # in doublings of a minute: 8 minutes, then 16, 32, and an hour from there on
_JITTER: Final = 0.25  # of a pause, at most, either way
_STORAGE_PAUSE: Final = 10 * MINUTE  # each try may cost a token, for something that is too large to be written
_LONGEST_WAIT_SECONDS: Final = 60.0  # then rows are looked at again
_IN_A_ROW: Final = 3  # failures that may each be a conversation's own; then upstream as a whole is let rest
_ALIVE_AFTER_ALL: Final = 3  # conversations that a list left out although they are there: then it was cut short

log = logging.getLogger(__name__)


class Tokens(Protocol):
    """What sync knows of credentials."""

    def accounts(self) -> list[str]:
        """The accounts that a valid token is at hand for."""

    def expires_at(self, account: str) -> int | None:
        """When the token at hand ends (µs)."""

    async def caller_of(self, account: str, *, leave: int = 0) -> Caller:
        """How a request on the account's behalf goes upstream. Raises Unavailable where there is no token."""


class Sync:
    """Keeps the accounts current that a token is at hand for, leaving `[sync] reserve` tokens to people."""

    def __init__(
        self,
        mirror: Mirror,
        upstream: Upstream,
        clock: Clock,
        *,
        fetches: Fetches,
        tokens: Tokens,
        config: SyncConfig,
        jitter: Callable[[], float],
    ) -> None:
        self._mirror = mirror
        self._upstream = upstream
        self._clock = clock
        self._fetches = fetches
        self._tokens = tokens
        self._jitter = jitter
        self.config = config
        self.plan = Plan(clock, config)
        self._desks: dict[str, Desk] = {}

    async def aclose(self) -> None:
        """End the work under way, wherever it stands."""
        keepers = [desk.keeper for desk in self._desks.values() if desk.keeper is not None]
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)

    def desk(self, account: str) -> Desk:
        """What is going on for an account."""
        return self._desks.setdefault(account, Desk())

    def was_read(self, account: str, conversation_id: str) -> None:
        """Somebody reads this conversation: if it is stale, it comes first."""
        readers = self.desk(account).readers
        if not readers or readers[-1] != conversation_id:
            readers.append(conversation_id)

    def tend(self) -> None:
        """See to it that each account with a token is kept current; to be called now and then, and when one arrives."""
        for account in self._tokens.accounts():
            self._tell_of_expiry(account)
            current = self.desk(account).current
            if current is not None and current.waits_for is not None and current.waits_until is None:
                self.desk(account).wake.set()  # it waits for a token, and here is one
            if self.config.enabled:
                self._start_keeper(account)

    async def start(self, account: str, *, is_full: bool = False) -> None:
        """Begin a pass now, or have the one under way read the list again; a full one finds deletions, too. Raises
        Unavailable where no token is at hand.
        """
        await self._tokens.caller_of(account)
        memory = self._mirror.of(account).sync
        await memory.wake()
        if is_full:
            await self._mirror.of(account).backlog.try_again()
            await memory.begin_sweep(self._clock.now())
        desk = self.desk(account)
        if desk.current is None:
            desk.current = Pass(self._clock.now())
        desk.current.wants_list = True
        desk.current.waits_for = desk.current.waits_until = None
        desk.tried.clear()
        desk.unwritable_until = 0
        self._start_keeper(account)
        desk.wake.set()

    async def advance(self, account: str) -> Pass:
        """Go on with the pass under way, or begin one, as far as that goes now: to its end, or until it must wait."""
        desk, mirror = self.desk(account), self._mirror.of(account)
        async with desk.turn:
            this = desk.current = desk.current or Pass(self._clock.now())
            if desk.unwritable_until > self._clock.now():
                return this
            this.waits_for = this.waits_until = None
            try:
                while await self._step(mirror, desk, this) or _was_asked_meanwhile(desk, this):
                    pass
            except StorageFailed as error:
                log.warning("nothing can be written account=%s reason=%s", account, error.text)
                desk.unwritable_until = self._clock.now() + _STORAGE_PAUSE
                this.wait(error.code, until=desk.unwritable_until)
            if this.waits_for is None:
                await self._end(mirror, desk, this)
            return this

    # ------------------------------------------------------------------------------------------------ one step

    async def _step(self, mirror: AccountMirror, desk: Desk, this: Pass) -> bool:
        """One request upstream. False where nothing is left to do, or something has to be waited for."""
        state = await mirror.sync.load()
        now = self._clock.now()
        if state.rests_until is not None and state.rests_until > now:
            return this.wait(state.error.code if state.error else UpstreamError.code, until=state.rests_until)
        job = await self.plan.next(mirror, desk, this, state)
        if job is None:
            return False
        try:
            await self._do(mirror, desk, this, job)
        except BudgetSpent as error:
            return this.wait(error.code, until=now + (error.retry_after_seconds or 1) * SECOND)
        except (Unavailable, Unauthorized) as error:  # no token is left; the next one wakes this
            return this.wait(error.code, until=None)
        except StorageFailed:
            raise
        except UpstreamError as error:
            this.requests += 1
            return await self._fail(mirror, desk, this, job, error, failures=state.failures)
        except Exception:  # a fault of ours: asking for the same thing for ever would spend the account's every hour
            log.exception("what upstream sent could not be taken in account=%s", mirror.account)
            this.requests += 1
            fault = UpstreamBroken("what upstream sent could not be taken in", code="internal")
            return await self._fail(mirror, desk, this, job, fault, failures=state.failures)
        this.requests += 1
        await self._succeed(mirror, desk, failures=state.failures)
        return True

    async def _do(self, mirror: AccountMirror, desk: Desk, this: Pass, job: Job) -> None:
        if isinstance(job, ReadPage):
            await self._read(mirror, desk, this, job, await self._caller(mirror.account))
            return
        try:
            await self._fetches.bring(mirror, job.conversation_id, partial(self._caller, mirror.account))
        except UpstreamNotFound as error:
            if not error.is_gone:
                raise
            this.gone += 1
            desk.gone += job.sweep is not None
        else:
            this.fetched += 1
            desk.alive += job.sweep is not None
        if job.sweep is not None and desk.alive >= _ALIVE_AFTER_ALL and desk.alive > desk.gone:
            this.failed += 1
            await self._disbelieve(mirror, desk, sweep=job.sweep)

    async def _caller(self, account: str) -> Caller:
        return await self._tokens.caller_of(account, leave=self.config.reserve)

    async def _succeed(self, mirror: AccountMirror, desk: Desk, *, failures: int) -> None:
        if failures:
            await mirror.sync.wake()
        suspects, desk.suspects = desk.suspects, []
        for job, reason in suspects:  # upstream is well, so it was their own fault
            if isinstance(job, FetchOne) or not failures:  # a page would be left out for an outage that is over
                await self._blame(mirror, job, reason)

    async def _fail(
        self, mirror: AccountMirror, desk: Desk, this: Pass, job: Job, error: UpstreamError, *, failures: int
    ) -> bool:
        """Find out whose fault it was. Answers whether the pass goes on."""
        if isinstance(error, UpstreamRefusedToken):
            return True  # it is forgotten by now, and another one may be at hand
        await mirror.sync.remember(error)
        if isinstance(error, UpstreamLimit) and not error.is_of_one_model:
            return True  # the account is blocked now, and the next token is not given
        this.failed += 1
        if isinstance(job, FetchOne) and isinstance(error, UpstreamNotFound):
            desk.tried.add(job.conversation_id)
            await self._blame(mirror, job, "conversation_inaccessible")
            return True
        if _is_of_all(job, error):
            desk.suspects.clear()
        else:
            desk.suspects.append((job, error.code))
            desk.tried.add(job.conversation_id if isinstance(job, FetchOne) else job.known.name)
            if not failures and len(desk.suspects) < _IN_A_ROW:
                return True
        jitter = 1 + _JITTER * (2 * self._jitter() - 1)
        pause = max(growing_pause(failures + _FIRST_PAUSE) * jitter, (error.retry_after_seconds or 0) * SECOND)
        until = self._clock.now() + int(pause)
        await mirror.sync.rest(until=until)
        log.log(
            logging.INFO if failures else logging.WARNING,
            "upstream is let rest account=%s reason=%s seconds=%d",
            mirror.account,
            error.code,
            pause // SECOND,
        )
        return this.wait(error.code, until=until)

    async def _blame(self, mirror: AccountMirror, job: Job, reason: str) -> None:
        """It is this conversation or this page that upstream chokes on, and nothing else."""
        if isinstance(job, FetchOne):
            if await mirror.backlog.failed(job.conversation_id, reason):
                log.warning("set a conversation aside account=%s reason=%s", mirror.account, reason)
        elif job.known.name in {PLAIN, ARCHIVED} and not job.listing.is_at_top:
            await mirror.listings.skip(job.known.name, listing=job.listing, items=LARGEST_PAGE)
            log.warning("left a page of a list out account=%s reason=%s", mirror.account, reason)
        else:
            until = self._clock.now() + self.config.archive_interval_seconds * SECOND
            await mirror.listings.is_absent(job.known.name, until=until)

    async def _end(self, mirror: AccountMirror, desk: Desk, this: Pass) -> None:
        desk.current = None
        if not this.requests:
            return
        this.ended_at = self._clock.now()
        desk.last = this
        if not this.failed:
            await mirror.sync.forgive()
        log.info(
            "synced account=%s conversations=%d gone=%d failed=%d requests=%d",
            mirror.account,
            this.fetched,
            this.gone,
            this.failed,
            this.requests,
        )

    # --------------------------------------------------------------------------------------------------- lists

    async def _read(self, mirror: AccountMirror, desk: Desk, this: Pass, job: ReadPage, caller: Caller) -> None:
        name, listing = job.known.name, job.listing
        since = mirror.conversations.deletions
        try:
            if name == PROJECTS:
                projects = await self._upstream.list_projects(caller, cursor=listing.cursor)
                await mirror.listings.take_projects(projects, listing=listing)
                return
            if name in {PLAIN, ARCHIVED}:
                page = await self._upstream.list_page(
                    caller, offset=listing.next_offset, limit=LARGEST_PAGE, is_archived=name == ARCHIVED
                )
            else:
                page = await self._upstream.list_project(caller, name, cursor=listing.cursor)
        except UpstreamError as error:
            if name == PLAIN or not _says_absent(error):
                raise
            await self._miss(mirror, name, error)
            return
        if name == ARCHIVED and await mirror.listings.is_plain(page):
            await mirror.listings.is_absent(ARCHIVED, until=self._clock.now() + _ABSENCE_LASTS)
            return  # a server that does not know the parameter shows its plain list
        await mirror.listings.take(page, of=name, listing=listing, since=since)
        if name == PLAIN and listing.is_at_top:
            this.wants_list = False
            desk.again += [item.id for item in page.items[:1] if item.update_time is None]

    async def _miss(self, mirror: AccountMirror, name: str, error: UpstreamError) -> None:
        """Upstream has no such list. A project that is gone is named again by the list of projects, or never."""
        if name not in {ARCHIVED, PROJECTS} and isinstance(error, UpstreamNotFound):
            await mirror.listings.forget(name)
        else:
            await mirror.listings.is_absent(name, until=self._clock.now() + _ABSENCE_LASTS)

    async def _disbelieve(self, mirror: AccountMirror, desk: Desk, *, sweep: int) -> None:
        """Too much of what the lists left out is there: they were cut short, and prove nothing of the rest."""
        log.warning("upstream's list was cut short account=%s missed=%d", mirror.account, desk.alive)
        await mirror.sync.remember(
            UpstreamBroken("upstream's list left out conversations that are there", code="list_incomplete")
        )
        await mirror.sync.end_sweep(sweep)
        desk.alive = desk.gone = 0

    # ------------------------------------------------------------------------------------------------- keepers

    def _start_keeper(self, account: str) -> None:
        desk = self.desk(account)
        if desk.keeper is None or desk.keeper.done():
            desk.keeper = asyncio.create_task(self._keep(account, desk))

    async def _keep(self, account: str, desk: Desk) -> None:
        """Keep one account current while a token for it is at hand; where sync is off, to the end of one pass."""
        while account in self._tokens.accounts():
            try:
                this = await self.advance(account)
            except Exception:  # a fault now must not end this for the years that the process may run
                log.exception("a pass failed account=%s", account)
                desk.current, seconds = None, _LONGEST_WAIT_SECONDS
            else:
                if this.waits_for is None and not self.config.enabled:
                    return
                until = this.waits_until or self._clock.now() + MINUTE
                seconds = min((until - self._clock.now()) / SECOND, _LONGEST_WAIT_SECONDS)
            try:
                async with asyncio.timeout(max(0.0, seconds)):
                    await desk.wake.wait()
            except TimeoutError:
                pass
            desk.wake.clear()
        if desk.told_expiry is not None and desk.told_expiry <= self._clock.now():
            log.warning("the access token has expired, sync pauses until there is a new one account=%s", account)

    def _tell_of_expiry(self, account: str) -> None:
        expires_at = self._tokens.expires_at(account)
        desk = self.desk(account)
        if expires_at is None or expires_at - self._clock.now() > EXPIRES_SOON or desk.told_expiry == expires_at:
            return
        desk.told_expiry = expires_at
        log.warning("the access token will expire account=%s at=%s", account, iso(expires_at))


def _was_asked_meanwhile(desk: Desk, this: Pass) -> bool:
    """Whether somebody asked for the list just as nothing was left to do."""
    return this.wants_list and this.waits_for is None and PLAIN not in desk.tried


def _is_of_all(job: Job, error: UpstreamError) -> bool:
    """Whether this failure says something of upstream, and nothing of what was asked for."""
    if isinstance(job, ReadPage) and job.known.name == PLAIN and job.listing.is_at_top:
        return True
    if isinstance(error, UpstreamRefusesPrograms):  # bot checks may guard the paths of some lists, and not of others
        return isinstance(job, FetchOne) or job.known.name == PLAIN
    return isinstance(error, UpstreamAway | UpstreamLimit | UpstreamBusy)


def _says_absent(error: MirrorError) -> bool:
    is_unknown_path = isinstance(error, UpstreamBroken) and error.code == "upstream_unknown_path"
    return is_unknown_path or isinstance(error, UpstreamNotFound | UpstreamRejected)
