# SPDX-License-Identifier: GPL-2.0-or-later
"""Imports over HTTP as jobs, without the HTTP: how many read at once, and what a stop in the last moment leaves."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from chatgpt_rest.archive.jobs import MOST_READERS, Jobs, Upload
from chatgpt_rest.archive.spool import make_work_folder
from chatgpt_rest.mirror import Mirror
from tests.house import ManualClock, make_config
from tests.mirrors import opening
from tests.process import PATIENCE_SECONDS

EXPORT: Final = json.dumps([{"id": "groceries", "title": "Groceries", "mapping": {"a": {"id": "a"}}}]).encode()


@pytest.fixture
async def mirror(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Mirror]:
    """An empty one."""
    async with opening(tmp_path, clock) as opened:
        yield opened


@pytest.fixture
async def jobs(mirror: Mirror, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Jobs]:
    """Those of the process that has it."""
    config = make_config(tmp_path, "http://127.0.0.1:9/")
    await make_work_folder(config.work_folder)
    opened = Jobs(mirror, config, clock)
    yield opened
    await opened.aclose()


async def begin(jobs: Jobs, mirror: Mirror, account: str) -> Upload:
    """An export of this account's has come in."""
    await mirror.accounts.ensure(account, email=None)
    async with jobs.receiving(account) as upload:
        async with upload.spool.file("conversations.json") as file:
            await file.write(EXPORT)
        await jobs.begin(upload, dry_run=False)
    return upload


def readers() -> int:
    """How many processes read exports."""
    return len(Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii").split())


async def test_few_exports_are_open_at_once(jobs: Jobs, mirror: Mirror) -> None:
    """However many accounts import at the same time; each comes in."""
    most = 0
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        begun = [group.create_task(begin(jobs, mirror, f"user-{number}")) for number in range(MOST_READERS + 2)]
        while not all(each.done() and each.result().is_over for each in begun):
            most = max(most, readers())
            await asyncio.sleep(0)
    assert 1 < most <= MOST_READERS
    assert {each.result().state for each in begun} == {"done"}


async def test_a_stop_in_the_last_moment_leaves_a_complete_import_done(jobs: Jobs, mirror: Mirror) -> None:
    """What is read to its end was not interrupted, whatever happens while that is written down."""
    upload = await begin(jobs, mirror, "alice")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while upload.ledger is None:  # noqa: ASYNC110 - the moment is what matters, and nothing tells of it
            await asyncio.sleep(0)
    assert not upload.is_over
    await jobs.aclose()
    assert (upload.state, upload.error) == ("done", None)
    assert (await mirror.of("alice").import_jobs.get(upload.id)).state == "done"
    assert not upload.spool.paths[0].exists()


async def test_one_that_is_cancelled_as_it_begins_never_runs(jobs: Jobs, mirror: Mirror) -> None:
    """All of it has come in, and there is no task yet that could be told."""
    async with jobs.receiving("alice") as upload, asyncio.TaskGroup() as group:
        async with upload.spool.file("conversations.json") as file:
            await file.write(EXPORT)
        beginning = group.create_task(jobs.begin(upload, dry_run=False))
        await asyncio.sleep(0)
        assert (upload.has_come, upload.task) == (True, None)
        group.create_task(jobs.cancel("alice", upload.id))
    assert beginning.done()
    assert (upload.state, upload.ledger) == ("interrupted", None)
    assert (await mirror.of("alice").import_jobs.get(upload.id)).state == "interrupted"
