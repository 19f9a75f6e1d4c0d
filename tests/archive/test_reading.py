# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that reads an export, as the process that has the mirror sees it: it comes, it may die, and it goes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from chatgpt_rest.archive import wire
from chatgpt_rest.archive.intake import Intake, take_in
from chatgpt_rest.archive.reading import Reader, glance, reading, source_of
from chatgpt_rest.config import TOKEN_VARIABLE
from chatgpt_rest.errors import BadRequest, MirrorError
from tests.export_huge import ACCOUNT, write_huge
from tests.house import ManualClock, make_config
from tests.mirrors import opening

LARGER_THAN_ANY_PIPE: Final = 24_000_000


def source(path: Path) -> wire.Source:
    """What to read, within the usual limits."""
    return source_of([path], make_config(path.parent, "http://127.0.0.1:9/"))


def children() -> set[int]:
    """The processes that this one has started."""
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii").split()))


def environment_of(pid: int) -> bytes:
    """What a process was told by its environment."""
    return Path(f"/proc/{pid}/environ").read_bytes()


async def all_of(reader: Reader) -> list[wire.Frame]:
    """Everything that it says."""
    return [wire.decode(body) async for body in reader.bodies()]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """An export of one conversation."""
    path = tmp_path / "export.zip"
    conversation = {"id": "groceries", "title": "Groceries", "mapping": {"a": {"id": "a", "message": None}}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("conversations.json", json.dumps([conversation]))
        archive.writestr("user.json", json.dumps({"id": ACCOUNT, "email": "alice@home"}))
    return path


@pytest.fixture
def oddly_named(small: Path) -> Path:
    """The same under a name that is no UTF-8, in a folder of such a name."""
    folder = small.parent / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    return small.rename(folder / os.fsdecode(b"export-\xe9.zip"))


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that no pipe and no buffer holds."""
    path = tmp_path_factory.mktemp("huge") / "huge.zip"
    write_huge(path, LARGER_THAN_ANY_PIPE)
    return path


async def test_it_opens_and_waits_for_the_account(small: Path) -> None:
    """What it found comes first; everything else when it is told whose it is."""
    async with reading(source(small)) as reader:
        assert (reader.opened.account, reader.opened.email) == (ACCOUNT, "alice@home")
        await reader.go(ACCOUNT)
        first, *others = await all_of(reader)
    assert first == reader.opened
    (batch,) = [each for each in others if isinstance(each, wire.Batch)]
    assert [row[0] for row in batch.conversations[0].nodes] == [ACCOUNT]
    assert others[-1] == wire.Ended(done_bytes=reader.opened.total_bytes)


async def test_a_frame_can_be_told_without_unpacking_it(small: Path) -> None:
    """How many conversations it holds, and how far it is."""
    async with reading(source(small)) as reader:
        await reader.go(ACCOUNT)
        seen = [glance(body) async for body in reader.bodies()]
    assert sum(len(each.conversations) for each in seen) == 1
    assert [each.is_last for each in seen] == [False] * (len(seen) - 1) + [True]
    assert seen[-1].done_bytes == reader.opened.total_bytes


async def test_what_it_refuses_is_told(tmp_path: Path) -> None:
    """In its own words, with its code."""
    path = tmp_path / "export.zip"
    path.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(BadRequest, match=r"export\.zip") as refused:
        async with reading(source(path)):
            pass
    assert refused.value.code == "export_refused"
    assert children() == set()


async def test_a_name_that_is_no_utf_8(oddly_named: Path) -> None:
    """Files are called by bytes, which need be no text."""
    for path in (oddly_named, oddly_named.parent):
        async with reading(source(path)) as reader:
            await reader.go(ACCOUNT)
            assert isinstance((await all_of(reader))[-1], wire.Ended)


async def test_a_name_that_is_no_utf_8_is_refused_in_words(oddly_named: Path) -> None:
    """What is wrong with a file can be said, however it is called."""
    os.truncate(oddly_named, 0)
    with pytest.raises(BadRequest, match=r"^export-\\udce9\.zip: "):
        async with reading(source(oddly_named)):
            pass


async def test_it_is_not_told_any_secret(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of its environment is a token, a key or a setting."""
    for name in (TOKEN_VARIABLE, "CREDENTIALS_DIRECTORY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "s3cret")
    async with reading(source(small)):
        (pid,) = children()
        assert b"s3cret" not in environment_of(pid)


async def test_leaving_ends_it(huge: Path) -> None:
    """In the midst of what it says, and without a word to it."""
    async with reading(source(huge)) as reader:
        await reader.go(ACCOUNT)
        async for _ in reader.bodies():
            break
    assert children() == set()


async def test_being_cancelled_ends_it(huge: Path) -> None:
    """Whoever waits for it may be told to stop at any time."""
    is_reading = asyncio.Event()

    async def read() -> None:
        async with reading(source(huge)) as reader:
            await reader.go(ACCOUNT)
            async for _ in reader.bodies():
                is_reading.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(read())
    await is_reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children() == set()


async def test_its_death_is_told(huge: Path, tmp_path: Path, clock: ManualClock) -> None:
    """Killed for want of memory, say: what came is in, the ledger is not complete and says why, and running it again
    goes on.
    """

    async def bodies(reader: Reader) -> AsyncIterator[bytes]:
        async for body in reader.bodies():
            yield body
            for pid in children() if glance(body).conversations else ():
                os.kill(pid, signal.SIGKILL)

    async with opening(tmp_path, clock) as mirror:
        await mirror.accounts.ensure(ACCOUNT, email=None)
        async with reading(source(huge)) as reader:
            await reader.go(ACCOUNT)
            intake = Intake(mirror.of(ACCOUNT), mirror.files, clock=clock, dry_run=False)
            died = await take_in(intake, bodies(reader))
        assert died.error is not None
        assert died.error.code == "reading_ended"
        assert "was killed" in died.error.error
        assert died.conversations.imported == died.conversations.read > 0
        async with reading(source(huge)) as reader:
            await reader.go(ACCOUNT)
            intake = Intake(mirror.of(ACCOUNT), mirror.files, clock=clock, dry_run=False)
            whole = await take_in(intake, reader.bodies())
    assert whole.is_complete
    assert whole.conversations.unchanged == died.conversations.imported


async def test_one_that_dies_at_once_is_told(small: Path) -> None:
    """Before it has opened anything."""

    async def kill_the_first() -> None:
        while not (found := children()):  # noqa: ASYNC110 - another process, no event
            await asyncio.sleep(0)
        os.kill(found.pop(), signal.SIGKILL)

    killing = asyncio.create_task(kill_the_first())
    with pytest.raises(MirrorError, match="was killed"):
        async with reading(source(small)):
            pass
    await killing
