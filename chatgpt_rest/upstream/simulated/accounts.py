# SPDX-License-Identifier: GPL-2.0-or-later
"""Accounts of the simulated ChatGPT and what belongs to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from . import refusals
from .conversations import SECONDS_PER_MESSAGE, SimConversation, stable_uuid
from .messages import DEFAULT_MODEL
from .tokens import Tokens

TEN_DAYS_SECONDS: Final = 864_000.0


class Account:
    """One person's account: conversations, projects, tokens."""

    def __init__(self, name: str, *, user_id: str, email: str, tokens: Tokens, now: Callable[[], float]) -> None:
        self.name = name
        self.user_id = user_id
        self.email = email
        self.everything: list[SimConversation] = []
        """Every conversation there ever was, oldest addition first: archived, in projects and deleted ones too."""
        self.projects: dict[str, str] = {}
        """The names of projects by their `g-p-…` ids."""
        self.generation: object | None = None
        """The answer that is being written, by any object that stands for it: ChatGPT writes one at a time."""
        self._tokens = tokens
        self._now = now

    def token(self, *, expires_in_seconds: float = TEN_DAYS_SECONDS) -> str:
        """A new access token of this account."""
        return self._tokens.issue(self.user_id, self.email, expires_in_seconds=expires_in_seconds)

    def revoke(self, token: str) -> None:
        """From now on this token is answered 401."""
        self._tokens.revoke(token)

    def finish(self, generation: object) -> None:
        """This answer is written; no effect if another one has begun since."""
        if self.generation is generation:
            self.generation = None

    @property
    def conversations(self) -> list[SimConversation]:
        """What the plain list shows, newest update first: nothing deleted, archived or inside a project."""
        return newest_first(conversation for conversation in self.everything if conversation.is_listed)

    def find(self, conversation_id: str) -> SimConversation | None:
        """The conversation with this id, deleted or not; None if there never was one."""
        return next((kept for kept in self.everything if kept.id == conversation_id), None)

    def add_project(self, name: str) -> str:
        """A new project; returns its id, to be given to `add_conversation`."""
        project_id = f"g-p-{stable_uuid(self.user_id, name).replace('-', '')}"
        self.projects[project_id] = name
        return project_id

    def add_conversation(
        self,
        title: str | None,
        turns: Iterable[tuple[str, str]] = (),
        *,
        conversation_id: str | None = None,
        at: float | None = None,
        model: str = DEFAULT_MODEL,
        project: str | None = None,
        gpt: str | None = None,
        archived: bool = False,
        new_id: Callable[[], str] | None = None,
    ) -> SimConversation:
        """Prompts and answers that ended at `at` (by default now). `project` and `gpt` are gizmo ids."""
        turns = list(turns)
        end = self._now() if at is None else at
        begin = end - SECONDS_PER_MESSAGE * 2 * len(turns)
        conversation = SimConversation(
            title, now=self._now, conversation_id=conversation_id, at=begin, model=model, new_id=new_id
        )
        conversation.gizmo_id = project or gpt
        conversation.gizmo_type = "snorlax" if project else "gpt" if gpt else None
        for turn, (prompt, answer) in enumerate(turns):
            conversation.add_turn(prompt, answer, at=begin + SECONDS_PER_MESSAGE * (2 * turn + 1))
        conversation.update_time = end
        conversation.is_archived = archived
        self.everything.append(conversation)
        return conversation

    def many(self, number: int) -> list[SimConversation]:
        """Add this many small conversations, a minute apart; the last one added is the newest."""
        end = self._now()
        return [
            self.add_conversation(
                f"Note {index + 1}", [(f"Remember note {index + 1}.", "Noted.")], at=end - 60 * (number - index)
            )
            for index in range(number)
        ]


class Accounts:
    """All accounts, in the order in which they were added."""

    def __init__(self, tokens: Tokens, now: Callable[[], float]) -> None:
        self.tokens = tokens
        self._now = now
        self._accounts: dict[str, Account] = {}

    def __iter__(self) -> Iterator[Account]:
        return iter(list(self._accounts.values()))

    def add(self, name: str, *, user_id: str | None = None, email: str | None = None) -> Account:
        """A new, empty account; raises ValueError if the user id is taken."""
        user_id = user_id or f"user-{stable_uuid(name, len(self._accounts)).replace('-', '')[:24]}"
        if user_id in self._accounts:
            raise ValueError(f"there is an account {user_id} already")
        email = email or f"{name.split(maxsplit=1)[0].lower()}@example.org"
        account = Account(name, user_id=user_id, email=email, tokens=self.tokens, now=self._now)
        self._accounts[user_id] = account
        return account

    def keep_only(self, accounts: Iterable[Account]) -> None:
        self._accounts = {account.user_id: account for account in accounts}

    def find(self, name: str) -> Account | None:
        """The account with this user id, email address or name."""
        return next((account for account in self if name in {account.user_id, account.email, account.name}), None)

    def by_authorization(self, authorization: str | None) -> Account:
        """Whose Authorization header this is; raises Refusal (401)."""
        account = self._accounts.get(self.tokens.verify(authorization))
        if account is None:
            raise refusals.bad_token()
        return account

    def has_conversation(self, conversation_id: str) -> bool:
        """Whether anyone at all has a conversation with this id."""
        return any(account.find(conversation_id) for account in self)


def newest_first(conversations: Iterable[SimConversation]) -> list[SimConversation]:
    """Newest update first; of those updated at once, the one added last."""
    return sorted(conversations, key=lambda conversation: conversation.update_time)[::-1]
