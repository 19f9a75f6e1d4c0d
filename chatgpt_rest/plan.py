# SPDX-License-Identifier: GPL-2.0-or-later
"""What a pass does next for an account: one request after the other, worked out anew from rows before each of them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from chatgpt_rest.clock import DAY, SECOND, Clock
from chatgpt_rest.config import SyncConfig
from chatgpt_rest.listing import ARCHIVED, PLAIN, PROJECTS, Listing
from chatgpt_rest.mirror import AccountMirror, KnownList, SyncState

_READERS_REMEMBERED: Final = 64

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

    def wait(self, code: str, *, until: int | None) -> bool:
        """Note what it waits for. Answers False, as a step does that could not be made."""
        self.waits_for, self.waits_until = code, until
        return False


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
    suspects: list[tuple[Job, str]] = field(default_factory=list)
    """What failed of late, and why: what comes next tells whether these are to blame, or upstream."""
    alive: int = 0
    gone: int = 0
    """How many of those that the full sweep under way has not met were there all the same, and how many were not."""
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
        what a full sweep has not met.
        """
        now = self._clock.now()
        if desk.tried_since + self._config.interval_seconds * SECOND <= now:
            desk.tried.clear()
            desk.tried_since = now
        stale = partial(mirror.backlog.stale, limit=1, besides=desk.tried)
        if desk.readers:
            for conversation_id in await stale(among=desk.readers):
                return FetchOne(conversation_id)
        lists = await mirror.listings.all()
        state = await self._sweep_if_due(mirror, state, lists[0])
        # Of the lists beside the plain one, one at a time is in doubt: a conversation tells sooner who is to blame.
        is_in_doubt = any(isinstance(job, ReadPage) for job, _ in desk.suspects)
        for known in lists:
            is_next = known.name not in desk.tried and (known.name == PLAIN or not is_in_doubt)
            if is_next and self.is_due(known, lists, state, is_wanted=this.wants_list):
                return self._page_of(known, state)
        for conversation_id in [desk.again.pop()] if desk.again else await stale():
            return FetchOne(conversation_id)
        if state.sweep_began_at is not None and not self._is_to_be_swept(lists, state):
            for conversation_id in await self.unseen(mirror, state, lists, limit=1, besides=desk.tried):
                return FetchOne(conversation_id, sweep=state.sweep_began_at)
            if not desk.tried or not await self.unseen(mirror, state, lists, limit=1):
                await mirror.sync.end_sweep(state.sweep_began_at)
                log.info("finished a full sweep account=%s gone=%d", mirror.account, desk.gone)
                desk.alive = desk.gone = 0
        return None

    async def unseen(
        self,
        mirror: AccountMirror,
        state: SyncState,
        lists: list[KnownList],
        *,
        limit: int,
        besides: Collection[str] = (),
    ) -> list[str]:
        """What the full sweep under way has not met, though upstream has the list where it would stand. Before each of
        these is read to its end, nothing follows.
        """
        if state.sweep_began_at is None or self._is_to_be_swept(lists, state):
            return []
        absent = {each.name for each in lists if self._is_absent(each, lists)}
        return await mirror.backlog.unseen(
            since=state.sweep_began_at,
            limit=limit,
            besides=besides,
            is_archive_listed=ARCHIVED not in absent,
            are_projects_listed=PROJECTS not in absent,
        )

    def _is_to_be_swept(self, lists: list[KnownList], state: SyncState) -> bool:
        return any(_is_unswept(each, state) and not self._is_absent(each, lists) for each in lists)

    def is_due(self, known: KnownList, lists: list[KnownList], state: SyncState, *, is_wanted: bool = False) -> bool:
        """Whether this list is to be read now; `is_wanted` says that somebody asked for the plain one."""
        if self._is_absent(known, lists):
            return False
        if known.listing is not None or known.read_at is None or _is_unswept(known, state):
            return True
        if known.name == PLAIN:
            return is_wanted or known.read_at + self._config.interval_seconds * SECOND <= self._clock.now()
        return known.read_at + self._config.archive_interval_seconds * SECOND <= self._clock.now()

    def _is_absent(self, known: KnownList, lists: list[KnownList]) -> bool:
        """Whether upstream has no such list, or no projects at all where this is one."""
        names = {known.name} if known.name in {PLAIN, ARCHIVED} else {known.name, PROJECTS}
        return any((each.absent_until or 0) > self._clock.now() for each in lists if each.name in names)

    def _page_of(self, known: KnownList, state: SyncState) -> ReadPage:
        if known.listing is not None:
            return ReadPage(known, known.listing)
        return ReadPage(known, Listing(self._clock.now(), is_sweep=_is_unswept(known, state), ground=known.ground))

    async def _sweep_if_due(self, mirror: AccountMirror, state: SyncState, plain: KnownList) -> SyncState:
        now = self._clock.now()
        if state.sweep_began_at is not None:
            return state
        if state.swept_at is None:
            # The first reading goes to the end anyway; the check of a token may have begun it, or been all of it.
            began_at = plain.listing.begun_at if plain.listing is not None else plain.swept_at or now
        elif state.swept_at + self._config.sweep_interval_days * DAY <= now:
            began_at = now
        else:
            return state
        await mirror.sync.begin_sweep(began_at)
        return await mirror.sync.load()


def _is_unswept(known: KnownList, state: SyncState) -> bool:
    return state.sweep_began_at is not None and (known.swept_at or 0) < state.sweep_began_at
