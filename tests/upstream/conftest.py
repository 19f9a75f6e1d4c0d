# SPDX-License-Identifier: GPL-2.0-or-later
"""The adapter in front of the simulated ChatGPT, counting at both ends."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from chatgpt_rest.model import Secret
from chatgpt_rest.upstream.openai_api import OpenAIUpstream
from chatgpt_rest.upstream.protocol import Caller
from chatgpt_rest.upstream.revchatgpt import RevChatGPT
from chatgpt_rest.upstream.simulated import SimulatedChatGPT, SimulatedOpenAI
from tests.house import ManualClock
from tests.upstream.far_end import RecordingGate


@pytest.fixture
def gate() -> RecordingGate:
    """Alice's gate."""
    return RecordingGate()


@pytest.fixture
async def upstream(chatgpt: SimulatedChatGPT, base_url: str, gate: RecordingGate) -> AsyncIterator[RevChatGPT]:
    """The adapter. Whatever a test does with it, the tokens taken are the requests received, each of which arrived."""
    adapter = RevChatGPT(base_url=base_url, model="gpt-5", answer_timeout_seconds=20)
    yield adapter
    await adapter.aclose()
    assert len(gate.outcomes) == chatgpt.received()


@pytest.fixture
def alice(chatgpt: SimulatedChatGPT, gate: RecordingGate) -> Caller:
    """Alice, who may go upstream."""
    return Caller("alice", Secret(chatgpt.alice.token()), gate)


@pytest.fixture
def me(api: SimulatedOpenAI, gate: RecordingGate) -> Caller:
    """Who asks an OpenAI API, with the key that it accepts."""
    return Caller("me", Secret(api.key), gate)


@pytest.fixture
async def openai(api_url: str, api: SimulatedOpenAI, gate: RecordingGate) -> AsyncIterator[OpenAIUpstream]:
    """The adapter to it; tokens and requests are held against each other as well."""
    adapter = OpenAIUpstream(base_url=api_url, clock=ManualClock(), answer_timeout_seconds=20)
    yield adapter
    await adapter.aclose()
    assert len(gate.outcomes) == len(api.received)
