# SPDX-License-Identifier: GPL-2.0-or-later
"""Tokens end: the owner hears of it a week ahead, the account pauses, and a new token wakes it, however it comes."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chatgpt_rest import app
from chatgpt_rest.app import running
from chatgpt_rest.clock import DAY, SECOND, iso
from chatgpt_rest.context import AUTH, MIRROR_OF_ALL, SYNC
from chatgpt_rest.control import control_over
from chatgpt_rest.model import Secret
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import NOON, House, ManualClock, make_config
from tests.syncing import FarEnd, join, sync

DAY_SECONDS = DAY / SECOND
PATIENCE_SECONDS = 10


@pytest.fixture
async def paused(house: House, chatgpt: SimulatedChatGPT) -> House:
    """A house whose only token has expired, with three conversations that changed since it was synced."""
    token = chatgpt.alice.token(expires_in_seconds=DAY_SECONDS)
    chatgpt.alice.many(3)
    await house.auth.adopt(Secret(token))
    await sync(house)
    for there in chatgpt.alice.conversations:
        there.add_turn("More?")
    house.clock.move(seconds=DAY_SECONDS)
    return house


@asynccontextmanager
async def going_upstream(house: House) -> AsyncIterator[None]:
    """What the server does of its own accord, for as long as this is open."""
    rounds = asyncio.create_task(app._go_upstream(house.config, house.app))
    try:
        yield
    finally:
        rounds.cancel()
        await asyncio.gather(rounds, return_exceptions=True)


async def until(house: House, is_so: Callable[[], bool]) -> None:
    """Wait while the server works."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not is_so():
            await house.client.as_(None).get("/healthz")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What sync has warned of."""
    return [each.message for each in caplog.records if each.name == "chatgpt_rest.sync" and each.levelno > logging.INFO]


# --------------------------------------------------------------------------------------------------------- the end


async def test_the_end_of_a_token_is_logged_once_a_week_ahead(
    house: House, chatgpt: SimulatedChatGPT, caplog: pytest.LogCaptureFixture
) -> None:
    """With its time, and without a word of the token."""
    token = chatgpt.alice.token(expires_in_seconds=8 * DAY_SECONDS)
    await house.auth.adopt(Secret(token))
    house.app[SYNC].tend()
    assert warnings(caplog) == []
    house.clock.move(seconds=DAY_SECONDS)
    for _ in range(3):
        house.app[SYNC].tend()
        house.clock.move(seconds=3_600)
    expected = f"the access token will expire account={chatgpt.alice.user_id} at={iso(NOON + 8 * DAY)}"
    assert warnings(caplog) == [expected]
    assert token not in caplog.text


async def test_a_newer_token_is_what_counts(
    house: House, chatgpt: SimulatedChatGPT, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is warned of the end of one that is not needed; of the newer one's end they are."""
    for days in (1, 9):
        await house.auth.adopt(Secret(chatgpt.alice.token(expires_in_seconds=days * DAY_SECONDS)))
    house.app[SYNC].tend()
    assert warnings(caplog) == []
    house.clock.move(seconds=3 * DAY_SECONDS)
    house.app[SYNC].tend()
    assert len(warnings(caplog)) == 1


async def test_an_expired_token_pauses_its_account(paused: House, chatgpt: SimulatedChatGPT) -> None:
    """Upstream hears nothing of it; the mirror is as ready as ever, and another account is synced."""
    await join(paused, chatgpt.bob)
    chatgpt.bob.many(1)
    far_end = FarEnd(chatgpt)
    this = await sync(paused)
    assert (this.waits_for, this.waits_until, far_end.asked) == ("no_access_token", None, [])
    assert (await paused.client.as_(None).get("/readyz")).status == 200
    assert (await sync(paused, chatgpt.bob)).waits_for is None


async def test_that_a_token_has_expired_is_logged_once(
    house: House, chatgpt: SimulatedChatGPT, caplog: pytest.LogCaptureFixture
) -> None:
    """And then nothing goes on for the account until there is a new one."""
    await house.auth.adopt(Secret(chatgpt.alice.token(expires_in_seconds=DAY_SECONDS)))
    desk = house.app[SYNC].desk(chatgpt.alice.user_id)
    house.app[SYNC].tend()
    await until(house, lambda: desk.last is not None)
    house.clock.move(seconds=DAY_SECONDS)
    desk.wake.set()
    assert desk.keeper is not None
    await asyncio.wait_for(desk.keeper, PATIENCE_SECONDS)
    for _ in range(3):
        house.app[SYNC].tend()
    will, has = warnings(caplog)
    assert "will expire" in will
    assert has == (
        f"the access token has expired, sync pauses until there is a new one account={chatgpt.alice.user_id}"
    )


# ------------------------------------------------------------------------------------------------------ a new one


async def test_a_token_that_comes_with_a_request_wakes_the_account(paused: House, chatgpt: SimulatedChatGPT) -> None:
    """Whoever reads with a new one gets what changed while there was none."""
    far_end = FarEnd(chatgpt)
    async with going_upstream(paused):
        await paused.client.as_(chatgpt.alice.token()).get("/conversations")
        await until(paused, lambda: len(far_end.fetched) == 3)


async def test_a_token_that_the_owner_gives_wakes_the_account(paused: House, chatgpt: SimulatedChatGPT) -> None:
    """As `server.py token` does."""
    far_end = FarEnd(chatgpt)
    async with going_upstream(paused):
        control = control_over(paused.app, paused.clock)
        await control.call("give_token", {"token": chatgpt.alice.token()})
        await until(paused, lambda: len(far_end.fetched) == 3)


async def test_a_new_token_in_the_credentials_file_wakes_the_account(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """The file is read again when it changes; no restart is needed."""
    chatgpt.alice.many(3)
    file = tmp_path / "access_token"
    config = dataclasses.replace(make_config(tmp_path, base_url), access_token_file=file)
    account = chatgpt.alice.user_id
    file.write_text(chatgpt.alice.token(expires_in_seconds=DAY_SECONDS), encoding="ascii")
    async with running(config, clock=clock) as application:
        assert await application[AUTH].adopt_configured() == account
        assert (await application[SYNC].advance(account)).fetched == 3
        clock.move(seconds=DAY_SECONDS)
        assert (await application[SYNC].advance(account)).waits_for == "no_access_token"
        chatgpt.alice.conversations[0].add_turn("More?")
        file.write_text(chatgpt.alice.token(), encoding="ascii")
        assert (await application[SYNC].advance(account)).fetched == 1
        assert (await application[MIRROR_OF_ALL].of(account).backlog.counts()).stale == 0


async def test_an_account_that_waits_for_a_token_does_not_wait_longer_than_that(
    house: House, chatgpt: SimulatedChatGPT
) -> None:
    """Refused in mid-pass, it goes on at once with a new one."""
    chatgpt.alice.many(3)
    far_end = FarEnd(chatgpt)
    fault = chatgpt.fault("conversation/*", hold=True, times=1)
    async with going_upstream(house):
        await house.client.get("/conversations")
        await fault.until_held()
        chatgpt.alice.revoke(str(house.client.authorization))
        fault.release()
        current = house.app[SYNC].desk(chatgpt.alice.user_id).current
        assert current is not None
        await until(house, lambda: current.waits_for == "no_access_token")
        await house.client.as_(chatgpt.alice.token()).get("/conversations")
        await until(house, lambda: len(set(far_end.fetched)) == 3 and len(far_end.fetched) == 4)


async def test_an_account_with_two_tokens_goes_on_with_the_other(house: House, chatgpt: SimulatedChatGPT) -> None:
    """That one of them is refused pauses nothing."""
    chatgpt.alice.many(3)
    await join(house)
    await house.auth.adopt(Secret(chatgpt.alice.token(expires_in_seconds=DAY_SECONDS)))
    chatgpt.alice.revoke(str(house.client.authorization))
    this = await sync(house)
    assert (this.fetched, this.waits_for) == (3, None)
