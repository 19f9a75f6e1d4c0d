# SPDX-License-Identifier: GPL-2.0-or-later
"""Imports as jobs: how each stands outlives the process, and none stands open for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatgpt_rest.clock import MINUTE
from chatgpt_rest.errors import NotFound
from chatgpt_rest.mirror import AccountMirror, ImportJob
from tests.house import NOON, ManualClock
from tests.mirrors import opening


async def test_a_job_waits_runs_and_ends(alice: AccountMirror, clock: ManualClock) -> None:
    """And says what came of it."""
    await alice.import_jobs.begin("job")
    assert await alice.import_jobs.get("job") == ImportJob("job", "waiting", NOON)
    await alice.import_jobs.run("job")
    assert (await alice.import_jobs.get("job")).state == "running"
    clock.move(seconds=60)
    await alice.import_jobs.finish("job", "done", b"{}")
    assert await alice.import_jobs.get("job") == ImportJob("job", "done", NOON, NOON + MINUTE, b"{}")


async def test_nobody_asks_for_another_accounts_job(alice: AccountMirror, bob: AccountMirror) -> None:
    """Nor ends it."""
    await alice.import_jobs.begin("job")
    await bob.import_jobs.finish("job", "failed", None)
    with pytest.raises(NotFound, match="no such import"):
        await bob.import_jobs.get("job")
    assert (await alice.import_jobs.get("job")).state == "waiting"


async def test_a_process_that_died_leaves_its_jobs_interrupted(tmp_path: Path, clock: ManualClock) -> None:
    """Those that waited too; what was over stays as it was."""
    async with opening(tmp_path, clock) as mirror:
        jobs = mirror.of("alice").import_jobs
        for name in ("done", "running", "waiting"):
            await jobs.begin(name)
        await jobs.run("running")
        await jobs.finish("done", "done", b"{}")
    clock.move(seconds=60)
    async with opening(tmp_path, clock) as mirror:
        jobs = mirror.of("alice").import_jobs
        for name in ("running", "waiting"):
            assert await jobs.get(name) == ImportJob(name, "interrupted", NOON, NOON + MINUTE)
        assert await jobs.get("done") == ImportJob("done", "done", NOON, NOON, b"{}")
