# SPDX-License-Identifier: GPL-2.0-or-later
"""Upstream to mirror: what a reader asks for and the mirror does not hold yet is fetched once, and never again."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Final

from chatgpt_rest.clock import MINUTE, Clock
from chatgpt_rest.errors import NotFound, Unauthorized, Unavailable, UpstreamNotFound, UpstreamRefusedToken
from chatgpt_rest.mirror import AccountMirror, Standing
from chatgpt_rest.upstream.protocol import LARGEST_PAGE, FindCaller, Upstream

_ABSENCE_LASTS: Final = 10 * MINUTE
_ABSENCES: Final = 10_000  # held in memory, the oldest forgotten first


class Sync:
    """Fetches what is missing. Any number of readers of one thing wait for one request."""

    def __init__(self, upstream: Upstream, clock: Clock) -> None:
        self._upstream = upstream
        self._clock = clock
        self._flights: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._absent: OrderedDict[tuple[str, str], int] = OrderedDict()

    async def aclose(self) -> None:
        """End the fetches under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def fetch_first_page(self, mirror: AccountMirror, find_caller: FindCaller) -> None:
        """Bring the newest conversations of an account whose list was never read. Raises UpstreamError, Unavailable."""
        await self._once((mirror.account, ""), lambda: self._fetch_first_page(mirror, find_caller))

    async def fetch(
        self, mirror: AccountMirror, conversation_id: str, find_caller: FindCaller, *, unless_here: bool = False
    ) -> None:
        """Bring one conversation as upstream shows it now; `unless_here` spares that where another reader just did.

        Raises NotFound where upstream has none; that is remembered for ten minutes. Raises UpstreamError, Unavailable
        and BudgetSpent where nobody could say.
        """
        key = (mirror.account, conversation_id)
        if self._absent.get(key, 0) > self._clock.now():
            raise NotFound("conversation")
        await self._once(key, lambda: self._fetch(mirror, conversation_id, find_caller, unless_here=unless_here))

    async def _fetch_first_page(self, mirror: AccountMirror, find_caller: FindCaller) -> None:
        caller = await find_caller()
        if await mirror.conversations.was_listed():
            return  # a token had to be proved first, and the same request does that
        since = mirror.conversations.deletions
        page = await self._upstream.list_page(caller, offset=0, limit=LARGEST_PAGE)
        await mirror.conversations.save_page(page, offset=0, since=since)

    async def _fetch(
        self, mirror: AccountMirror, conversation_id: str, find_caller: FindCaller, *, unless_here: bool
    ) -> None:
        is_missing = await mirror.conversations.standing(conversation_id) in {Standing.UNKNOWN, Standing.LISTED}
        if unless_here and not is_missing:
            return
        caller = await find_caller()
        since = mirror.conversations.deletions
        try:
            conversation = await self._upstream.conversation(caller, conversation_id)
        except UpstreamNotFound as error:
            self._absent[mirror.account, conversation_id] = self._clock.now() + _ABSENCE_LASTS
            if len(self._absent) > _ABSENCES:
                self._absent.popitem(last=False)
            raise NotFound("conversation", body=error.body) from None
        await mirror.conversations.save_whole(conversation, since=since)

    async def _once(self, key: tuple[str, str], start: Callable[[], Coroutine[object, object, None]]) -> None:
        flight = self._flights.get(key)
        is_mine = flight is None
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(start())
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        try:
            # Shielded: the others who wait for it do not lose it because one of them hung up.
            await asyncio.shield(flight)
        except (UpstreamRefusedToken, Unauthorized, Unavailable):
            if is_mine:
                raise
            await self._once(key, start)  # it was the token of another reader that would not do
