# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetching what is missing, against an upstream written by hand: who waits for whom, and what is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import pytest

from chatgpt_rest.clock import HOUR
from chatgpt_rest.errors import (
    BudgetSpent,
    NotFetched,
    NotFound,
    Unauthorized,
    Unavailable,
    UpstreamAway,
    UpstreamNotFound,
    UpstreamRefusedToken,
)
from chatgpt_rest.fetch import Fetches
from chatgpt_rest.mirror import AccountMirror, ListQuery, Mirror, open_mirror
from chatgpt_rest.model import Conversation, ListedConversation, ListPage, Model, ProjectPage, Question, Secret
from chatgpt_rest.upstream.protocol import Answer, Caller, Gate, Receipt
from tests.house import NOON, ManualClock

ALICE: Final = "user-alice"


class NoGate:
    """A gate that nobody passes: this upstream has no network behind it."""

    async def take(self, method: str, path: str) -> Receipt:
        raise AssertionError(method + path)

    async def refused(self, error: Exception, *, model: str | None = None) -> None:
        raise AssertionError(error)


class Shelf:
    """An upstream of one conversation, which answers when it is let."""

    keeps_conversations = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fault: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.began = asyncio.Event()

    async def list_page(self, caller: Caller, *, offset: int, limit: int, is_archived: bool = False) -> ListPage:
        await self._answer(f"list {offset} {limit}")
        return ListPage((ListedConversation("c1", "One", NOON, NOON),), is_last=True)

    async def conversation(self, caller: Caller, conversation_id: str) -> Conversation:
        await self._answer(conversation_id)
        return Conversation(conversation_id, "One", NOON, NOON, None, {})

    async def _answer(self, asked: str) -> None:
        self.asked.append(asked)
        self.began.set()
        await self.open.wait()
        if self.fault is not None:
            raise self.fault

    async def list_projects(self, caller: Caller, *, cursor: str | None = None) -> ProjectPage:
        raise NotImplementedError

    async def list_project(self, caller: Caller, project_id: str, *, cursor: str | None = None) -> ListPage:
        raise NotImplementedError

    def ask(self, caller: Caller, question: Question) -> AbstractAsyncContextManager[Answer]:
        raise NotImplementedError

    async def edit(
        self, caller: Caller, conversation_id: str, *, title: str | None = None, is_archived: bool | None = None
    ) -> None:
        raise NotImplementedError

    async def delete(self, caller: Caller, conversation_id: str) -> None:
        raise NotImplementedError

    async def delete_all(self, caller: Caller) -> None:
        raise NotImplementedError

    async def models(self, caller: Caller) -> tuple[Model, ...]:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


@pytest.fixture
def shelf() -> Shelf:
    """An upstream that answers at once."""
    return Shelf()


@pytest.fixture
async def fetches(shelf: Shelf, clock: ManualClock) -> AsyncIterator[Fetches]:
    """What is tested."""
    opened = Fetches(shelf, clock)
    yield opened
    await opened.aclose()


@pytest.fixture
async def all_accounts(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Mirror]:
    """A mirror in which Alice has an account."""
    async with open_mirror(
        tmp_path / "mirror.sqlite",
        clock=clock,
        requests_per_hour=50,
        checks_per_hour=10,
        longest_attempt_seconds=120,
        cache_bytes=2**20,
    ) as opened:
        await opened.accounts.accept(ALICE, b"token", email=None, expires_at=NOON + HOUR)
        yield opened


@pytest.fixture
def mirror(all_accounts: Mirror) -> AccountMirror:
    """Alice's mirror."""
    return all_accounts.of(ALICE)


async def caller() -> Caller:
    """Alice, on her way upstream."""
    gate: Gate = NoGate()
    return Caller(ALICE, Secret("token"), gate)


async def test_a_fetch_brings_the_conversation(fetches: Fetches, shelf: Shelf, mirror: AccountMirror) -> None:
    """What was fetched is in the mirror."""
    await fetches.fetch(mirror, "c1", caller)
    assert (await mirror.conversations.get("c1")).title == "One"
    assert shelf.asked == ["c1"]


async def test_the_first_page_is_one_of_a_hundred(fetches: Fetches, shelf: Shelf, mirror: AccountMirror) -> None:
    """The first page is upstream's largest, and makes the list readable."""
    with pytest.raises(NotFetched):
        await mirror.conversations.list_json(ListQuery())
    await fetches.fetch_first_page(mirror, caller)
    assert (await mirror.conversations.list_json(ListQuery())).total == 1
    assert shelf.asked == ["list 0 100"]


async def test_a_first_page_that_came_meanwhile_is_not_fetched(
    fetches: Fetches, shelf: Shelf, mirror: AccountMirror
) -> None:
    """Where finding a token brought the page, it is not fetched again."""

    async def proving() -> Caller:
        await mirror.listings.take(ListPage((), is_last=True), since=0)
        return await caller()

    await fetches.fetch_first_page(mirror, proving)
    assert shelf.asked == []


@pytest.mark.parametrize("what", ["page", "conversation"])
async def test_all_who_wait_share_one_request(fetches: Fetches, shelf: Shelf, mirror: AccountMirror, what: str) -> None:
    """Any number of readers of one thing at once cost one request; a later fetch is another one."""
    for requests in (1, 2):
        readers = [
            fetches.fetch_first_page(mirror, caller) if what == "page" else fetches.fetch(mirror, "c1", caller)
            for _ in range(10)
        ]
        await asyncio.gather(*readers)
        assert len(shelf.asked) == (1 if what == "page" else requests)


async def test_who_comes_a_moment_late_finds_it_here(fetches: Fetches, shelf: Shelf, mirror: AccountMirror) -> None:
    """A reader who missed the fetch of another by a moment does not fetch again; one who wants it anew does."""
    await fetches.fetch(mirror, "c1", caller, unless_here=True)
    await fetches.fetch(mirror, "c1", caller, unless_here=True)
    assert shelf.asked == ["c1"]
    await fetches.fetch(mirror, "c1", caller)
    assert shelf.asked == ["c1", "c1"]


async def test_who_leaves_takes_nothing_along(fetches: Fetches, shelf: Shelf, mirror: AccountMirror) -> None:
    """A reader that is cancelled does not cancel the fetch that others wait for."""
    shelf.open.clear()
    first = asyncio.create_task(fetches.fetch(mirror, "c1", caller))
    await shelf.began.wait()
    second = asyncio.create_task(fetches.fetch(mirror, "c1", caller))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    shelf.open.set()
    await second
    assert (shelf.asked, (await mirror.conversations.get("c1")).title) == (["c1"], "One")


async def test_absence_lasts_ten_minutes(
    fetches: Fetches, shelf: Shelf, mirror: AccountMirror, clock: ManualClock
) -> None:
    """That upstream has no such conversation is asked again after ten minutes, and then may be otherwise."""
    shelf.fault = UpstreamNotFound("gone")
    for seconds in (0, 599):
        clock.move(seconds=seconds)
        with pytest.raises(NotFound):
            await fetches.fetch(mirror, "c1", caller)
    assert shelf.asked == ["c1"]
    shelf.fault = None
    clock.move(seconds=1)
    await fetches.fetch(mirror, "c1", caller)
    assert shelf.asked == ["c1", "c1"]


async def test_absence_is_one_account_s(
    fetches: Fetches, shelf: Shelf, all_accounts: Mirror, mirror: AccountMirror
) -> None:
    """What one account does not have another one may."""
    shelf.fault = UpstreamNotFound("gone")
    with pytest.raises(NotFound):
        await fetches.fetch(mirror, "c1", caller)
    shelf.fault = None
    await fetches.fetch(all_accounts.of("user-bob"), "c1", caller)
    assert shelf.asked == ["c1", "c1"]


async def test_a_failure_is_not_remembered(fetches: Fetches, shelf: Shelf, mirror: AccountMirror) -> None:
    """Where upstream could not say, all who wait hear why, and the next reader asks again."""
    shelf.fault = UpstreamAway("away")
    heard = await asyncio.gather(*(fetches.fetch(mirror, "c1", caller) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in heard] == [UpstreamAway] * 3
    shelf.fault = None
    await fetches.fetch(mirror, "c1", caller)
    assert shelf.asked == ["c1", "c1"]


@pytest.mark.parametrize(
    "fault",
    [Unavailable("no token"), UpstreamRefusedToken("expired"), Unauthorized("refused of late")],
    ids=["no token", "refused", "refused of late"],
)
async def test_a_token_that_will_not_do_is_its_reader_s_alone(
    fetches: Fetches, shelf: Shelf, mirror: AccountMirror, fault: Exception
) -> None:
    """Who waited for a fetch that failed for its reader's token tries with its own."""

    async def without() -> Caller:
        await shelf.open.wait()
        raise fault

    shelf.open.clear()
    readers = [asyncio.create_task(fetches.fetch(mirror, "c1", find)) for find in (without, caller, caller)]
    await asyncio.wait(readers, timeout=0)
    shelf.open.set()
    heard = await asyncio.gather(*readers, return_exceptions=True)
    assert heard == [fault, None, None]
    assert shelf.asked == ["c1"]


async def test_so_many_absences_are_remembered(fetches: Fetches, shelf: Shelf, mirror: AccountMirror) -> None:
    """Who asks for a thousand things that do not exist does not fill the memory: the oldest is forgotten."""
    shelf.fault = UpstreamNotFound("gone")
    for number in [*range(1_001), 1_000, 1, 0]:
        with pytest.raises(NotFound):
            await fetches.fetch(mirror, f"c{number}", caller)
    assert shelf.asked[1_001:] == ["c0"]


async def test_closing_ends_what_is_under_way(fetches: Fetches, shelf: Shelf, mirror: AccountMirror) -> None:
    """At the end fetches are cancelled, and nothing of them is stored."""
    shelf.open.clear()
    reader = asyncio.create_task(fetches.fetch(mirror, "c1", caller))
    await shelf.began.wait()
    await fetches.aclose()
    await asyncio.gather(reader, return_exceptions=True)
    assert reader.cancelled()
    with pytest.raises(NotFound):
        await mirror.conversations.get("c1")


async def test_what_upstream_has_deleted_is_marked_whoever_asks(
    fetches: Fetches, shelf: Shelf, mirror: AccountMirror
) -> None:
    """That a conversation is gone, and not merely hidden, is written down; its content stays readable."""
    await fetches.fetch(mirror, "c1", caller)
    shelf.fault = UpstreamNotFound("hidden", is_gone=False)
    with pytest.raises(NotFound):
        await fetches.fetch(mirror, "c1", caller)
    assert not (await mirror.conversations.get("c1")).is_deleted_upstream
    shelf.fault = UpstreamNotFound("gone")
    with pytest.raises(UpstreamNotFound):
        await fetches.bring(mirror, "c1", caller)
    assert (await mirror.conversations.get("c1")).is_deleted_upstream


async def test_sync_asks_although_readers_were_told_that_there_is_none(
    fetches: Fetches, shelf: Shelf, mirror: AccountMirror
) -> None:
    """What readers are spared for ten minutes, sync asks when it has a reason to."""
    shelf.fault = UpstreamNotFound("gone")
    with pytest.raises(NotFound):
        await fetches.fetch(mirror, "c1", caller)
    shelf.fault = None
    await fetches.bring(mirror, "c1", caller)
    assert shelf.asked == ["c1", "c1"]


async def test_a_reader_does_not_wait_in_vain_for_sync_that_leaves_the_last_tokens_to_people(
    fetches: Fetches, shelf: Shelf, mirror: AccountMirror
) -> None:
    """Who joined a flight of sync that got no token goes with their own, which may be one of the reserve."""

    async def sparing() -> Caller:
        await shelf.open.wait()
        raise BudgetSpent(retry_after_seconds=60)

    shelf.open.clear()
    sync = asyncio.create_task(fetches.bring(mirror, "c1", sparing))
    reader = asyncio.create_task(fetches.fetch(mirror, "c1", caller))
    await asyncio.wait((sync, reader), timeout=0)
    shelf.open.set()
    refused, heard = await asyncio.gather(sync, reader, return_exceptions=True)
    assert (type(refused), heard, shelf.asked) == (BudgetSpent, None, ["c1"])
