# SPDX-License-Identifier: GPL-2.0-or-later
"""Upstream without HTTP: an account of the simulated ChatGPT, asked directly. It answers in upstream's own JSON, fails
on purpose, and lets things happen while a request is under way.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar

from chatgpt_rest import chatgpt_json, chatgpt_lists
from chatgpt_rest.errors import Unavailable, UpstreamAway, UpstreamBroken, UpstreamError, UpstreamNotFound, UpstreamSlow
from chatgpt_rest.gate import AccountGate
from chatgpt_rest.mirror import Mirror
from chatgpt_rest.model import Conversation, ListPage, Model, ProjectPage, Question, Secret
from chatgpt_rest.upstream.protocol import Answer, Caller
from chatgpt_rest.upstream.refusals import refusal
from chatgpt_rest.upstream.simulated import Account
from chatgpt_rest.upstream.simulated.accounts import newest_first
from chatgpt_rest.upstream.simulated.conversations import SimConversation
from chatgpt_rest.upstream.simulated.refusals import (
    NAMED,
    Refusal,
    conversation_deleted,
    conversation_inaccessible,
    conversation_not_found,
)
from tests.house import ManualClock

T = TypeVar("T")
Json = dict[str, Any]

LIES: Final = ("empty", "truncated", "shuffled", "repeated")
"""What a list can be while its status says that all is well: `truncated` claims to be all there is."""
FAULTS: Final = (*LIES, "slim", "unreadable", "away", "slow", *NAMED)
"""What can go wrong with one request. `slim` is a conversation that shows less of its messages, this one time."""

_SECONDS_PER_REQUEST: Final = 0.2
_LEFT_OUT_OF_SLIM: Final = ("status", "weight", "recipient", "end_turn")
_NO_SUCH_PROJECT: Final = Refusal(404, {"detail": "Gizmo not found"})


async def _nothing(number: int, *, is_answered: bool) -> None:
    """What happens during most requests."""


class Direct:
    """One account's upstream. It shows `page` items of a list at once, however many it is asked for."""

    keeps_conversations = True

    def __init__(self, account: Account, clock: ManualClock, *, page: int = 100) -> None:
        self.account = account
        self.requests = 0
        self.faults: dict[int, str] = {}
        """What goes wrong with the request of this number, the first one being 1."""
        self.meanwhile: Callable[..., Awaitable[None]] = _nothing
        """Called twice a request, with its number: before upstream makes its answer, and once that is on its way."""
        self.failing: set[str] = set()
        """Conversations that cannot be fetched: always a 500."""
        self.hidden: set[str] = set()
        """Conversations that are there although upstream answers 404 for them, as if there were none."""
        self.inaccessible: set[str] = set()
        self.said_gone: set[str] = set()
        """Of what upstream has ever said that it is no more."""
        self._clock = clock
        self._page = page

    async def list_page(self, caller: Caller, *, offset: int, limit: int, is_archived: bool = False) -> ListPage:
        def respond(fault: str | None) -> ListPage:
            kept = [each for each in self.account.everything if each.is_visible and not each.is_in_project]
            items = newest_first(each for each in kept if each.is_archived == is_archived)
            length = min(limit, self._page)
            shown = _told(items[offset : offset + length], fault)
            total = offset + len(shown) + (fault != "truncated" and offset + len(shown) < len(items))
            page = {"items": shown, "total": total, "limit": length, "offset": offset}
            return chatgpt_lists.list_page(_sent(page, fault), offset=offset, limit=limit, is_archived=is_archived)

        return await self._answer(caller, "GET", "conversations", respond)

    async def list_projects(self, caller: Caller, *, cursor: str | None = None) -> ProjectPage:
        def respond(fault: str | None) -> ProjectPage:
            items = [{"gizmo": {"gizmo": {"id": key, "display": {"name": name}}}} for key, name in self._projects()]
            page = self._page_at(cursor or "", items, fault)
            return chatgpt_lists.project_page(_sent(page, fault), cursor=cursor or "")

        return await self._answer(caller, "GET", "gizmos/snorlax/sidebar", respond)

    async def list_project(self, caller: Caller, project_id: str, *, cursor: str | None = None) -> ListPage:
        def respond(fault: str | None) -> ListPage:
            if project_id not in self.account.projects:
                raise _error(_NO_SUCH_PROJECT)
            kept = [each for each in self.account.everything if each.is_visible and each.gizmo_id == project_id]
            page = self._page_at(cursor or "0", _told(newest_first(kept), None), fault)
            return chatgpt_lists.project_list(_sent(page, fault), project_id=project_id, cursor=cursor or "0")

        return await self._answer(caller, "GET", "gizmos/{id}/conversations", respond)

    async def conversation(self, caller: Caller, conversation_id: str) -> Conversation:
        def respond(fault: str | None) -> Conversation:
            found = self._find(conversation_id)
            detail = _sent(found.detail(), fault)
            if fault == "slim":
                for message in (node["message"] for node in detail["mapping"].values() if node["message"]):
                    for member in _LEFT_OUT_OF_SLIM:
                        message.pop(member, None)
                found.touch()  # it is going to be itself again, and says so
            return chatgpt_json.conversation(detail, conversation_id=conversation_id)

        try:
            return await self._answer(caller, "GET", "conversation/{id}", respond)
        except UpstreamNotFound as error:
            if error.is_gone:
                self.said_gone.add(conversation_id)
            raise

    async def models(self, caller: Caller) -> tuple[Model, ...]:
        raise NotImplementedError

    def ask(self, caller: Caller, question: Question) -> AbstractAsyncContextManager[Answer]:
        raise NotImplementedError

    async def edit(
        self, caller: Caller, conversation_id: str, *, title: str | None = None, is_archived: bool | None = None
    ) -> None:
        def respond(fault: str | None) -> None:
            found = self._find(conversation_id)
            if title is not None:
                found.rename(title)
            if is_archived is not None:
                found.archive(archived=is_archived)

        await self._answer(caller, "PATCH", "conversation/{id}", respond)

    async def delete(self, caller: Caller, conversation_id: str) -> None:
        await self._answer(caller, "PATCH", "conversation/{id}", lambda fault: self._find(conversation_id).delete())

    async def delete_all(self, caller: Caller) -> None:
        def respond(fault: str | None) -> None:
            for conversation in self.account.everything:
                conversation.delete()

        await self._answer(caller, "PATCH", "conversations", respond)

    async def aclose(self) -> None:
        """There is nothing to close."""

    # ------------------------------------------------------------------------------------------------------ helpers

    async def _answer(self, caller: Caller, method: str, path: str, respond: Callable[[str | None], T]) -> T:
        receipt = await caller.gate.take(method, path)
        self.requests += 1
        number = self.requests
        self._clock.move(seconds=_SECONDS_PER_REQUEST)
        await self.meanwhile(number, is_answered=False)
        try:
            answer = _attempted(respond, self.faults.pop(number, None))
        except UpstreamError as error:
            await receipt.arrived(error.code)
            await caller.gate.refused(error)
            raise
        await receipt.arrived(200)
        await self.meanwhile(number, is_answered=True)
        return answer

    def _find(self, conversation_id: str) -> SimConversation:
        found = self.account.find(conversation_id)
        if conversation_id in self.failing:
            raise _error(NAMED["server_error"])
        if conversation_id in self.inaccessible:
            raise _error(conversation_inaccessible(conversation_id))
        if found is None or conversation_id in self.hidden:
            raise _error(conversation_not_found(conversation_id))
        if not found.is_visible:
            raise _error(conversation_deleted(conversation_id))
        return found

    def _projects(self) -> list[tuple[str, str]]:
        return list(self.account.projects.items())

    def _page_at(self, cursor: str, items: list[Json], fault: str | None) -> Json:
        start = int(cursor or 0)
        end = start + self._page
        following = str(end) if end < len(items) and fault not in {"truncated", "empty"} else None
        return {"items": _distorted(items[start:end], fault), "cursor": following}


class HeldToken:
    """An access token of one account, there until upstream refuses it."""

    def __init__(self, mirror: Mirror, account: str) -> None:
        self.is_held = True
        self._mirror = mirror
        self._account = account

    def accounts(self) -> list[str]:
        return [self._account] if self.is_held else []

    def expires_at(self, account: str) -> int | None:
        return None

    async def caller_of(self, account: str, *, leave: int = 0) -> Caller:
        if not self.is_held:
            raise Unavailable("there is no access token", code="token_unavailable")
        gate = AccountGate(self._mirror.requests, account, forget_token=self._forget, leave=leave)
        return Caller(account, Secret("an access token"), gate)

    async def _forget(self, error: UpstreamError) -> None:
        self.is_held = False


def _attempted(respond: Callable[[str | None], T], fault: str | None) -> T:
    if fault is not None and fault in NAMED:
        raise _error(NAMED[fault])
    if fault == "away":
        raise UpstreamAway("upstream cannot be reached")
    if fault == "slow":
        raise UpstreamSlow("upstream did not answer in time")
    try:
        return respond(fault)
    except ValueError as error:
        raise UpstreamBroken(f"upstream's answer cannot be read: {error}") from error


def _error(said: Refusal) -> UpstreamError:
    return refusal(said.status, said.text.encode(), {key.lower(): value for key, value in said.headers.items()})


def _sent(value: Json, fault: str | None) -> Json:
    """What arrives of it: another object, that shares nothing with the simulation."""
    sent: Json = json.loads(json.dumps({"detail": "Something else"} if fault == "unreadable" else value))
    return sent


def _told(conversations: list[SimConversation], fault: str | None) -> list[Json]:
    return _distorted([each.list_item("mixed") for each in conversations], fault)


def _distorted(items: list[Json], fault: str | None) -> list[Json]:
    match fault:
        case "empty":
            return []
        case "truncated":
            return items[: len(items) // 2]
        case "shuffled":
            return items[::-1]
        case "repeated":
            return items + items[:2]
    return items
