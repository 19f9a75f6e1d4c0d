# SPDX-License-Identifier: GPL-2.0-or-later
"""A mirror copied while somebody writes in it, and what an older copy has to learn before it comes back."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from chatgpt_rest.clock import DAY, HOUR, MINUTE, SECOND
from chatgpt_rest.errors import BudgetSpent, StartError, StorageFailed, UpstreamLimit
from chatgpt_rest.mirror import AccountMirror, Mirror
from chatgpt_rest.mirror.snapshot import (
    CarriedOver,
    carry_over,
    inspect,
    is_asset_named,
    known_schema,
    measure,
    settle,
    take_snapshot,
)
from tests.house import NOON, ManualClock
from tests.mirrors import opening
from tests.rows import rows

CHECKOUT: Final = Path(__file__).parents[2]
WRITER: Final = """
import asyncio, sys
from pathlib import Path
from chatgpt_rest.mirror import MIGRATIONS
from chatgpt_rest.mirror.database import open_database

async def write():
    async with open_database(Path(sys.argv[1]), MIGRATIONS) as database:
        for number in range(1_000_000):
            async with database.write() as connection:
                await connection.execute(
                    "insert into conversation (account, id, has_content) values ('a', ?, 1)", (f"{number:07}",)
                )
                await connection.execute(
                    "insert into node (account, conversation, id, position, message, shape, completeness)"
                    " values ('a', ?, 'n', 0, ?, 1, 1)", (f"{number:07}", b"x" * 3_000)
                )
            print(number, flush=True)

asyncio.run(write())
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that commits one conversation after the other, and says each number once it is on the disk."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "mirror.sqlite")]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        yield process
        process.kill()


def snapshot(path: Path, target: Path) -> Path:
    """A snapshot, taken without looking at how far it is."""
    target.touch(mode=0o600)
    take_snapshot(path, target, look=lambda _: None)
    return target


def checked(path: Path) -> list[Any]:
    """The counts and assets of a file whose every page was checked."""
    found = inspect(path, look=lambda: None)
    return [found.accounts, found.conversations, found.messages, found.assets]


def change(path: Path, statement: str, *values: object) -> None:
    """Write past the program."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, values)


# -------------------------------------------------------------------------------------------------------- snapshots


def test_snapshots_beside_a_writer_are_whole_and_each_is_a_beginning_of_the_next(
    tmp_path: Path, writer: subprocess.Popen[str]
) -> None:
    """Twenty of them, while commits go on: no page is torn, no transaction is half there, none is left out."""
    assert writer.stdout is not None
    acknowledged, last = 0, 0
    for number in range(20):
        target = snapshot(tmp_path / "mirror.sqlite", tmp_path / f"{number}.sqlite")
        assert inspect(target, look=lambda: None).schema == known_schema()
        identifiers = [row[0] for row in rows(target, "select id from conversation order by id")]
        assert identifiers == [f"{each:07}" for each in range(len(identifiers))]
        assert rows(target, "select conversation from node order by 1") == [(each,) for each in identifiers]
        assert len(identifiers) > max(acknowledged, last)
        last = len(identifiers) - 1
        acknowledged = int(writer.stdout.readline())
        target.unlink()
    assert writer.poll() is None


def test_what_a_killed_process_left_in_its_log_is_in_the_snapshot(
    tmp_path: Path, writer: subprocess.Popen[str]
) -> None:
    """With nobody there to bring the log into the file, it is read all the same, and neither is touched."""
    assert writer.stdout is not None
    last = [int(writer.stdout.readline()) for _ in range(50)][-1]
    writer.kill()
    writer.wait()
    path, log = tmp_path / "mirror.sqlite", tmp_path / "mirror.sqlite-wal"
    before = path.read_bytes(), log.read_bytes()
    target = snapshot(path, tmp_path / "copy.sqlite")
    assert checked(target)[1] > last
    assert (path.read_bytes(), log.read_bytes()) == before


async def test_what_was_deleted_is_in_no_byte_of_a_snapshot(tmp_path: Path, mirror: Mirror) -> None:
    """The free space of a file, where words of what was purged may still stand, is not copied."""
    change(mirror.path, "create table words (word text)")
    change(mirror.path, "insert into words values (?)", "shibboleth" * 1_000)
    change(mirror.path, "drop table words")
    target = snapshot(mirror.path, tmp_path / "copy.sqlite")
    assert b"shibboleth" not in target.read_bytes()
    assert checked(target)[0] == 2
    page = 4_096  # the schema may be laid out on one more
    assert abs(target.stat().st_size - measure(mirror.path)[0]) <= page


async def test_a_snapshot_stops_when_it_is_told_to(tmp_path: Path, mirror: Mirror) -> None:
    """What the looking raises comes out, and the mirror is as usable as before."""
    with closing(sqlite3.connect(mirror.path)) as connection, connection:
        connection.executemany(
            "insert into node (account, conversation, id, position, shape, completeness) values ('a', 'c', ?, 0, 1, 1)",
            [(str(number),) for number in range(20_000)],
        )

    class Enough(Exception):
        """It is."""

    def look(_: int) -> None:
        raise Enough

    target = tmp_path / "copy.sqlite"
    target.touch()
    with pytest.raises(Enough):
        take_snapshot(mirror.path, target, look=look)
    target.unlink()
    with pytest.raises(Enough):
        inspect(snapshot(mirror.path, target), look=lambda: look(0))
    await mirror.accounts.name("alice", "me")


async def test_the_assets_of_a_mirror_are_named_once_each(mirror: Mirror) -> None:
    """By their digest, whoever's they are; and it is told whether one still is."""
    for account, asset, digest in (
        ("alice", "file-1", b"\xaa"),
        ("bob", "file-1", b"\xaa"),
        ("bob", "file-2", b"\xbb"),
    ):
        change(
            mirror.path,
            "insert into asset (account, id, digest, size_bytes, media_type) values (?, ?, ?, 7, 'image/png')",
            *(account, asset, digest * 32),
        )
    copy = snapshot(mirror.path, mirror.path.with_name("copy.sqlite"))
    assert checked(copy)[3] == ("aa" * 32, "bb" * 32)
    assert measure(mirror.path)[1] == 14
    assert is_asset_named(mirror.path, "aa" * 32)
    assert not is_asset_named(mirror.path, "cc" * 32)


def test_what_is_no_mirror_of_ours_is_refused(tmp_path: Path) -> None:
    """Nothing at all, an empty file, another program's database, a newer version's: each by name."""
    path = tmp_path / "mirror.sqlite"
    with pytest.raises(StartError, match="there is no mirror yet"):
        measure(path)
    path.touch()
    with pytest.raises(StartError, match="there is no mirror yet"):
        measure(path)
    change(path, "create table notes (note text)")
    with pytest.raises(StartError, match="another program"):
        measure(path)


async def test_a_newer_mirror_is_refused(mirror: Mirror) -> None:
    """Its schema may mean what this program does not know."""
    copy = snapshot(mirror.path, mirror.path.with_name("copy.sqlite"))
    change(copy, f"pragma user_version = {known_schema() + 1}")
    with pytest.raises(StartError, match="newer version"):
        inspect(copy, look=lambda: None)


async def test_damage_is_found(tmp_path: Path, mirror: Mirror) -> None:
    """In an index, in a page, and where the file is cut; in our words, not as SQLite's exceptions."""
    copy = snapshot(mirror.path, tmp_path / "copy.sqlite")
    whole = copy.read_bytes()
    copy.write_bytes(whole.replace(b"alice@home", b"alicf@home").replace(b"alice", b"alicf", 1))
    with pytest.raises(StorageFailed, match="is damaged: "):
        inspect(copy, look=lambda: None)
    copy.write_bytes(whole[:8192] + b"\xff" * 4096 + whole[12288:])
    with pytest.raises(StorageFailed):
        inspect(copy, look=lambda: None)
    copy.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StorageFailed):
        inspect(copy, look=lambda: None)


@pytest.mark.parametrize(
    "statement",
    [
        "create trigger evil after insert on node begin delete from conversation; end",
        "create view evil as select 1",
        "create table evil (a)",
        "create index evil on node (message)",
        "drop table attachment",
    ],
)
async def test_what_no_migration_makes_is_not_believed(tmp_path: Path, mirror: Mirror, statement: str) -> None:
    """A trigger would act whenever the server writes; also where something is missing the file is refused."""
    copy = snapshot(mirror.path, tmp_path / "copy.sqlite")
    change(copy, statement)
    with pytest.raises(StorageFailed, match=r"holds (view|table|index|trigger) 'evil', which|is damaged: index"):
        inspect(copy, look=lambda: None)


async def test_what_sqlite_keeps_about_tables_is_no_fault(tmp_path: Path, mirror: Mirror) -> None:
    """Somebody may have had it analyse the mirror."""
    copy = snapshot(mirror.path, tmp_path / "copy.sqlite")
    change(copy, "analyze")
    assert inspect(copy, look=lambda: None).accounts == 2


async def test_a_mirror_is_not_settled_while_somebody_reads_it(mirror: Mirror) -> None:
    """Its log cannot be brought into the file then; nothing of it is lost."""
    copy = snapshot(mirror.path, mirror.path.with_name("copy.sqlite"))
    change(copy, "pragma journal_mode = wal")
    with closing(sqlite3.connect(copy, isolation_level=None)) as reader:
        reader.execute("begin")
        reader.execute("select count(*) from account").fetchall()
        change(copy, "update account set name = 'me' where account = 'alice'")
        with pytest.raises(StorageFailed, match="another program reads"):
            settle(copy)
    settle(copy)
    assert not copy.with_name("copy.sqlite-wal").exists()
    assert rows(copy, "select name from account where account = 'alice'") == [("me",)]


# --------------------------------------------------------------------------------------------------------- carrying


@dataclass
class Past:
    """A mirror and an older copy of it, which is to take its place."""

    mirror: Mirror
    clock: ManualClock
    copy: Path

    @property
    def alice(self) -> AccountMirror:
        return self.mirror.of("alice")

    async def spend(self, number: int, *, account: str = "alice") -> None:
        """So many requests of an account reach upstream, a second apart."""
        for _ in range(number):
            self.clock.move(seconds=1)
            request = await self.mirror.requests.take(account, "GET", "conversations")
            await request.arrived(200)

    def save(self) -> None:
        """Make the copy, as of now."""
        snapshot(self.mirror.path, self.copy)

    def carry(self) -> CarriedOver:
        """Teach the copy what the mirror knows."""
        return carry_over(self.copy, self.mirror.path, now=self.clock.now())


@pytest.fixture
def past(tmp_path: Path, mirror: Mirror, clock: ManualClock) -> Past:
    """The mirror of Alice and Bob, and no copy yet."""
    (tmp_path / "old").mkdir()
    return Past(mirror, clock, tmp_path / "old" / "mirror.sqlite")


def restored(past: Past) -> Any:
    """The copy, opened as the mirror that it is now."""
    return opening(past.copy.parent, past.clock)


async def test_no_token_comes_back_with_an_older_log(past: Past) -> None:
    """Fifty were spent, some of them before the copy was made: none is left in it, until the hour is over."""
    await past.spend(5)
    past.save()
    await past.spend(45)
    assert past.carry() == CarriedOver(is_current_readable=True, continues=True, blocked=(), deleted=0)
    async with restored(past) as opened:
        assert (await opened.requests.budget("alice")).remaining == 0
        assert (await opened.requests.budget("bob")).remaining == 50
        with pytest.raises(BudgetSpent):
            await opened.requests.take("alice", "GET", "conversations")
        past.clock.move(seconds=3600)
        assert (await opened.requests.budget("alice")).remaining == 50


async def test_a_request_that_has_changed_hands_is_counted_once(past: Past) -> None:
    """A check whose token was refused after the copy was made stays nobody's."""
    request = await past.mirror.requests.take("alice", "GET", "conversations", is_check=True)
    past.save()
    await past.mirror.requests.disown(request)
    past.carry()
    assert rows(past.copy, "select account, id from upstream_request") == [("", request.id)]


async def test_a_limit_of_upstreams_lasts_as_long_as_it_was_to(past: Past) -> None:
    """For the account as for a model, in its words; one that the copy knows to last longer is not cut short."""
    await past.mirror.requests.block("bob", seconds=900, body=b'"later"')
    past.save()
    await past.mirror.requests.block("alice", seconds=600, body=b'"wait"')
    await past.mirror.requests.block_model("alice", "gpt-5", seconds=600, body=b'"cap"')
    change(past.mirror.path, "update account set blocked_until = null where account = 'bob'")
    past.carry()
    assert rows(past.copy, "select account, blocked_until, blocked_body from account order by 1") == [
        ("alice", NOON + 10 * MINUTE, b'"wait"'),
        ("bob", NOON + 15 * MINUTE, b'"later"'),
    ]
    async with restored(past) as opened:
        with pytest.raises(UpstreamLimit):
            await opened.requests.check_model("alice", "gpt-5")


async def test_a_clock_that_was_set_forward_meanwhile_is_noticed(past: Past) -> None:
    """The reading of the newer file goes with its log: the restored one knows how far the clock has jumped."""
    past.save()
    await past.spend(50)
    past.carry()
    past.clock.jump(seconds=7200)
    async with restored(past) as opened:
        assert (await opened.requests.budget("alice")).remaining == 0


async def test_an_account_that_came_since_is_known(past: Past) -> None:
    """With its limit and what it has spent; a name that somebody else has in the copy stays theirs."""
    await past.mirror.accounts.name("alice", "me")
    past.save()
    await past.mirror.accounts.name("alice", "somebody")
    past.clock.move(seconds=1)
    await past.mirror.accounts.accept("carol", b"carol", email="carol@home", expires_at=NOON + DAY)
    await past.mirror.accounts.name("carol", "me")
    await past.mirror.requests.block("carol", seconds=60)
    await past.spend(3, account="alice")
    past.carry()
    assert rows(past.copy, "select account, name, email, blocked_until from account order by 1") == [
        ("alice", "me", "alice@home", None),
        ("bob", None, "bob@home", None),
        ("carol", None, "carol@home", NOON + 61 * SECOND),
    ]


async def test_a_key_that_was_revoked_stays_revoked(past: Past) -> None:
    """And one that was made since goes on working: credentials are those of today."""
    await past.mirror.accounts.create_key("alice", b"stolen", name="laptop")
    past.save()
    await past.mirror.accounts.revoke_key("laptop")
    await past.mirror.accounts.create_key("alice", b"new", name="desk")
    past.carry()
    async with restored(past) as opened:
        assert await opened.accounts.find(b"stolen") is None
        assert (await opened.accounts.find(b"new")) is not None


async def test_what_was_deleted_since_stays_deleted_and_can_be_brought_back(past: Past) -> None:
    """For thirty days from now, also where the newer mirror has nothing of it left; of what the copy does not have,
    the tombstone is there.
    """
    for identifier in ("kept", "gone", "purged"):
        change(past.mirror.path, "insert into conversation (account, id, title) values ('alice', ?, 'T')", identifier)
    past.save()
    change(past.mirror.path, "insert into conversation (account, id) values ('alice', 'later')")
    for identifier in ("purged", "later"):
        await past.alice.deletions.bury(identifier)
    await past.mirror.purge_deleted(before=past.clock.now() + 1)
    past.clock.move(seconds=40 * 86_400)
    await past.alice.deletions.bury("gone")
    assert past.carry().deleted == 2
    async with restored(past) as opened:
        buried = {each.id: each.deleted_at for each in await opened.of("alice").deletions.buried()}
        assert buried == {"gone": past.clock.now(), "purged": past.clock.now(), "later": NOON}
        await opened.of("alice").deletions.undelete("purged")
    assert rows(past.copy, "select title from conversation where id = 'purged' and deleted_at is null") == [("T",)]


async def test_what_was_brought_back_since_is_not_deleted_again(past: Past) -> None:
    """Else the next purge would take what somebody wanted to keep."""
    change(past.mirror.path, "insert into conversation (account, id) values ('alice', 'mine')")
    await past.alice.deletions.bury("mine")
    past.save()
    await past.alice.deletions.undelete("mine")
    past.carry()
    assert rows(past.copy, "select id, deleted_at, is_deleted_upstream from conversation") == [("mine", None, 1)]


async def test_a_title_is_not_pushed_a_second_time(past: Past) -> None:
    """One that waited when the copy was made and was pushed since stays as it is by now, whatever that is; one that
    waits today still does.
    """
    for identifier, title, waits in (("a", "old", 1), ("b", "old", 0), ("c", "old", 0)):
        change(
            past.mirror.path,
            "insert into conversation (account, id, title, is_title_pending) values ('alice', ?, ?, ?)",
            *(identifier, title, waits),
        )
    past.save()
    for identifier, title, waits in (("a", "new", 0), ("b", "new", 1), ("c", "new", 0)):
        change(
            past.mirror.path,
            "update conversation set title = ?, is_title_pending = ? where id = ?",
            *(title, waits, identifier),
        )
    past.carry()
    assert rows(past.copy, "select id, title, is_title_pending from conversation order by id") == [
        ("a", "new", 0),
        ("b", "new", 1),
        ("c", "old", 0),
    ]


async def test_a_prompt_that_was_sent_since_is_not_sent_again(past: Past) -> None:
    """Its key is known; what became of it the copy cannot know."""
    past.save()
    change(
        past.mirror.path,
        "insert into ask (account, id, conversation, prompt_node, state, asked_at, idempotency_digest, request_digest)"
        " values ('alice', 'ask', 'c', 'p', 'answered', ?, x'01', x'02')",
        past.clock.now(),
    )
    past.carry()
    async with restored(past) as opened:
        record = await opened.of("alice").asks.find(b"\1")
        assert record is not None
        assert record.state.value == "uncertain"


@pytest.mark.parametrize("current", [None, b"", b"SQLite format 3\0" + b"?" * 5_000, b"?" * 5_000])
async def test_where_nothing_is_known_of_the_last_hour_nothing_is_asked_for_one(
    past: Past, tmp_path: Path, current: bytes | None
) -> None:
    """With no mirror, an empty one, or one that cannot be read: every account waits, and everything else is there."""
    await past.mirror.accounts.create_key("alice", b"key", name="laptop")
    await past.mirror.requests.block("bob", seconds=7200, body=b'"long"')
    past.save()
    path = None
    if current is not None:
        path = tmp_path / "now.sqlite"
        path.write_bytes(current)
    carried = carry_over(past.copy, path, now=past.clock.now())
    assert carried == CarriedOver(is_current_readable=False, continues=False, blocked=("alice", "bob"), deleted=0)
    assert rows(past.copy, "select account, blocked_until, blocked_body from account order by 1") == [
        ("alice", NOON + HOUR, None),
        ("bob", NOON + 2 * HOUR, b'"long"'),
    ]
    async with restored(past) as opened:
        assert await opened.accounts.find(b"key") is not None
        past.clock.move(seconds=3601)
        assert (await opened.requests.budget("alice")).remaining == 50


async def test_a_mirror_of_another_machine_gives_its_log_and_nothing_else(past: Past, tmp_path: Path) -> None:
    """It cannot know what was revoked here. What it has logged for longer than an hour is all of the hour, what it has
    met since is not.
    """
    await past.mirror.accounts.create_key("alice", b"key", name="laptop")
    past.save()
    past.clock.move(seconds=60)
    (tmp_path / "other").mkdir()
    async with opening(tmp_path / "other", past.clock) as other:
        await other.accounts.accept("alice", b"token", email=None, expires_at=NOON + DAY)
        past.clock.move(seconds=3600)
        await other.accounts.accept("bob", b"token of bob", email=None, expires_at=NOON + DAY)
        for _ in range(20):
            await other.requests.take("alice", "GET", "conversations")
        change(other.path, "insert into conversation (account, id, deleted_at) values ('alice', 'c', 1)")
        carried = carry_over(past.copy, other.path, now=past.clock.now())
    assert carried == CarriedOver(is_current_readable=True, continues=False, blocked=("bob",), deleted=0)
    async with restored(past) as opened:
        assert await opened.accounts.find(b"key") is not None
        assert (await opened.requests.budget("alice")).remaining == 30
        assert (await opened.requests.budget("bob")).remaining == 0
        assert await opened.of("alice").deletions.buried() == []


async def test_another_programs_database_is_not_replaced(past: Past, tmp_path: Path) -> None:
    """The copy stays as it was, and so does that."""
    past.save()
    before = past.copy.read_bytes()
    change(tmp_path / "notes.sqlite", "create table notes (note text)")
    with pytest.raises(StartError, match="another program"):
        carry_over(past.copy, tmp_path / "notes.sqlite", now=past.clock.now())
    assert past.copy.read_bytes() == before


async def test_a_log_that_is_damaged_in_the_middle_teaches_nothing(past: Past, tmp_path: Path) -> None:
    """Half of it would be taken for all: the copy then knows that it knows nothing."""
    past.save()
    await past.spend(40)
    broken = snapshot(past.mirror.path, tmp_path / "broken.sqlite")
    (page,) = next(iter(rows(broken, "select rootpage from sqlite_schema where name = 'upstream_request'")))
    content = bytearray(broken.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
    broken.write_bytes(content)
    carried = carry_over(past.copy, broken, now=past.clock.now())
    assert carried.blocked == ("alice", "bob")
    assert not carried.is_current_readable
    assert rows(past.copy, "select count(*) from upstream_request") == [(0,)]
    settle(broken)
