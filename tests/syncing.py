# SPDX-License-Identifier: GPL-2.0-or-later
"""Sync as tests drive it: pass by pass, at the clock's pace, counted at the far end."""

from __future__ import annotations

from typing import Any

from chatgpt_rest.context import SYNC
from chatgpt_rest.model import Secret
from chatgpt_rest.plan import Pass
from chatgpt_rest.upstream.simulated import Account, SimConversation, SimulatedChatGPT
from tests.house import House
from tests.rows import rows


async def join(house: House, account: Account | None = None) -> None:
    """Give the server a token of this account (Alice's); its check is the first page of the list."""
    token = str(house.client.authorization) if account is None else account.token()
    await house.auth.adopt(Secret(token))


async def sync(house: House, account: Account | None = None) -> Pass:
    """Go on with the account's pass, or begin one, as far as that goes now."""
    return await house.app[SYNC].advance((account or house.chatgpt.alice).user_id)


async def sync_later(house: House, *, seconds: float = 1_000, account: Account | None = None) -> Pass:
    """The same after a while, by default when the list is due again."""
    house.clock.move(seconds=seconds)
    return await sync(house, account)


async def live(house: House, *, hours: float, account: Account | None = None) -> None:
    """Let time pass as it does for a server that runs: it looks what there is to do every minute."""
    for _ in range(round(hours * 60)):
        await sync_later(house, seconds=60, account=account)


class FarEnd:
    """What upstream was asked since this was made."""

    def __init__(self, chatgpt: SimulatedChatGPT) -> None:
        self._chatgpt = chatgpt
        self._begin = len(chatgpt.requests)

    @property
    def asked(self) -> list[str]:
        """Paths below the API, in order; lists with the query that tells them apart."""
        return [
            each.endpoint + ("?is_archived" if "is_archived=true" in each.path else "")
            for each in self._chatgpt.requests[self._begin :]
        ]

    @property
    def fetched(self) -> list[str]:
        """The conversations that were asked for, in order."""
        return [path.removeprefix("conversation/") for path in self.asked if path.startswith("conversation/")]


def content(house: House) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Everything that people could read in the mirror: no failure of upstream's may change any of it."""
    return (
        rows(
            house,
            """
            select account, id, title, create_time, update_time, current_node, is_archived, is_starred, project,
                   envelope, has_content, is_deleted_upstream, deleted_at
            from conversation order by account, id
            """,
        ),
        rows(house, "select * from node order by account, conversation, id"),
    )


def page(*items: SimConversation, **members: Any) -> dict[str, Any]:
    """What upstream could answer for its list."""
    return {"items": [each.list_item("Z") for each in items], "total": len(items), "limit": 100, "offset": 0, **members}


async def shown(house: House, conversation_id: str) -> Any:
    """The conversation as a reader sees it, without a request upstream."""
    before = len(house.chatgpt.requests)
    answer = await house.client.get(f"/conversations/{conversation_id}")
    assert (answer.status, len(house.chatgpt.requests)) == (200, before)
    return answer.json
