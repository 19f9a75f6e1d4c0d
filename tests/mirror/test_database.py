# SPDX-License-Identifier: GPL-2.0-or-later
"""The one SQLite file: its lock, its modes, transactions that are whole or not there, and a disk that fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import types
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from chatgpt_rest.errors import StartError, StorageFailed
from chatgpt_rest.mirror import MIGRATIONS, Mirror
from chatgpt_rest.mirror.database import READERS, Database, open_database
from tests.disks import small_disk
from tests.house import ManualClock
from tests.mirrors import opening

CHECKOUT: Final = Path(__file__).parents[2]
HOLDER: Final = """
import asyncio, sys
from pathlib import Path
from chatgpt_rest.mirror import MIGRATIONS
from chatgpt_rest.mirror.database import open_database

async def hold():
    async with open_database(Path(sys.argv[1]), MIGRATIONS) as database:
        async with database.write() as connection:
            await connection.execute("insert into account (account, created_at) values ('committed', 0)")
        async with database.write() as connection:
            await connection.execute("insert into account (account, created_at) values ('open', 0)")
            print("open", flush=True)
            await asyncio.sleep(60)

asyncio.run(hold())
"""


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """An open database."""
    async with open_database(tmp_path / "mirror.sqlite", MIGRATIONS) as opened:
        yield opened


async def add(database: Database, *accounts: str) -> None:
    """Write accounts in one transaction."""
    async with database.write() as connection:
        for account in accounts:
            await connection.execute("insert into account (account, created_at) values (?, 0)", (account,))


async def accounts(database: Database) -> list[str]:
    """The accounts that a reader sees."""
    async with database.read() as connection:
        return [row[0] for row in await connection.execute_fetchall("select account from account order by account")]


# --------------------------------------------------------------------------------------------------------------- lock


@contextmanager
def held_by_another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process has the mirror open, in mid-transaction."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            yield process
        finally:
            process.kill()


async def test_the_second_opener_is_told_who_holds_the_mirror(tmp_path: Path) -> None:
    """By the number of the process."""
    path = tmp_path / "mirror.sqlite"
    with held_by_another_process(path) as process:
        with pytest.raises(StartError, match=rf"in use by process {process.pid};") as caught:
            async with open_database(path, MIGRATIONS):
                pass
        assert caught.value.code == "locked"


async def test_the_lock_dies_with_its_process_and_its_open_transaction_too(tmp_path: Path) -> None:
    """After kill -9 the next one opens at once, and finds what was committed and nothing else."""
    path = tmp_path / "mirror.sqlite"
    with held_by_another_process(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        async with open_database(path, MIGRATIONS) as database:
            assert await accounts(database) == ["committed"]


async def test_one_process_opens_a_mirror_once(database: Database) -> None:
    """Two writers in one process are two writers."""
    with pytest.raises(StartError, match=rf"in use by process {os.getpid()};"):
        async with open_database(database.path, MIGRATIONS):
            pass


async def test_a_lock_file_that_somebody_deleted_still_locks(database: Database) -> None:
    """A tidy person makes no second writer."""
    database.path.with_name("mirror.sqlite.lock").unlink()
    with pytest.raises(StartError, match="in use") as caught:
        async with open_database(database.path, MIGRATIONS):
            pass
    assert caught.value.code == "locked"


async def test_a_closed_mirror_can_be_opened_again(tmp_path: Path) -> None:
    """Closing lets go of the lock, also where opening failed."""
    path = tmp_path / "mirror.sqlite"
    for _ in range(2):
        async with open_database(path, MIGRATIONS):
            pass
    with pytest.raises(StartError, match="no migrations"):
        async with open_database(path, tmp_path / "nowhere"):
            pass
    async with open_database(path, MIGRATIONS):
        pass


# -------------------------------------------------------------------------------------------------------------- modes


async def test_nobody_else_can_read_the_mirror(tmp_path: Path) -> None:
    """Whatever the umask: the folder is 0700, and every file in it 0600, those of SQLite's own too."""
    before = os.umask(0)
    try:
        async with open_database(tmp_path / "state" / "mirror.sqlite", MIGRATIONS) as database:
            await add(database, "alice")
            await accounts(database)
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in database.path.parent.iterdir()}
            folder = stat.S_IMODE(database.path.parent.stat().st_mode)
    finally:
        os.umask(before)
    assert folder == 0o700
    assert modes == dict.fromkeys(
        ("mirror.sqlite", "mirror.sqlite-wal", "mirror.sqlite-shm", "mirror.sqlite.lock"), 0o600
    )


async def test_what_is_committed_is_on_the_disk(database: Database) -> None:
    """WAL with every commit synced: with less, a power cut loses acknowledged rows and with them spent tokens."""
    async with database.write() as connection:
        synchronous = list(await connection.execute_fetchall("pragma synchronous"))
        journal = list(await connection.execute_fetchall("pragma journal_mode"))
    assert (synchronous[0][0], journal[0][0]) == (2, "wal")


async def test_a_reader_cannot_write(database: Database) -> None:
    """Exactly one connection writes."""
    with pytest.raises(StorageFailed, match="SQLITE_READONLY"):
        async with database.read() as connection:
            await connection.execute("delete from account")


# ------------------------------------------------------------------------------------------------------- transactions


class Whim(Exception):
    """Anything that goes wrong in the middle."""


async def test_an_exception_undoes_the_whole_transaction(database: Database) -> None:
    """And the next one is not touched by it."""
    with pytest.raises(Whim):
        await _fail(database)
    await add(database, "next")
    assert await accounts(database) == ["next"]


async def _fail(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute("insert into account (account, created_at) values ('half', 0)")
        raise Whim


@types.coroutine
def cancelled_at(work: Coroutine[Any, Any, None], point: int, *, again: bool) -> Generator[Any, Any, bool]:
    """Run `work`, cancel it where it waits for the `point`th time (and, if `again`, wherever it waits after that);
    whether it came so far.
    """
    try:
        for _ in range(point):
            yield work.send(None)
        waiting = work.send(None)
        while True:
            waiting.cancel()
            waiting = work.throw(asyncio.CancelledError())
            yield  # a loop runs what it was given before it delivers the next cancellation
            while not again:
                yield waiting
                waiting = work.send(None)
    except StopIteration:
        return False
    except asyncio.CancelledError:
        return True


@pytest.mark.parametrize("again", [False, True], ids=["once", "again and again"])
async def test_a_cancelled_transaction_is_whole_or_not_there(database: Database, *, again: bool) -> None:
    """Cancelled at each of its waits in turn, it writes both rows or none, and the next transaction is its own."""
    point, is_over = 0, False
    while not is_over:
        is_over = not await cancelled_at(add(database, f"{point}-a", f"{point}-b"), point, again=again)
        await add(database, f"{point}-next")
        found = [account for account in await accounts(database) if account.startswith(f"{point}-")]
        assert found in ([f"{point}-next"], [f"{point}-a", f"{point}-b", f"{point}-next"])
        point += 1
    assert point > 4


@pytest.mark.parametrize("again", [False, True], ids=["once", "again and again"])
async def test_a_cancelled_reader_gives_its_connection_back(database: Database, *, again: bool) -> None:
    """However often readers hang up, the next ones read, and see what is new."""

    async def read() -> None:
        await accounts(database)

    for point in range(3):
        for _ in range(READERS + 1):
            assert await cancelled_at(read(), point, again=again)
        await add(database, str(point))
        answers = await asyncio.gather(*(accounts(database) for _ in range(2 * READERS)))
        assert answers == [[str(each) for each in range(point + 1)]] * (2 * READERS)


async def test_two_writers_wait_for_each_other(database: Database) -> None:
    """What one read in its transaction is still so when it writes."""
    await add(database, "counter")

    async def count() -> None:
        async with database.write() as connection:
            (row,) = await connection.execute_fetchall("select created_at from account")
            await connection.execute("update account set created_at = ?", (row[0] + 1,))

    await asyncio.gather(*(count() for _ in range(20)))
    async with database.read() as connection:
        assert [tuple(row) for row in await connection.execute_fetchall("select created_at from account")] == [(20,)]


async def test_a_reader_sees_one_state_throughout(database: Database) -> None:
    """A write between its statements is seen by the next reader."""
    count = "select count(*) from account"
    async with database.read() as connection:
        (before,) = await connection.execute_fetchall(count)
        await add(database, "new")
        (after,) = await connection.execute_fetchall(count)
    assert (before[0], after[0]) == (0, 0)
    assert await accounts(database) == ["new"]


async def test_a_reader_does_not_see_what_is_not_committed(database: Database) -> None:
    """Nor does it wait for it."""
    async with database.write() as connection:
        await connection.execute("insert into account (account, created_at) values ('open', 0)")
        assert await accounts(database) == []


# --------------------------------------------------------------------------------------------------------- full disks


async def test_a_full_disk_fails_the_write_and_nothing_else(database: Database) -> None:
    """The mirror still reads what it has, and writes again once there is room."""
    await add(database, "before")
    async with database.write() as connection:
        (pages,) = await connection.execute_fetchall("pragma page_count")
        await connection.execute_fetchall(f"pragma max_page_count = {pages[0]}")
    with pytest.raises(StorageFailed, match="full") as caught:
        await add(database, "half", "x" * 1_000_000)
    assert caught.value.code == "storage_full"
    assert await accounts(database) == ["before"]
    async with database.write() as connection:
        await connection.execute_fetchall("pragma max_page_count = 1000000")
    await add(database, "after")
    assert await accounts(database) == ["after", "before"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tiny disk takes root")
async def test_a_disk_that_fills_up_and_is_cleared(tmp_path: Path) -> None:
    """A real one: the write fails as a whole, reading goes on, and writing does once a file is deleted."""
    with small_disk(tmp_path / "disk", size_mib=1) as disk:
        ballast = disk / "ballast"
        async with open_database(disk / "mirror.sqlite", MIGRATIONS) as database:
            await add(database, "before")
            fill(ballast)
            with pytest.raises(StorageFailed) as caught:
                await add(database, "half", "x" * 500_000)
            assert caught.value.code == "storage_full"
            assert await accounts(database) == ["before"]
            ballast.unlink()
            await add(database, "after")
            assert await accounts(database) == ["after", "before"]


def fill(ballast: Path) -> None:
    """Write until the disk has no room left."""
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"\0" * 4096):
            pass


# ------------------------------------------------------------------------------------------------------------ damage


async def test_a_damaged_page_is_a_storage_fault_and_no_bug(mirror: Mirror) -> None:
    """What the disk did is told apart from what the program did."""
    damage(mirror.path)
    with pytest.raises(StorageFailed, match=r"SQLITE_(CORRUPT|NOTADB)"):
        await mirror.accounts.all()


def damage(path: Path, *, table: str | None = None) -> None:
    """Overwrite everything behind the first page, or where one table begins; what is still in the write-ahead log is
    folded in before.
    """
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma wal_checkpoint(truncate)").fetchall()
        (page_bytes,) = connection.execute("pragma page_size").fetchone()
        roots = dict(connection.execute("select name, rootpage from sqlite_schema where type = 'table'"))
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        begin = page_bytes if table is None else page_bytes * (roots[table] - 1)
        file.seek(begin)
        file.write(b"\xff" * (size - begin if table is None else page_bytes))


async def test_a_damaged_mirror_stops_the_start_and_is_left_as_it_is(tmp_path: Path, clock: ManualClock) -> None:
    """The error names the file; what is in it may still be saved by hand."""
    async with opening(tmp_path, clock) as mirror:
        path = mirror.path
    damage(path)
    before = content(path)
    with pytest.raises(StartError, match=r"mirror\.sqlite"):
        async with opening(tmp_path, clock):
            pass
    assert content(path) == before


async def test_damage_that_is_met_after_opening_stops_the_start_too(tmp_path: Path, clock: ManualClock) -> None:
    """What the budget counts by must be sound before anything leaves."""
    async with opening(tmp_path, clock) as mirror:
        path = mirror.path
    damage(path, table="clock_reading")
    with pytest.raises(StartError, match=r"mirror\.sqlite: the mirror cannot be read or written \(SQLITE_CORRUPT"):
        async with opening(tmp_path, clock):
            pass


def content(path: Path) -> bytes:
    """Every byte of a file."""
    return path.read_bytes()


async def test_a_sound_mirror_has_no_faults(mirror: Mirror) -> None:
    """And answers."""
    await mirror.ping()
    assert await mirror.faults() == []


async def test_a_wrong_statement_stays_the_bug_that_it_is(database: Database) -> None:
    """It is no fault of the disk's."""
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        async with database.read() as connection:
            await connection.execute("select * from nowhere")


# ------------------------------------------------------------------------------------------------------------- places


@pytest.mark.parametrize("name", ["file/mirror.sqlite", "folder"])
async def test_a_place_that_cannot_hold_a_mirror_is_named(tmp_path: Path, name: str) -> None:
    """A file where a folder should be, and a folder where the file should be."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(StartError, match=name.partition("/")[0]):
        async with open_database(tmp_path / name, MIGRATIONS):
            pass


@contextmanager
def without_rights() -> Iterator[None]:
    """For root, who may write everywhere: be nobody for a while."""
    user = os.geteuid()
    os.seteuid(user or 65_534)
    try:
        yield
    finally:
        os.seteuid(user)


async def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(tmp_path: Path) -> None:
    """The error tells the setting to change."""
    (tmp_path / "state").mkdir(mode=0o500)
    with (
        without_rights(),
        pytest.raises(StartError, match=r"Permission denied; name another place with \[mirror\] path"),
    ):
        async with open_database(tmp_path / "state" / "mirror.sqlite", MIGRATIONS):
            pass
