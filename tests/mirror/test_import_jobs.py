# SPDX-License-Identifier: GPL-2.0-or-later
"""Imports as jobs: how each stands outlives the process, and none stands open for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatgpt_rest.clock import MINUTE
from chatgpt_rest.errors import NotFound
from chatgpt_rest.mirror import AccountMirror, ImportJob
from chatgpt_rest.mirror.import_jobs import MOST_KEPT
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


async def test_the_newest_of_an_account_are_kept(alice: AccountMirror, bob: AccountMirror, clock: ManualClock) -> None:
    """With the one that ended last, whatever the clock says; neither another account's nor one under way counts."""
    await bob.import_jobs.begin("bob's")
    await bob.import_jobs.finish("bob's", "done", None)
    await alice.import_jobs.begin("under way")
    for number in range(MOST_KEPT + 1):
        clock.move(seconds=1)
        await alice.import_jobs.begin(f"job {number}")
        await alice.import_jobs.finish(f"job {number}", "done", None)
    clock.jump(seconds=-1_000_000)
    await alice.import_jobs.begin("last")
    await alice.import_jobs.finish("last", "failed", None)
    for name in ("job 0", "job 1"):
        with pytest.raises(NotFound):
            await alice.import_jobs.get(name)
    for name in ("under way", "job 2", f"job {MOST_KEPT}", "last"):
        await alice.import_jobs.get(name)
    assert (await bob.import_jobs.get("bob's")).state == "done"


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
