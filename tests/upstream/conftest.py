# SPDX-License-Identifier: GPL-2.0-or-later
"""The adapter in front of the simulated ChatGPT, counting at both ends."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from chatgpt_rest.model import Secret
from chatgpt_rest.upstream.protocol import Caller
from chatgpt_rest.upstream.revchatgpt import RevChatGPT
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
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
