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
    Conflict,
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
from chatgpt_rest.model import ListPage
from chatgpt_rest.plan import Desk, FetchOne, Job, Pass, Plan, ReadPage
from chatgpt_rest.upstream.protocol import LARGEST_PAGE, Caller, Upstream

_ABSENCE_LASTS: Final = DAY  # of a list that upstream does not have
_FIRST_PAUSE: Final = 3  # in doublings of a minute: 8 minutes, then 16, 32, and an hour from there on
_JITTER: Final = 0.25  # of a pause, at most, either way
_STORAGE_PAUSE: Final = 10 * MINUTE  # each try may cost a token, for something that is too large to be written
_LONGEST_WAIT_SECONDS: Final = 60.0  # then rows are looked at again
_IN_A_ROW: Final = 3  # failures that may each be a conversation's own; then upstream as a whole is let rest
_GRANTS_EVERY: Final = 5 * MINUTE  # of tries before their time
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

    @property
    def leave(self) -> int:
        """The tokens that are left to people: the reserve or, where that is the whole budget, four fifths of it."""
        capacity = self._mirror.requests.capacity
        return self.config.reserve if self.config.reserve < capacity else capacity * 4 // 5

    @property
    def is_possible(self) -> bool:
        """Whether upstream keeps conversations at all."""
        return self._upstream.keeps_conversations

    def require_upstream(self) -> None:
        """Raises Conflict where there is nothing to sync with."""
        if not self.is_possible:
            raise Conflict("there is nothing to sync with: this upstream keeps no conversations", code="sync_off")

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
            if self.config.enabled or current is not None:
                self._start_keeper(account)

    async def start(self, account: str, *, is_full: bool = False) -> None:
        """Begin a pass now, or have the one under way read the list again; a full one finds deletions, too. Raises
        Unavailable where no token is at hand, Conflict where there is nothing to sync with.
        """
        self.require_upstream()
        await self._tokens.caller_of(account)
        mirror, desk, now = self._mirror.of(account), self.desk(account), self._clock.now()
        if is_full:
            await mirror.backlog.try_again()
            await mirror.sync.begin_sweep(now)
        if desk.granted_at + _GRANTS_EVERY <= now:  # who asks each second must not ask upstream each second
            desk.granted_at = now
            desk.unwritable_until = 0
            desk.tried.clear()
            await mirror.sync.grant()
        if desk.current is None:
            desk.current = Pass(now)
        desk.current.wants_list = True
        desk.current.waits_for = desk.current.waits_until = None
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
            this.wait(state.error.code if state.error else UpstreamError.code, until=state.rests_until)
            return False
        job = await self.plan.next(mirror, desk, this, state)
        if job is None:
            return False
        try:
            await self._do(mirror, desk, this, job)
        except BudgetSpent as error:
            if not (isinstance(job, FetchOne) and job.can_wait):  # else nothing is left to do: the pass is over
                this.wait(error.code, until=now + (error.retry_after_seconds or 1) * SECOND)
            return False
        except (Unavailable, Unauthorized) as error:  # no token is left; the next one wakes this
            this.wait(error.code, until=None)
            return False
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
        await self._succeed(mirror, desk, job, failures=state.failures)
        return True

    async def _do(self, mirror: AccountMirror, desk: Desk, this: Pass, job: Job) -> None:
        if isinstance(job, ReadPage):
            await self._read(mirror, desk, this, job, await self._caller(mirror.account))
            return
        try:
            await self._bring(mirror, job.conversation_id)
        except UpstreamNotFound as error:
            if not error.is_gone:
                raise
            this.gone += 1
            desk.gone += job.sweep is not None
        else:
            this.fetched += not job.is_probe
            if job.sweep is not None and await self.plan.was_to_be_met(mirror, job.conversation_id):
                desk.alive += 1
        if job.sweep is not None and desk.alive >= _ALIVE_AFTER_ALL and desk.alive > desk.gone:
            this.is_misled = True
            await self._disbelieve(mirror, desk, sweep=job.sweep)

    async def _bring(self, mirror: AccountMirror, conversation_id: str) -> None:
        """Fetch it, with a note that only a process which ends in the middle leaves behind."""
        await mirror.sync.tries(conversation_id)
        try:
            await self._fetches.bring(mirror, conversation_id, partial(self._caller, mirror.account))
        except StorageFailed:
            raise
        except Exception:
            await mirror.sync.tries(None)
            raise

    async def _caller(self, account: str) -> Caller:
        return await self._tokens.caller_of(account, leave=self.leave)

    async def _succeed(self, mirror: AccountMirror, desk: Desk, job: Job, *, failures: int) -> None:
        """Upstream does one thing: what does that say of those that failed before?"""
        is_telling = isinstance(job, FetchOne)  # that lists are served says nothing of conversations
        if is_telling or not desk.rests_for_conversations:
            desk.rests_for_conversations = False
            if failures:
                await mirror.sync.wake()
        for key, (suspect, reason) in list(desk.suspects.items()):
            if is_telling or isinstance(suspect, ReadPage):
                del desk.suspects[key]
                if isinstance(suspect, FetchOne) or not failures:  # a page would be left out for an outage that is over
                    await self._blame(mirror, suspect, reason)

    async def _fail(
        self, mirror: AccountMirror, desk: Desk, this: Pass, job: Job, error: UpstreamError, *, failures: int
    ) -> bool:
        """Find out whose fault it was. Answers whether the pass goes on."""
        if isinstance(error, UpstreamRefusedToken):
            return True  # it is forgotten by now, and another one may be at hand
        await mirror.sync.remember(error)
        this.failed += 1
        if isinstance(job, FetchOne) and isinstance(error, UpstreamNotFound):
            desk.tried.add(job.conversation_id)
            await self._blame(mirror, job, "conversation_inaccessible")
            return True
        key = job.conversation_id if isinstance(job, FetchOne) else job.known.name
        is_of_all, is_probe = _is_of_all(job, error), isinstance(job, FetchOne) and job.is_probe
        if is_of_all:
            desk.suspects.clear()
        elif not is_probe:
            desk.suspects[key] = (job, error.code)
            desk.tried.add(key)
            # Where nothing else is left to fetch, nothing would tell, and each interval would cost another try.
            may_be_told = isinstance(job, ReadPage) or await mirror.backlog.probe(besides=desk.suspects)
            if may_be_told and not failures and len(desk.suspects) < _IN_A_ROW:
                return True
        desk.rests_for_conversations = isinstance(job, FetchOne)
        pause = (error.retry_after_seconds or 0) * SECOND
        if failures or not isinstance(error, UpstreamLimit):  # the first time, a limit is believed when it will clear
            jitter = 1 + _JITTER * (2 * self._jitter() - 1)
            pause = max(pause, int(growing_pause(failures + _FIRST_PAUSE) * jitter))
        until = self._clock.now() + pause
        await mirror.sync.rest(until=until)
        log.log(
            logging.INFO if failures else logging.WARNING,
            "upstream is let rest account=%s reason=%s seconds=%d",
            mirror.account,
            error.code,
            pause // SECOND,
        )
        this.wait(error.code, until=until)
        return False

    async def _blame(self, mirror: AccountMirror, job: Job, reason: str) -> None:
        """It is this conversation or this page that upstream chokes on, and nothing else."""
        if isinstance(job, FetchOne):
            if await mirror.backlog.note_failure(job.conversation_id, reason):
                log.warning("set a conversation aside account=%s reason=%s", mirror.account, reason)
        elif job.known.name in {PLAIN, ARCHIVED} and not job.listing.is_at_top:
            await mirror.listings.skip(job.known.name, listing=job.listing, items=LARGEST_PAGE)
            log.warning("left a page of a list out account=%s reason=%s", mirror.account, reason)
        else:
            until = self._clock.now() + self.config.archive_interval_seconds * SECOND
            await mirror.listings.mark_absent(job.known.name, until=until)

    async def _end(self, mirror: AccountMirror, desk: Desk, this: Pass) -> None:
        desk.current = None
        if not this.requests:
            return
        this.ended_at = self._clock.now()
        desk.last = this
        if not desk.tried and not this.is_misled:
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
            await mirror.listings.mark_absent(ARCHIVED, until=self._clock.now() + _ABSENCE_LASTS)
            return  # a server that does not know the parameter shows its plain list
        taken = await mirror.listings.take(page, of=name, listing=listing, since=since)
        if taken is not None and name == PLAIN and listing.is_at_top:
            this.wants_list = False
            await self._doubt_the_top(mirror, desk, page)

    async def _doubt_the_top(self, mirror: AccountMirror, desk: Desk, page: ListPage) -> None:
        """A list that tells no times cannot show that what stands at its top has changed again: it is fetched now and
        then.
        """
        for item in page.items[:1]:
            before = self._clock.now() - self.config.archive_interval_seconds * SECOND
            if item.update_time is None and await mirror.backlog.was_fetched(item.id, before=before):
                desk.again.append(item.id)

    async def _miss(self, mirror: AccountMirror, name: str, error: UpstreamError) -> None:
        """Upstream has no such list. A project that is gone is named again by the list of projects, or never."""
        if name not in {ARCHIVED, PROJECTS} and isinstance(error, UpstreamNotFound):
            await mirror.listings.forget(name)
        else:
            await mirror.listings.mark_absent(name, until=self._clock.now() + _ABSENCE_LASTS)

    async def _disbelieve(self, mirror: AccountMirror, desk: Desk, *, sweep: int) -> None:
        """Too much of what the lists left out is there: they were cut short, and prove nothing of the rest."""
        log.warning("upstream's list was cut short account=%s missed=%d", mirror.account, desk.alive)
        await mirror.sync.remember(
            UpstreamBroken("upstream's list left out conversations that are there", code="list_incomplete")
        )
        await mirror.sync.abandon_sweep(sweep, not_before=self._clock.now() + DAY)

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
                if desk.current is None and not self.config.enabled:
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
