# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the library's conversations are put: with ids that are the same in every run, at ages counted back from now."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from chatgpt_rest.upstream.simulated.accounts import Account
from chatgpt_rest.upstream.simulated.conversations import SimConversation, random_id, stable_uuid
from chatgpt_rest.upstream.simulated.messages import DEFAULT_MODEL, Json, message

HOUR_SECONDS: Final = 3600.0
STEP_SECONDS: Final = 4.25


class Shelf:
    """Puts conversations into one account."""

    def __init__(self, account: Account, *, now: float) -> None:
        self.account = account
        self._now = now

    def put(
        self,
        title: str | None,
        turns: Iterable[tuple[str, str]] = (),
        *,
        hours_ago: float,
        name: str | None = None,
        model: str = DEFAULT_MODEL,
        project: str | None = None,
        gpt: str | None = None,
        archived: bool = False,
    ) -> SimConversation:
        """A conversation last updated so many hours ago. Its ids come from `name`, or from the title."""
        conversation_id = stable_uuid(self.account.user_id, name or title)
        # A fraction of a second, unlike from one to the next: lists cut it off, details show it.
        fraction = int(conversation_id[:4], 16) / 65536
        return self.account.add_conversation(
            title,
            turns,
            conversation_id=conversation_id,
            at=int(self._now - hours_ago * HOUR_SECONDS) - 1 + fraction,
            model=model,
            project=project,
            gpt=gpt,
            archived=archived,
            new_id=_ids(conversation_id),
        )

    def close(self) -> None:
        """From now on ids are random: what people add differs from run to run, and so must its ids."""
        for conversation in self.account.everything:
            conversation.new_id = random_id


def say(conversation: SimConversation, role: str, content: Json, **details: Any) -> str:
    """Add one message of any shape a few seconds after the last; returns its node's id."""
    at = conversation.update_time + STEP_SECONDS
    conversation.update_time = at
    return conversation.append(message(conversation.new_id(), role, content, at=at, **details))


def ask(conversation: SimConversation, prompt: str) -> str:
    """Add a prompt of plain text; returns its node's id."""
    return say(conversation, "user", {"content_type": "text", "parts": [prompt]})


def answer(conversation: SimConversation, text: str, **metadata: Any) -> str:
    """Add an answer of plain text with these entries in its metadata; returns its node's id."""
    return conversation.add_answer(text, at=conversation.update_time + STEP_SECONDS, metadata=metadata)


def _ids(conversation_id: str) -> Callable[[], str]:
    serial = itertools.count()
    return partial(_next_id, conversation_id, serial)


def _next_id(conversation_id: str, serial: itertools.count[int]) -> str:
    return stable_uuid(conversation_id, next(serial))
