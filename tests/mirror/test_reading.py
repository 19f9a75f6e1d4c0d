# SPDX-License-Identifier: GPL-2.0-or-later
"""The mirror read beside the process that has it, and what of it an export comes to."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from chatgpt_rest.clock import SECOND
from chatgpt_rest.errors import NotFetched, NotFound, StartError, StorageFailed
from chatgpt_rest.mirror import AccountMirror, Mirror
from chatgpt_rest.mirror.reading import open_for_reading
from chatgpt_rest.mirror.snapshot import known_schema
from chatgpt_rest.model import ListedConversation, ListPage
from tests.house import NOON, ManualClock
from tests.mirrors import opening
from tests.rows import rows
from tests.shapes import conversation, message


@pytest.fixture
async def beside(mirror: Mirror, clock: ManualClock) -> AsyncIterator[Mirror]:
    """The same file, opened to be read while `mirror` has it."""
    async with open_for_reading(mirror.path, clock=clock) as opened:
        yield opened


async def save(mirror: AccountMirror, name: str, *, at: int | None = 0, **members: object) -> None:
    """Take in a conversation that upstream shows as updated so many seconds after noon."""
    time = None if at is None else NOON / SECOND + at
    members = {"update_time": time, "create_time": time, **members}
    await mirror.conversations.save_whole(conversation(message(name), conversation_id=name, **members))


async def exported(mirror: AccountMirror, *, since: int | None = None) -> list[str]:
    """What an export comes to; as many as were counted before."""
    names = [each async for each in mirror.conversations.exportable(since=since)]
    assert (await mirror.conversations.count_exportable(since=since))[0] == len(names)
    return names


def edit_header(path: Path, statement: str) -> None:
    """Do something to a database that nobody has open."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)


# ------------------------------------------------------------------------------------------------------------- beside


async def test_what_is_written_is_read_at_once(alice: AccountMirror, beside: Mirror) -> None:
    """A reader sees whatever was committed, before it was opened or since."""
    await save(alice, "c")
    assert await beside.of("alice").conversations.get("c") == await alice.conversations.get("c")
    assert [each.id for each in await beside.accounts.all()] == ["alice", "bob"]


async def test_a_reader_writes_nothing(alice: AccountMirror, beside: Mirror) -> None:
    """What would write through it fails, and the file stays as it is."""
    await save(alice, "c")
    with pytest.raises(StorageFailed, match="READONLY"):
        await beside.of("alice").conversations.edit("c", title="Other")
    assert rows(beside.path, "select title from conversation") == [("A title",)]


async def test_a_reader_holds_nobody_up(tmp_path: Path, clock: ManualClock) -> None:
    """While one reads, the mirror can be closed, opened again and written."""
    async with opening(tmp_path, clock) as mirror:
        await save(mirror.of("alice"), "c")
    async with open_for_reading(tmp_path / "mirror.sqlite", clock=clock) as beside:
        async with opening(tmp_path, clock) as mirror:
            await save(mirror.of("alice"), "d")
        assert await exported(beside.of("alice")) == ["c", "d"]


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("pragma user_version = 2", f"an older version of this program (schema 2, this one needs {known_schema()})"),
        ("pragma user_version = 99", f"a newer version (schema 99, this program knows {known_schema()})"),
        ("pragma application_id = 7", "a database of another program"),
    ],
)
async def test_another_schema_is_refused(tmp_path: Path, clock: ManualClock, statement: str, told: str) -> None:
    """Nothing is guessed from tables that this program does not know, and the refusal says whose they are."""
    async with opening(tmp_path, clock) as mirror:
        path = mirror.path
    edit_header(path, statement)
    with pytest.raises(StartError, match=re.escape(told)):
        async with open_for_reading(path, clock=clock):
            pass


@pytest.mark.parametrize("content", [None, b"not a database at all" * 100])
async def test_what_is_no_mirror_is_refused(tmp_path: Path, clock: ManualClock, content: bytes | None) -> None:
    """No file, and a file that is something else, are told in one line; neither is made nor changed."""
    path = tmp_path / "mirror.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartError, match="cannot be read as a mirror"):
        async with open_for_reading(path, clock=clock):
            pass
    assert (path.read_bytes() if path.exists() else None) == content


@pytest.mark.parametrize("name", ["nothing", "folder"])
async def test_a_refusal_leaves_no_thread(tmp_path: Path, clock: ManualClock, name: str) -> None:
    """What cannot be opened at all is refused before anything runs that could outlive the refusal."""
    (tmp_path / "folder").mkdir()
    before = set(threading.enumerate())
    with pytest.raises(StartError, match="no such file"):
        async with open_for_reading(tmp_path / name, clock=clock):
            pass
    assert set(threading.enumerate()) <= before


# --------------------------------------------------------------------------------------------------------- exportable


async def test_everything_that_is_here_is_exported(alice: AccountMirror, bob: AccountMirror) -> None:
    """Archived conversations are, and those gone upstream; not what is deleted here, only listed, or another's."""
    await save(alice, "plain")
    await save(alice, "archived", is_archived=True)
    await save(alice, "gone")
    await alice.backlog.mark_gone("gone", "not_found")
    await save(alice, "deleted")
    await alice.deletions.bury("deleted")
    await alice.listings.take(ListPage((ListedConversation("listed", "Listed", NOON, NOON),), is_last=True), since=0)
    await save(bob, "bobs")
    assert await exported(alice) == ["archived", "gone", "plain"]
    assert await alice.conversations.count_exportable() == (3, 1)


async def test_since_is_compared_with_the_update(alice: AccountMirror) -> None:
    """What was updated at that moment or later, and what has no such time by its creation; without either never."""
    await save(alice, "older", at=-1)
    await save(alice, "same")
    await save(alice, "newer", at=1, create_time=1.0)
    await save(alice, "timeless", at=None)
    await save(alice, "created", update_time=None)
    assert await exported(alice, since=NOON) == ["created", "newer", "same"]
    assert len(await exported(alice)) == 5


async def test_a_change_in_the_middle_loses_nothing(tmp_path: Path, clock: ManualClock) -> None:
    """Over several pages each comes once, whatever is updated or deleted meanwhile."""
    async with opening(tmp_path, clock) as mirror:
        path = mirror.path
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "insert into conversation (account, id, has_content) values ('alice', ?, 1)",
            [(f"c{number:04}",) for number in range(2001)],
        )
    met: list[str] = []
    async with opening(tmp_path, clock) as mirror:
        alice = mirror.of("alice")
        async for name in alice.conversations.exportable():
            if not met:
                await save(alice, "c1999", at=10)
                await alice.deletions.bury("c1500")
            met.append(name)
    assert met == [f"c{number:04}" for number in range(2001) if number != 1500]


async def test_a_readable_tree_is_whole(alice: AccountMirror) -> None:
    """What is here comes with its tree; what is deleted is not found, what never came is still to be fetched."""
    await save(alice, "c")
    assert await alice.conversations.readable("c") == await alice.conversations.get("c")
    await alice.deletions.bury("c")
    with pytest.raises(NotFound) as deleted:
        await alice.conversations.readable("c")
    assert not isinstance(deleted.value, NotFetched)
    with pytest.raises(NotFetched):
        await alice.conversations.readable("unknown")
