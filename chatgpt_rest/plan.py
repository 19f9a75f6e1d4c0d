# SPDX-License-Identifier: GPL-2.0-or-later
"""What a pass does next for an account: one request after the other, worked out anew from rows before each of them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from chatgpt_rest.clock import DAY, SECOND, Clock
from chatgpt_rest.config import SyncConfig
from chatgpt_rest.listing import ARCHIVED, PLAIN, PROJECTS, Listing
from chatgpt_rest.mirror import AccountMirror, KnownList, SyncState

_READERS_REMEMBERED: Final = 64
_FETCHES_BETWEEN_LISTS: Final = 3
_LISTS: Final = 12  # beyond so many, each is read less often

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadPage:
    """The next page of a list; `listing` is the reading that it belongs to, perhaps its first."""

    known: KnownList
    listing: Listing


@dataclass(frozen=True, slots=True)
class FetchOne:
    """One conversation."""

    conversation_id: str
    sweep: int | None = None
    """The full sweep, by when it began, that has not met it: this tells whether it is gone."""
    is_probe: bool = False
    """Others have failed: this tells whether it was their own fault."""
    can_wait: bool = False
    """It is current, but came from a slim export: nothing waits for it, and it waits for no budget."""


Job = ReadPage | FetchOne
"""One request upstream."""


@dataclass
class Pass:
    """One pass over an account: its lists down to known ground, then what is stale. Times in µs."""

    began_at: int
    wants_list: bool = False
    """Somebody asked for it: the list is read again, however short a while ago it was."""
    requests: int = 0
    fetched: int = 0
    gone: int = 0
    failed: int = 0
    waits_for: str | None = None
    """The code of what it waits for, `rate_limit_exceeded` for example."""
    waits_until: int | None = None
    ended_at: int | None = None
    is_misled: bool = False
    """Lists were cut short: what went wrong is not over with this pass."""

    def wait(self, code: str, *, until: int | None) -> None:
        """Note what it waits for."""
        self.waits_for, self.waits_until = code, until


@dataclass
class Desk:
    """What is known of one account's sync beyond its rows, and lost without harm."""

    current: Pass | None = None
    last: Pass | None = None
    keeper: asyncio.Task[None] | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    readers: deque[str] = field(default_factory=lambda: deque(maxlen=_READERS_REMEMBERED))
    """What was read of late, the newest last: if it is stale, it comes first."""
    tried: set[str] = field(default_factory=set)
    """Conversations and lists that failed since `tried_since`: they get their next chance after another interval."""
    tried_since: int = 0
    again: list[str] = field(default_factory=list)
    """What is fetched although nothing says that it changed: the list tells no times, and these stand at its top."""
    suspects: dict[str, tuple[Job, str]] = field(default_factory=dict)
    """What failed of late, and why: what comes next tells whether these are to blame, or upstream."""
    rests_for_conversations: bool = False
    """Upstream is let rest because conversations failed: that it goes on listing them says nothing."""
    owed: int = 0
    """So many fetches come before another list is begun: lists that are read too often leave nothing for what they
    name.
    """
    granted_at: int = 0
    """When somebody who asked was last granted a try before its time."""
    alive: int = 0
    """How many of those that the full sweep under way has not met were there all the same."""
    gone: int = 0
    """How many of them were not."""
    unwritable_until: int = 0
    """Nothing could be written down: what is asked for before would be paid for and lost."""
    told_expiry: int | None = None
    """The end of the token that its owner has been told of."""


class Plan:
    """The order of things, by `[sync]`."""

    def __init__(self, clock: Clock, config: SyncConfig) -> None:
        self._clock = clock
        self._config = config

    async def next(self, mirror: AccountMirror, desk: Desk, this: Pass, state: SyncState) -> Job | None:
        """What comes first: what a reader has asked for, then the lists, then what is stale, the newest first, then
        what a full sweep has not met, and last what is slim.
        """
        now = self._clock.now()
        if desk.tried_since + self._config.interval_seconds * SECOND <= now:
            desk.tried.clear()
            desk.tried_since = now
        for conversation_id in await mirror.backlog.stale_among(desk.readers, besides=desk.tried):
            return FetchOne(conversation_id)
        lists = await mirror.listings.all()
        state = await self._sweep_if_due(mirror, desk, state, lists[0])
        stale = await mirror.backlog.stale(limit=1, besides=desk.tried | desk.suspects.keys())
        if (page := self._page(lists, desk, this, state, has_stale=bool(stale))) is not None:
            return page
        desk.owed = max(0, desk.owed - 1)
        has_suspect = any(isinstance(job, FetchOne) for job, _ in desk.suspects.values())
        if desk.rests_for_conversations or (has_suspect and not stale):
            for conversation_id in await mirror.backlog.probe(besides=desk.tried | desk.suspects.keys()):
                return FetchOne(conversation_id, is_probe=True)
            stale = await mirror.backlog.stale(limit=1, besides=desk.tried)
        for conversation_id in [desk.again.pop()] if desk.again else stale:
            return FetchOne(conversation_id)
        return await self._unseen_or_end(mirror, desk, state, lists) or await self._slim(mirror, desk, state)

    async def count_unseen(self, mirror: AccountMirror, state: SyncState, lists: list[KnownList]) -> int:
        """How many the full sweep under way has not met that are not stale anyway."""
        if state.sweep_began_at is None or self._is_to_be_swept(lists, state):
            return 0
        return await mirror.backlog.count_unseen(since=state.sweep_began_at, absent=self._absent(lists))

    async def was_to_be_met(self, mirror: AccountMirror, conversation_id: str) -> bool:
        """Whether a full sweep would have met this conversation: upstream has the list that names it."""
        lists = await mirror.listings.all()
        home = await mirror.backlog.list_of(conversation_id)
        return any(known.name == home and not self._is_absent(known, lists) for known in lists)

    def is_due(self, known: KnownList, lists: list[KnownList], state: SyncState, *, is_wanted: bool = False) -> bool:
        """Whether this list is to be read now; `is_wanted` says that somebody asked for the plain one."""
        now = self._clock.now()
        if self._is_absent(known, lists):
            return False
        if known.listing is not None or known.read_at is None:
            return True
        side_interval = self._config.archive_interval_seconds * SECOND
        if known.name == PLAIN and (is_wanted or known.read_at + self._config.interval_seconds * SECOND <= now):
            return True
        if _is_unswept(known, state):  # by one that was lost, it is read again after a while
            return known.read_at < (state.sweep_began_at or 0) or known.read_at + side_interval <= now
        # Dozens of projects are looked at less often each, so that all of them together cost no more.
        return known.name != PLAIN and known.read_at + side_interval * max(1, len(lists) // _LISTS) <= now

    def _page(
        self, lists: list[KnownList], desk: Desk, this: Pass, state: SyncState, *, has_stale: bool
    ) -> ReadPage | None:
        """The list's page that is read next, if one is now."""
        # Of the lists beside the plain one, one at a time is in doubt: a conversation tells sooner who is to blame.
        is_in_doubt = any(isinstance(job, ReadPage) for job, _ in desk.suspects.values())
        for known in lists:
            if known.name in desk.tried or (known.name != PLAIN and is_in_doubt):
                continue
            if not self.is_due(known, lists, state, is_wanted=this.wants_list):
                continue
            if known.listing is not None:
                return ReadPage(known, known.listing)
            if desk.owed and has_stale:
                continue
            desk.owed = _FETCHES_BETWEEN_LISTS
            is_sweep = _is_unswept(known, state)
            return ReadPage(known, Listing(self._clock.now(), is_sweep=is_sweep, ground=known.ground))
        return None

    async def _unseen_or_end(
        self, mirror: AccountMirror, desk: Desk, state: SyncState, lists: list[KnownList]
    ) -> FetchOne | None:
        """One that the full sweep under way has not met, though upstream has the list where it would stand. Where there
        is none, the sweep is over.
        """
        if state.sweep_began_at is None or self._is_to_be_swept(lists, state):
            return None
        unseen = partial(mirror.backlog.unseen, since=state.sweep_began_at, limit=1, absent=self._absent(lists))
        for conversation_id in await unseen(besides=desk.tried):
            return FetchOne(conversation_id, sweep=state.sweep_began_at)
        if not desk.tried or not await unseen():
            await mirror.sync.end_sweep(state.sweep_began_at)
            log.info("finished a full sweep account=%s gone=%d", mirror.account, desk.gone)
        return None

    async def _slim(self, mirror: AccountMirror, desk: Desk, state: SyncState) -> FetchOne | None:
        """One that came from a slim export and is current. Only between full sweeps, and none before the first: what a
        pass has left to do when it ends one is left to the next.
        """
        if state.swept_at is None or state.sweep_began_at is not None:
            return None
        for besides in (desk.tried | desk.suspects.keys(), desk.tried):
            for conversation_id in await mirror.backlog.slim(limit=1, besides=besides):
                return FetchOne(conversation_id, can_wait=True)
        return None

    async def _sweep_if_due(self, mirror: AccountMirror, desk: Desk, state: SyncState, plain: KnownList) -> SyncState:
        now = self._clock.now()
        if state.sweep_began_at is not None or (state.sweep_not_before or 0) > now:
            return state
        if state.swept_at is None:
            # The first reading goes to the end anyway; the check of a token may have begun it, or been all of it.
            began_at = plain.listing.begun_at if plain.listing is not None else plain.swept_at or now
        elif state.swept_at + self._config.sweep_interval_days * DAY <= now:
            began_at = now
        else:
            return state
        desk.alive = desk.gone = 0
        await mirror.backlog.try_again()
        await mirror.sync.begin_sweep(began_at)
        return await mirror.sync.load()

    def _is_to_be_swept(self, lists: list[KnownList], state: SyncState) -> bool:
        return any(_is_unswept(each, state) and not self._is_absent(each, lists) for each in lists)

    def _absent(self, lists: list[KnownList]) -> list[str]:
        return [each.name for each in lists if self._is_absent(each, lists)]

    def _is_absent(self, known: KnownList, lists: list[KnownList]) -> bool:
        """Whether upstream has no such list, or no projects at all where this is one."""
        names = {known.name} if known.name in {PLAIN, ARCHIVED} else {known.name, PROJECTS}
        return any((each.absent_until or 0) > self._clock.now() for each in lists if each.name in names)


def _is_unswept(known: KnownList, state: SyncState) -> bool:
    return state.sweep_began_at is not None and (known.swept_at or 0) < state.sweep_began_at
