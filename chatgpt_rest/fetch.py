# SPDX-License-Identifier: GPL-2.0-or-later
"""One thing at a time from upstream into the mirror. Who wants the same thing at the same time shares one request."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Final

from chatgpt_rest.clock import MINUTE, Clock
from chatgpt_rest.errors import (
    BudgetSpent,
    MirrorError,
    NotFound,
    Unauthorized,
    Unavailable,
    UpstreamNotFound,
    UpstreamRefusedToken,
)
from chatgpt_rest.mirror import AccountMirror, KnownModels, Standing
from chatgpt_rest.upstream.protocol import LARGEST_PAGE, FindCaller, Upstream

_ABSENCE_LASTS: Final = 10 * MINUTE
_MODELS: Final = "/models"  # stands where a conversation's id would, and is none
_ABSENCES: Final = 1_000  # held in memory, the oldest forgotten first; an account can meet 50 in an hour


class Fetches:
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

    async def fetch_models(
        self, mirror: AccountMirror, find_caller: FindCaller, *, instead_of: KnownModels | None
    ) -> None:
        """Bring the list of models that this account may ask, `instead_of` the one that the caller has seen: where
        another reader just did, that is spared. Raises UpstreamError, Unavailable and BudgetSpent.
        """
        await self._once(
            (mirror.account, _MODELS), lambda: self._fetch_models(mirror, find_caller, instead_of=instead_of)
        )

    async def fetch(
        self, mirror: AccountMirror, conversation_id: str, find_caller: FindCaller, *, unless_here: bool = False
    ) -> None:
        """Bring one conversation as upstream shows it now; `unless_here` spares that where another reader just did.

        Raises NotFound where upstream has none; that is remembered for ten minutes. Raises UpstreamError, Unavailable
        and BudgetSpent where nobody could say, or where this upstream has none to bring.
        """
        if not self._upstream.keeps_conversations:
            raise await _not_to_be_had(mirror, conversation_id)
        key = (mirror.account, conversation_id)
        if self._absent.get(key, 0) > self._clock.now():
            raise NotFound("conversation")
        try:
            await self._once(key, lambda: self._fetch(mirror, conversation_id, find_caller, unless_here=unless_here))
        except UpstreamNotFound as error:
            self._absent[key] = self._clock.now() + _ABSENCE_LASTS
            if len(self._absent) > _ABSENCES:
                self._absent.popitem(last=False)
            raise NotFound("conversation", body=error.body) from None

    async def bring(self, mirror: AccountMirror, conversation_id: str, find_caller: FindCaller) -> None:
        """The same for one who knows what to make of an UpstreamNotFound, and whom no absence keeps from asking."""
        key = (mirror.account, conversation_id)
        await self._once(key, lambda: self._fetch(mirror, conversation_id, find_caller, unless_here=False))

    async def _fetch_first_page(self, mirror: AccountMirror, find_caller: FindCaller) -> None:
        caller = await find_caller()
        if await mirror.conversations.was_listed():
            return  # a token had to be proved first, and the same request does that
        since = mirror.conversations.deletions
        page = await self._upstream.list_page(caller, offset=0, limit=LARGEST_PAGE)
        await mirror.listings.take(page, since=since)

    async def _fetch_models(
        self, mirror: AccountMirror, find_caller: FindCaller, *, instead_of: KnownModels | None
    ) -> None:
        if await mirror.models.known() != instead_of:
            return
        await mirror.models.keep(await self._upstream.models(await find_caller()))

    async def _fetch(
        self, mirror: AccountMirror, conversation_id: str, find_caller: FindCaller, *, unless_here: bool
    ) -> None:
        is_missing = await mirror.conversations.standing(conversation_id) in {Standing.UNKNOWN, Standing.LISTED}
        if unless_here and not is_missing:
            return
        caller = await find_caller()
        since = mirror.conversations.deletions
        listed_update_time = await mirror.conversations.listed_update_time(conversation_id)
        try:
            conversation = await self._upstream.conversation(caller, conversation_id)
        except UpstreamNotFound as error:
            if error.is_gone:
                await mirror.backlog.mark_gone(conversation_id, error.code)
            raise
        await mirror.conversations.save_whole(conversation, since=since, listed_update_time=listed_update_time)

    async def _once(self, key: tuple[str, str], start: Callable[[], Coroutine[object, object, None]]) -> None:
        flight = self._flights.get(key)
        is_mine = flight is None
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(start())
            flight.add_done_callback(lambda flight: self._end(key, flight))
        try:
            # Shielded: the others who wait for it do not lose it because one of them hung up.
            await asyncio.shield(flight)
        except (UpstreamRefusedToken, Unauthorized, Unavailable, BudgetSpent):
            if is_mine:
                raise
            # It was the token of another one that would not do, or it was sync, which leaves the last ones to people.
            await self._once(key, start)

    def _end(self, key: tuple[str, str], flight: asyncio.Task[None]) -> None:
        self._flights.pop(key, None)
        if not flight.cancelled():
            flight.exception()  # asked for here too: everybody who waited for it may have hung up


async def _not_to_be_had(mirror: AccountMirror, conversation_id: str) -> MirrorError:
    """What is missing of a conversation where upstream keeps none."""
    if await mirror.conversations.standing(conversation_id) is not Standing.LISTED:
        return NotFound("conversation")
    return Unavailable(
        "the content of this conversation is still at ChatGPT, and this server asks another upstream; import an export "
        'of ChatGPT, or return to [upstream] kind = "chatgpt"',
        code="conversation_not_fetched",
    )
