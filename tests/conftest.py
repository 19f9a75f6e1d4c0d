# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of every suite: a clock by hand, a simulated ChatGPT over real HTTP, and the whole server in front of it."""

from __future__ import annotations

import asyncio.constants
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from chatgpt_rest.clock import SECOND
from chatgpt_rest.upstream.simulated import SimulatedChatGPT, SimulatedOpenAI
from tests.house import Client, House, ManualClock, open_house

# With -X dev asyncio notes of each future and callback where it was made, in ten frames: a third of the time that tests
# took. The innermost one tells enough.
asyncio.constants.DEBUG_STACK_DEPTH = 1  # type: ignore[misc]  # Final only to typeshed

# A machine that is busy with something else is no finding.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("soak", settings.get_profile("any machine"), max_examples=1_500)
settings.load_profile("any machine")


@pytest.fixture
def clock() -> ManualClock:
    """A clock by hand, standing at a noon in November 2026."""
    return ManualClock()


@pytest.fixture
def chatgpt(clock: ManualClock) -> SimulatedChatGPT:
    """A ChatGPT whose two accounts are empty; its time is the test's clock."""
    return SimulatedChatGPT(now=lambda: clock.now() / SECOND, conversations=False)


@pytest.fixture
async def base_url(chatgpt: SimulatedChatGPT) -> AsyncIterator[str]:
    """Where the simulated ChatGPT listens."""
    async with chatgpt.serving() as url:
        yield url


@pytest.fixture
async def house(tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock) -> AsyncIterator[House]:
    """The server with its defaults, an empty mirror and an empty ChatGPT."""
    async with open_house(tmp_path, chatgpt, base_url, clock) as opened:
        yield opened


@pytest.fixture
def client(house: House) -> Client:
    """Alice, with an access token that is new here and that ChatGPT accepts."""
    return house.client


@pytest.fixture
def api() -> SimulatedOpenAI:
    """An OpenAI API with two models."""
    return SimulatedOpenAI()


@pytest.fixture
async def api_url(api: SimulatedOpenAI) -> AsyncIterator[str]:
    """Where it listens."""
    async with api.serving() as url:
        yield url
