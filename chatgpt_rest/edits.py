# SPDX-License-Identifier: GPL-2.0-or-later
"""What people change: titles, the archive, deletions. Upstream first, then the mirror, so that neither claims too
much; the mirror alone where upstream keeps no conversations.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from chatgpt_rest.clock import Clock, growing_pause
from chatgpt_rest.errors import BudgetSpent, Conflict, NotFound, UpstreamError, UpstreamNotFound, UpstreamRejected
from chatgpt_rest.mirror import AccountMirror, Standing
from chatgpt_rest.upstream.protocol import Caller, FindCaller, Upstream

_FAILURES_AT_ONCE: Final = 3  # one title that upstream chokes on does not hold up the others

log = logging.getLogger(__name__)


class Edits:
    """Carries an edit upstream and writes it down here."""

    def __init__(self, upstream: Upstream, clock: Clock) -> None:
        self._upstream = upstream
        self._clock = clock
        self._resting: dict[str, tuple[int, int]] = {}  # by account: failures in a row, and until when to wait
        self._failed: Counter[tuple[str, str]] = Counter()  # by account and conversation: pushes of a title

    async def edit(
        self,
        mirror: AccountMirror,
        conversation_id: str,
        *,
        title: str | None,
        is_archived: bool | None,
        find_caller: FindCaller,
    ) -> None:
        """Rename, archive or bring back a conversation: one request upstream, none where it lives only here. A title
        that upstream was not told is kept as one to be pushed.

        Raises NotFound, and UpstreamError or BudgetSpent with nothing changed anywhere.
        """
        standing = await mirror.conversations.standing(conversation_id)
        if standing is Standing.DELETED:
            raise NotFound("conversation")
        is_ours = self._is_ours(standing)
        if not is_ours:
            try:
                await self._upstream.edit(await find_caller(), conversation_id, title=title, is_archived=is_archived)
            except UpstreamNotFound as error:
                raise NotFound("conversation", body=error.body) from None
        await mirror.conversations.edit(conversation_id, title=title, is_archived=is_archived, is_pending=is_ours)

    async def delete(self, mirror: AccountMirror, conversation_id: str, *, find_caller: FindCaller) -> None:
        """Delete a conversation upstream, then here. That upstream has it no more counts as done.

        Raises NotFound where neither has it, and UpstreamError or BudgetSpent with nothing changed anywhere.
        """
        standing = await mirror.conversations.standing(conversation_id)
        if standing is Standing.DELETED:
            return
        is_ours = self._is_ours(standing)
        if is_ours and await mirror.asks.is_under_way(conversation_id):
            raise Conflict(
                "an answer is being written in this conversation; delete it afterwards", code="ask_under_way"
            )
        if not is_ours:
            try:
                await self._upstream.delete(await find_caller(), conversation_id)
            except UpstreamNotFound as error:
                if standing is Standing.UNKNOWN or not error.is_gone:
                    raise NotFound("conversation", body=error.body) from None
        await mirror.deletions.bury(conversation_id)

    async def delete_all(self, mirror: AccountMirror, *, find_caller: FindCaller) -> None:
        """Delete every conversation of the account: one request upstream, then here. Raises as `delete` does."""
        if self._upstream.keeps_conversations:
            await self._upstream.delete_all(await find_caller())
        await mirror.deletions.bury_all()

    def _is_ours(self, standing: Standing) -> bool:
        """Whether the mirror alone has a say in this conversation. Raises NotFound where nobody has it."""
        if not self._upstream.keeps_conversations and standing is Standing.UNKNOWN:
            raise NotFound("conversation")
        return standing is Standing.LOCAL or not self._upstream.keeps_conversations

    async def push_title(self, mirror: AccountMirror, caller: Caller, conversation_id: str, title: str) -> bool:
        """Bring a title set here to upstream. False where that must wait: it is kept, and pushed another time."""
        try:
            await self._upstream.edit(caller, conversation_id, title=title)
        except (UpstreamNotFound, UpstreamRejected):
            pass  # nobody is left to be told, or it is a title that upstream never takes
        except (UpstreamError, BudgetSpent) as error:
            log.info("kept a title to push it later account=%s reason=%s", mirror.account, error.code)
            return False
        await mirror.conversations.settle_title(conversation_id, title)
        return True

    async def push_titles(self, mirror: AccountMirror, caller: Caller) -> None:
        """Push what was kept, first what failed least often. After a few that do not get through, wait: longer each
        time, an hour at the most.
        """
        failures, until = self._resting.get(mirror.account, (0, 0))
        if until > self._clock.now():
            return
        failed = 0
        titles = await mirror.conversations.pending_titles()
        for conversation_id, title in sorted(titles, key=lambda each: self._failed[mirror.account, each[0]]):
            if await self.push_title(mirror, caller, conversation_id, title):
                self._failed.pop((mirror.account, conversation_id), None)
                continue
            self._failed[mirror.account, conversation_id] += 1
            failed += 1
            if failed == _FAILURES_AT_ONCE:
                break
        self._resting.pop(mirror.account, None)
        if failed:
            self._resting[mirror.account] = (failures + 1, self._clock.now() + growing_pause(failures))
