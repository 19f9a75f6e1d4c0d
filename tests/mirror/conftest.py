# SPDX-License-Identifier: GPL-2.0-or-later
"""The mirror alone, open over an empty folder, and two accounts in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatgpt_rest.clock import DAY
from chatgpt_rest.mirror import AccountMirror, Mirror
from tests.house import NOON, ManualClock
from tests.mirrors import opening


@pytest.fixture
async def mirror(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Mirror]:
    """An open mirror that knows Alice and Bob."""
    async with opening(tmp_path, clock) as opened:
        for account in ("alice", "bob"):
            await opened.accounts.accept(account, account.encode(), email=f"{account}@home", expires_at=NOON + DAY)
        yield opened


@pytest.fixture
def alice(mirror: Mirror) -> AccountMirror:
    """What is Alice's."""
    return mirror.of("alice")


@pytest.fixture
def bob(mirror: Mirror) -> AccountMirror:
    """What is Bob's."""
    return mirror.of("bob")
