# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrations: each whole or not at all, a copy before the first new one, and nobody else's file is ever touched."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from chatgpt_rest.errors import StartError
from chatgpt_rest.mirror import MIGRATIONS, Counts, Taken
from chatgpt_rest.mirror.database import open_database
from chatgpt_rest.mirror.migrations import APPLICATION_ID, migration_files, statements
from tests.house import ManualClock
from tests.incoming import incoming, take
from tests.mirrors import opening
from tests.rows import rows
from tests.shapes import message

FIRST = "-- First.\ncreate table one (a text) strict;\n"


# What the first version could leave behind, as it wrote it.
FIRST_MIRROR = """
insert into account (account, email, created_at, listed_at, is_list_whole) values ('alice', 'alice@home', 1, 5, 0);
insert into credential (account, digest, kind, created_at) values ('alice', x'00', 'access_token', 1);
insert into conversation (account, id, title, update_time, current_node, has_content, listed_update_time,
                          fetched_update_time, is_local, deleted_at)
values ('alice', 'here', 'Here', 9000000, 'n1', 1, 9000000, 9500000, 0, null),
       ('alice', 'changed', 'Changed', 12000000, null, 1, 12000000, 9000000, 0, null),
       ('alice', 'listed', 'Listed', 8000000, null, 0, 8000000, null, 0, null),
       ('alice', 'local', 'Local', null, null, 1, null, null, 1, null),
       ('alice', 'buried', 'Buried', 7000000, null, 1, 7000000, 7000000, 0, 5);
insert into node (account, conversation, id, position, parent, message, shape, completeness)
values ('alice', 'here', 'n0', 0, null, null, 1, 2),
       ('alice', 'here', 'n1', 1, 'n0', cast('{"id": "n1", "author": {"role": "user"}, "recipient": "all", "content":
        {"content_type": "text", "parts": ["Hello."]}}' as blob), 1, 2);
insert into ask (account, id, conversation, prompt_node, state, asked_at, request_digest)
values ('alice', 'ask', 'here', 'n1', 'answered', 3, x'01');
insert into upstream_request (account, id, taken_at, arrived_by, method, path, outcome)
values ('alice', 'request', 3, 4, 'GET', 'conversations', '200');
"""

OLD_COLUMNS = {
    "account": "account, email, created_at, listed_at, is_list_whole",
    "credential": "account, digest, kind, created_at",
    "conversation": "account, id, title, update_time, current_node, has_content, listed_update_time, "
    "fetched_update_time, is_local, deleted_at",
    "node": "account, conversation, id, position, parent, message, shape, completeness",
    "ask": "account, id, conversation, prompt_node, state, asked_at, request_digest",
    "upstream_request": "account, id, taken_at, arrived_by, method, path, outcome",
}


def old_rows(path: Path, table: str) -> list[tuple[object, ...]]:
    """What the first version knew of a table."""
    return rows(path, f"select {OLD_COLUMNS[table]} from {table} order by 1, 2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one migration."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_one.sql").write_text(FIRST, encoding="utf-8")
    return folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the mirror is to be."""
    return tmp_path / "state" / "mirror.sqlite"


async def migrate(path: Path, folder: Path) -> None:
    """Open and close the mirror."""
    async with open_database(path, folder):
        pass


def tables(path: Path) -> list[str]:
    """The names of the tables in the file."""
    return [row[0] for row in rows(path, "select name from sqlite_schema where type = 'table' order by name")]


def version(path: Path) -> int:
    """The number of the last migration that the file has seen."""
    ((number,),) = rows(path, "pragma user_version")
    return int(number)


def content(path: Path) -> bytes:
    """Every byte of a file."""
    return path.read_bytes()


def put(path: Path, content: bytes) -> None:
    """Make a file in a folder of its own."""
    path.parent.mkdir()
    path.write_bytes(content)


def make_database(path: Path, *statements: str) -> bytes:
    """A database that is not ours; its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return path.read_bytes()


# ------------------------------------------------------------------------------------------------------------- applied


async def test_a_new_mirror_gets_every_migration(path: Path, folder: Path) -> None:
    """The file says which program it belongs to and how far it came, and there is nothing to back up."""
    await migrate(path, folder)
    assert sorted(each.name for each in path.parent.iterdir()) == ["mirror.sqlite", "mirror.sqlite.lock"]
    assert tables(path) == ["one"]
    assert version(path) == 1
    assert rows(path, "pragma application_id") == [(APPLICATION_ID,)]


async def test_a_mirror_that_is_up_to_date_is_left_as_it_is(path: Path, folder: Path) -> None:
    """The second start changes no byte and makes no copy."""
    await migrate(path, folder)
    before = content(path)
    await migrate(path, folder)
    assert content(path) == before
    assert not list(path.parent.glob("*.before-*"))


async def test_a_copy_is_made_before_the_first_new_migration(path: Path, folder: Path) -> None:
    """It holds what the mirror held, and nobody but the owner can read it."""
    await migrate(path, folder)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("insert into one values ('kept')")
    (folder / "0002_two.sql").write_text("create table two (b text) strict;", encoding="utf-8")
    (folder / "0003_three.sql").write_text("insert into one values ('new');", encoding="utf-8")
    await migrate(path, folder)
    (copy,) = path.parent.glob("*.before-*")
    assert copy.name == "mirror.sqlite.before-0002"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert (tables(copy), version(copy), rows(copy, "select a from one")) == (["one"], 1, [("kept",)])
    assert (tables(path), version(path), rows(path, "select a from one")) == (["one", "two"], 3, [("kept",), ("new",)])


async def test_a_copy_that_was_broken_off_is_made_anew(path: Path, folder: Path) -> None:
    """What an earlier start left half-made is in nobody's way."""
    await migrate(path, folder)
    path.with_name("mirror.sqlite.before-0002.partial").write_bytes(b"half")
    (folder / "0002_two.sql").write_text("create table two (b text) strict;", encoding="utf-8")
    await migrate(path, folder)
    assert [copy.name for copy in path.parent.glob("*.before-*")] == ["mirror.sqlite.before-0002"]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param("create table two (b text) strict; insert into nowhere values (1);", id="a wrong statement"),
        pytest.param("create table two (b text) strict;\ncreate tabel three (c);", id="a typing error"),
        pytest.param("create table two (b text) strict;\ncreate table three (c text", id="no end"),
        pytest.param("create table two (b text) strict;\ninsert into one values ('x'); select 'open;", id="open text"),
    ],
)
async def test_a_migration_that_fails_leaves_nothing(path: Path, folder: Path, broken: str) -> None:
    """All of it or none of it; the start says why, and the next one goes on from the same place."""
    await migrate(path, folder)
    file = folder / "0002_two.sql"
    file.write_text(broken, encoding="utf-8")
    with pytest.raises(StartError):
        await migrate(path, folder)
    assert (tables(path), version(path), rows(path, "select * from one")) == (["one"], 1, [])
    file.write_text("create table two (b text) strict;", encoding="utf-8")
    await migrate(path, folder)
    assert (tables(path), version(path)) == (["one", "two"], 2)


async def test_the_migrations_before_one_that_fails_stay(path: Path, folder: Path) -> None:
    """Each is a transaction of its own."""
    (folder / "0002_two.sql").write_text("create table two (b text) strict;", encoding="utf-8")
    (folder / "0003_three.sql").write_text("create tabel three;", encoding="utf-8")
    with pytest.raises(StartError):
        await migrate(path, folder)
    assert (tables(path), version(path)) == (["one", "two"], 2)


async def test_a_first_migration_that_fails_leaves_an_empty_file(path: Path, folder: Path) -> None:
    """Which the next start can use."""
    (folder / "0001_one.sql").write_text("create table one (a text) strict; nonsense;", encoding="utf-8")
    with pytest.raises(StartError):
        await migrate(path, folder)
    assert tables(path) == []
    (folder / "0001_one.sql").write_text(FIRST, encoding="utf-8")
    await migrate(path, folder)
    assert tables(path) == ["one"]


async def test_a_mirror_of_the_first_version_loses_nothing(path: Path, tmp_path: Path, clock: ManualClock) -> None:
    """Every row of it is there after sync came, only what was stale is fetched anew, and a copy lies beside it."""
    first = tmp_path / "first"
    first.mkdir()
    shutil.copy(MIGRATIONS / "0001_mirror.sql", first)
    await migrate(path, first)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(FIRST_MIRROR)
    before = {table: old_rows(path, table) for table in OLD_COLUMNS}
    async with opening(path.parent, clock) as mirror:
        alice = mirror.of("alice")
        assert await alice.backlog.stale(limit=9) == ["changed", "listed"]
        counts = Counts(known=4, current=2, stale=2, missing_upstream=0, set_aside=0)
        assert await alice.backlog.counts() == counts
        assert [each.id for each in await alice.deletions.buried()] == ["buried"]
        assert [each.listing for each in await alice.listings.all()] == [None] * 3
        assert json.loads((await alice.conversations.messages_json("here")).body)[0]["message"] == "Hello."
    assert {table: old_rows(path, table) for table in OLD_COLUMNS} == before
    (copy,) = path.parent.glob("*.before-*")
    assert copy.name == "mirror.sqlite.before-0002"
    assert {table: old_rows(copy, table) for table in OLD_COLUMNS} == before


# What the second one added to that.
SECOND_MIRROR = """
update conversation set listed_at = 5, fetched_at = 6, met_update_time = 9000000 where id = 'here';
update conversation set failures = 3, failure = 'upstream_broken' where id = 'changed';
update conversation set purged_at = 7, title = null where id = 'buried';
insert into listing (account, list, read_at, swept_at, ground) values ('alice', 'plain', 5, 5, 12000000);
insert into sync (account, swept_at) values ('alice', 5);
"""


async def test_a_mirror_of_the_second_version_loses_nothing(path: Path, tmp_path: Path, clock: ManualClock) -> None:
    """Every row of it is there after the archive came, sync goes on where it was, and a copy lies beside it."""
    second = tmp_path / "second"
    second.mkdir()
    for name in ("0001_mirror.sql", "0002_sync.sql"):
        shutil.copy(MIGRATIONS / name, second)
    await migrate(path, second)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(FIRST_MIRROR + SECOND_MIRROR)
    names = [*OLD_COLUMNS, "listing", "sync"]
    columns = {name: ", ".join(row[1] for row in rows(path, f"pragma table_info({name})")) for name in names}
    queries = [f"select {columns[name]} from {name} order by 1, 2" for name in names]
    before = [rows(path, query) for query in queries]
    async with opening(path.parent, clock) as mirror:
        alice = mirror.of("alice")
        assert await alice.backlog.stale(limit=9) == ["listed"]
        assert await alice.backlog.slim(limit=9) == []
        assert (await alice.listings.all())[0].ground == 12_000_000
    assert [rows(path, query) for query in queries] == before
    (copy,) = path.parent.glob("*.before-*")
    assert copy.name == "mirror.sqlite.before-0003"
    assert [rows(copy, query) for query in queries] == before
    async with opening(path.parent, clock) as mirror:
        taken = await take(mirror.of("alice"), incoming(message("More."), name="listed"))
        assert taken == [Taken("imported", imported=1)]


# -------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["0001_one.sql", "0003_three.sql"], id="a gap"),
        pytest.param(["0002_two.sql"], id="no first one"),
        pytest.param(["0001_one.sql", "0001_two.sql"], id="a number twice"),
        pytest.param(["1_one.sql"], id="a short number"),
        pytest.param(["0001-one.sql"], id="a dash"),
        pytest.param(["0001_One.sql"], id="a capital"),
        pytest.param(["٠٠٠١_one.sql"], id="digits of another script"),
    ],
)
def test_a_misnamed_migration_stops_the_start(tmp_path: Path, names: list[str]) -> None:
    """A gap would never be filled."""
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(StartError, match="migrations are named"):
        migration_files(tmp_path)


def test_without_migrations_the_installation_is_incomplete(tmp_path: Path) -> None:
    """And the start says so."""
    with pytest.raises(StartError, match="incomplete"):
        migration_files(tmp_path)


def test_migrations_go_by_number(tmp_path: Path) -> None:
    """Ten comes after nine, and what is no SQL is none of them."""
    names = [f"{number:04}_step.sql" for number in range(1, 12)]
    for name in (*reversed(names), "README.md"):
        (tmp_path / name).touch()
    assert [file.name for file in migration_files(tmp_path)] == names


def test_the_migrations_of_the_checkout_are_in_order() -> None:
    """And each begins with a line that says why."""
    files = migration_files(MIGRATIONS)
    assert files
    assert all(file.read_text(encoding="utf-8").startswith("-- ") for file in files)


def test_an_installed_package_takes_its_own_migrations(tmp_path: Path) -> None:
    """Not those of another package that left a `migrations` folder beside it."""
    site = tmp_path / "site-packages"
    checkout = MIGRATIONS.parent
    shutil.copytree(checkout / "chatgpt_rest", site / "chatgpt_rest", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(MIGRATIONS, site / "chatgpt_rest" / "migrations")
    (site / "migrations").mkdir()
    (site / "migrations" / "0001_foreign.sql").touch()
    program = "from chatgpt_rest.mirror import MIGRATIONS; print(MIGRATIONS)"
    command = [sys.executable, "-c", program]
    answer = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(site)}, check=True, capture_output=True, text=True, timeout=60
    )
    assert Path(answer.stdout.strip()) == site / "chatgpt_rest" / "migrations"


# --------------------------------------------------------------------------------------------------------- statements


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param("", 0, id="nothing"),
        pytest.param("-- a comment; with a semicolon\n", 0, id="a comment"),
        pytest.param("select 1; select 2;", 2, id="two on a line"),
        pytest.param("select ';';\nselect\n2\n;", 2, id="a semicolon in a text, and one on a line of its own"),
        pytest.param("select 1; -- one;\nselect 2; -- two", 2, id="comments behind"),
        pytest.param(
            "create trigger t after insert on one begin delete from one; delete from one; end;\nselect 1;",
            2,
            id="a trigger",
        ),
    ],
)
def test_a_script_is_read_statement_by_statement(script: str, expected: int) -> None:
    """`executescript` would commit what is open before it runs."""
    assert len(list(statements(script))) == expected


async def test_a_trigger_works_once_migrated(path: Path, folder: Path) -> None:
    """Its semicolons are not taken for its end."""
    trigger = "create trigger t after insert on one begin insert into log values (new.a); delete from one; end;"
    (folder / "0002_log.sql").write_text(f"create table log (a text) strict;\n{trigger}\n", encoding="utf-8")
    await migrate(path, folder)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("insert into one values ('x')")
    assert (rows(path, "select * from one"), rows(path, "select * from log")) == ([], [("x",)])


# ---------------------------------------------------------------------------------------------------------- not ours


@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_another_programs_database_is_left_untouched(path: Path, mode: str) -> None:
    """Not a byte of it changes, and nothing is left beside it but the lock."""
    before = make_database(path, f"pragma journal_mode = {mode}", "create table theirs (a)", "pragma user_version = 1")
    with pytest.raises(StartError, match=r"another program; name another place with \[mirror\] path"):
        await migrate(path, MIGRATIONS)
    assert content(path) == before
    assert sorted(each.name for each in path.parent.iterdir()) == ["mirror.sqlite", "mirror.sqlite.lock"]


async def test_a_newer_schema_is_left_untouched(path: Path, folder: Path) -> None:
    """The start says which versions meet, and what to do."""
    (folder / "0002_two.sql").write_text("create table two (b text) strict;", encoding="utf-8")
    await migrate(path, folder)
    before = content(path)
    (folder / "0002_two.sql").unlink()
    with pytest.raises(StartError, match=r"newer version \(schema 2, this program knows 1\); install"):
        await migrate(path, folder)
    assert content(path) == before


@pytest.mark.parametrize("bytes_", [b"not a database, " * 64, b"SQLite format 3\0" + b"\xff" * 4080, b"x"])
async def test_what_is_no_database_is_left_untouched(path: Path, bytes_: bytes) -> None:
    """A file of anything else under that name stays what it is, a short note too."""
    put(path, bytes_)
    with pytest.raises(StartError, match=r"is no database|cannot be opened as a mirror"):
        await migrate(path, MIGRATIONS)
    assert content(path) == bytes_


async def test_an_empty_file_becomes_a_mirror(path: Path, folder: Path) -> None:
    """A start that died before it wrote anything leaves one."""
    put(path, b"")
    await migrate(path, folder)
    assert tables(path) == ["one"]
