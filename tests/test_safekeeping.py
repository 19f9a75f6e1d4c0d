# SPDX-License-Identifier: GPL-2.0-or-later
"""`server.py backup` and `server.py restore` as processes: beside a running server, without one, on disks that fill."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import stat
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from rich.console import Console

from chatgpt_rest.auth import read_digest_key
from chatgpt_rest.clock import DAY, SystemClock
from chatgpt_rest.config import load_config
from chatgpt_rest.mirror import MIGRATIONS, AssetFiles
from chatgpt_rest.mirror.database import open_database
from chatgpt_rest.safekeeping import restore_now
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.disks import small_disk
from tests.mirrors import opening
from tests.process import PATIENCE_SECONDS, Finished, Running, command, environment, started
from tests.rows import rows

PICTURE = b"a picture" * 100


@dataclass
class Site:
    """A folder for a mirror, a ChatGPT behind it, and a place for backups."""

    chatgpt: SimulatedChatGPT
    base_url: str
    folder: Path
    backup: Path

    @property
    def environ(self) -> dict[str, str]:
        return environment(self.folder, self.base_url)

    async def run(self, *arguments: str) -> Finished:
        return await command(*arguments, environ=self.environ)

    def left_behind(self) -> list[str]:
        """What lies beside the backup, or where it should be."""
        return sorted(file.name for file in self.backup.parent.iterdir())

    def moved(self, name: str) -> Site:
        """The same on another machine, on which nothing is yet."""
        return Site(self.chatgpt, self.base_url, self.folder.with_name(name), self.backup)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A place where nothing is yet, and Alice's two conversations at ChatGPT."""
    chatgpt = SimulatedChatGPT(conversations=False)
    chatgpt.alice.many(2)
    (tmp_path / "backups").mkdir()
    async with chatgpt.serving() as base_url:
        yield Site(chatgpt, base_url, tmp_path / "mirror", tmp_path / "backups" / "one.zip")


@pytest.fixture
async def server(site: Site) -> AsyncIterator[Running]:
    """A server over it, that knows Alice."""
    async with started(environ=site.environ) as running:
        await get(await running.address(), site.chatgpt.alice.token())
        yield running


async def get(address: str, credential: str, path: str = "/conversations") -> tuple[int, Any]:
    """Read as a client would."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(address + path, headers={"Authorization": credential}) as response,
    ):
        return response.status, await response.json()


def put_picture(folder: Path) -> Path:
    """An asset of Alice's, written past the program."""
    digest = sha256(PICTURE).digest()
    file = AssetFiles(folder / "assets").path(digest)
    file.parent.mkdir(parents=True)
    file.write_bytes(PICTURE)
    with closing(sqlite3.connect(folder / "mirror.sqlite")) as connection, connection:
        connection.execute(
            "insert into asset (account, id, digest, size_bytes, media_type)"
            " select account, 'file-1', ?, ?, 'image/png' from account",
            (digest, len(PICTURE)),
        )
    return file


async def make_mirror(site: Site) -> None:
    """The mirror of Alice's two conversations and a request that was sent, which nobody has open."""
    clock, alice = SystemClock(), site.chatgpt.alice.user_id
    async with opening(site.folder, clock) as mirror:
        read_digest_key(site.folder / "mirror.sqlite.key")
        await mirror.accounts.accept(alice, b"token", email=None, expires_at=clock.now() + DAY)
        await mirror.requests.take(alice, "GET", "conversations")
    with closing(sqlite3.connect(site.folder / "mirror.sqlite")) as connection, connection:
        connection.execute("insert into conversation (account, id) values (?, 'one'), (?, 'two')", (alice, alice))


async def until(is_so: Callable[[], bool]) -> None:
    """Let others run until it is."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not is_so():  # noqa: ASYNC110 - what is waited for happens in a thread, on the disk
            await asyncio.sleep(0)


# ------------------------------------------------------------------------------------------------------ there and back


async def test_a_backup_brings_everything_to_another_machine(site: Site, server: Running) -> None:
    """Made beside a running server, restored where nothing is: the API key reads the same there, with ChatGPT being
    asked nothing. The file is its owner's alone, and holds no key and no token in clear.
    """
    made = await site.run("key", "create", "laptop", "--account", site.chatgpt.alice.user_id)
    key = made.out.strip()
    put_picture(site.folder)
    before = await get(await server.address(), key)
    told = await site.run("backup", str(site.backup))
    assert (told.status, told.err) == (0, "")
    assert told.out.startswith(f"{site.backup}: 1 account, 2 conversations, 0 messages, 1 file; 0.0 MiB, read back ")
    assert site.left_behind() == ["one.zip"]
    assert stat.S_IMODE(site.backup.stat().st_mode) == 0o600
    with zipfile.ZipFile(site.backup) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert key.encode() not in content
    assert site.chatgpt.alice.token().encode() not in content
    assert (await server.end(signal.SIGTERM)) == 0
    there = site.moved("elsewhere")
    restored = await there.run("restore", str(site.backup))
    assert (restored.status, restored.err) == (0, "")
    assert f"ChatGPT is asked nothing for {site.chatgpt.alice.user_id}\n" in restored.out
    received = site.chatgpt.received()
    async with started(environ=there.environ) as running:
        assert await get(await running.address(), key) == before
        status, budget = await get(await running.address(), key, "/sync")
        assert (status, budget["budget"]["remaining"]) == (200, 0)
    assert site.chatgpt.received() == received
    digest = sha256(PICTURE).digest()
    assert AssetFiles(there.folder / "assets").path(digest).read_bytes() == PICTURE
    for file in (there.folder, *there.folder.rglob("*")):
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


async def test_a_restore_goes_back_and_keeps_what_it_replaces(site: Site) -> None:
    """What came since is gone, the older mirror stands beside it, whole; and requests that were spent stay spent."""
    await make_mirror(site)
    await site.run("backup", str(site.backup))
    spent = rows(site.folder / "mirror.sqlite", "select count(*) from upstream_request")
    picture = put_picture(site.folder)
    with closing(sqlite3.connect(site.folder / "mirror.sqlite")) as connection, connection:
        connection.execute("update conversation set title = 'changed', deleted_at = iif(id = 'one', 1, null)")
        connection.execute(
            "insert into upstream_request (account, id, taken_at, arrived_by, method, path)"
            " select account, 'more', 0, 0, 'GET', 'x' from account"
        )
    restored = await site.run("restore", str(site.backup))
    assert (restored.status, restored.err) == (0, "")
    assert "requests of the last hour stay counted\n" in restored.out
    assert "what was revoked since the backup stays revoked\n" in restored.out
    assert "deleted since the backup, and so still: 1 conversation; to bring back: server.py undelete\n" in restored.out
    (kept,) = site.folder.glob("mirror.sqlite.before-restore-*Z")
    assert f"what was here is kept as {kept}; remove it when it is not wanted any more\n" in restored.out
    titles = "select distinct title is 'changed' from conversation"
    assert (rows(kept, titles), rows(site.folder / "mirror.sqlite", titles)) == ([(1,)], [(0,)])
    assert rows(kept, "pragma integrity_check") == [("ok",)]
    async with opening(site.folder, SystemClock()) as mirror:
        await mirror.purge_deleted(before=0)
    assert not picture.exists()
    assert AssetFiles(Path(f"{kept}.assets")).path(sha256(PICTURE).digest()).read_bytes() == PICTURE
    counted = rows(site.folder / "mirror.sqlite", "select count(*) from upstream_request")
    assert counted == [(spent[0][0] + 1,)]


async def test_a_backup_after_a_kill_has_what_was_acknowledged(site: Site, server: Running) -> None:
    """With nobody there, and a log that nobody has brought into the file."""
    await server.end(signal.SIGKILL)
    assert (site.folder / "mirror.sqlite-wal").stat().st_size > 0
    told = await site.run("backup", str(site.backup))
    assert (told.status, told.err) == (0, "")
    assert "1 account, 2 conversations" in told.out


async def test_a_damaged_mirror_is_replaced_and_kept_as_it_is(site: Site) -> None:
    """Its first page is lost, and its log no better: that is kept beside it, and not left where the next one would find
    it.
    """
    await make_mirror(site)
    assert (await site.run("backup", str(site.backup))).status == 0
    database, log = site.folder / "mirror.sqlite", site.folder / "mirror.sqlite-wal"
    lost, logged = b"?" * 4096 + database.read_bytes()[4096:], b"?" * 5000
    database.write_bytes(lost)
    log.write_bytes(logged)
    restored = await site.run("restore", str(site.backup))
    assert (restored.status, restored.err) == (0, "")
    assert f"ChatGPT is asked nothing for {site.chatgpt.alice.user_id}\n" in restored.out
    assert not log.exists()
    (kept,) = site.folder.glob("mirror.sqlite.before-restore-*Z")
    assert (kept.read_bytes(), kept.with_name(f"{kept.name}-wal").read_bytes()) == (lost, logged)
    async with opening(site.folder, SystemClock()) as mirror:
        assert await mirror.faults() == []
        assert [account.conversations for account in await mirror.accounts.all()] == [2]


async def test_an_older_mirror_is_saved_and_comes_up_to_date_at_the_start(site: Site, tmp_path: Path) -> None:
    """A backup is what to make before an upgrade; restored by the newer program, it is said to be older."""
    migrations = tmp_path / "migrations"
    migrations.mkdir()
    for file in sorted(MIGRATIONS.glob("*.sql"))[:2]:
        shutil.copy(file, migrations)
    async with open_database(site.folder / "mirror.sqlite", migrations):
        pass
    (site.folder / "mirror.sqlite.key").write_bytes(b"k" * 32)
    assert (await site.run("backup", str(site.backup))).status == 0
    restored = await site.run("restore", str(site.backup))
    assert "it is of an older version; the next start brings it up to date\n" in restored.out
    async with opening(site.folder, SystemClock()):
        assert rows(site.folder / "mirror.sqlite", "select count(*) from asset") == [(0,)]


# -------------------------------------------------------------------------------------------------------- what is told


async def test_an_asset_that_is_lost_is_named_and_the_backup_made(site: Site) -> None:
    """Status 1, so that whoever runs it at night hears of it; what can be saved is."""
    await make_mirror(site)
    put_picture(site.folder).unlink()
    told = await site.run("backup", str(site.backup))
    assert told.status == 1
    assert (
        f"1 file of conversations could not be put into it, missing or damaged under {site.folder}/assets" in told.err
    )
    assert sha256(PICTURE).hexdigest() in told.err
    there = site.moved("elsewhere")
    restored = await there.run("restore", str(site.backup))
    assert restored.status == 0
    assert "not in the backup: 1 file of conversations\n" in restored.out


async def test_a_restore_beside_a_running_server_is_refused(site: Site, server: Running) -> None:
    """It says which process to stop, and changes nothing."""
    assert (await site.run("backup", str(site.backup))).status == 0
    told = await site.run("restore", str(site.backup))
    assert (told.status, told.out) == (78, "")
    assert f"is in use by process {server.pid}; if that is the server, stop it first" in told.err
    assert (await get(await server.address(), site.chatgpt.alice.token()))[0] == 200


async def test_a_place_that_will_not_do_is_refused(site: Site, tmp_path: Path) -> None:
    """A file that is there, a folder, one that is not there, a name too long, no mirror: a line each, and no trace."""
    nothing = await site.run("backup", str(site.backup))
    assert nothing.status == 78
    assert nothing.err == f"chatgpt_rest: {site.folder}/mirror.sqlite: there is no mirror yet\n"
    assert not site.folder.exists()
    await make_mirror(site)
    site.backup.write_bytes(b"precious")
    for place, reason in (
        (site.backup, "exists already; remove it, or name another file"),
        (tmp_path, "is a folder; name a file in it"),
        (tmp_path / "none" / "one.zip", "there is no such folder"),
        (site.backup.with_name("x" * 250), "File name too long"),
    ):
        told = await site.run("backup", str(place))
        assert (told.status, told.out, told.err.count("\n")) == (1, "", 1)
        assert reason in told.err
    assert site.left_behind() == ["one.zip"]
    assert site.backup.read_bytes() == b"precious"


async def test_a_backup_without_the_key_is_refused(site: Site) -> None:
    """Its API keys would open nothing; it says what to do."""
    await make_mirror(site)
    (site.folder / "mirror.sqlite.key").unlink()
    told = await site.run("backup", str(site.backup))
    assert "mirror.sqlite.key is missing: API keys will open nothing" in told.err
    assert site.left_behind() == []


async def test_two_backups_do_not_write_one_file(site: Site) -> None:
    """The second is told so, and leaves the first alone; what a killed one left is removed."""
    await make_mirror(site)
    partial = site.backup.with_name("one.zip.chatgpt_rest.partial")
    with partial.open("wb") as stream:
        stream.write(b"half a backup" * 100_000)
        stream.flush()
        fcntl.flock(stream, fcntl.LOCK_EX)
        told = await site.run("backup", str(site.backup))
        assert f"another process is making {site.backup}" in told.err
        assert partial.stat().st_size == 1_300_000
    site.backup.with_name("one.zip.chatgpt_rest.partial.sqlite").write_bytes(b"half a snapshot")
    assert (await site.run("backup", str(site.backup))).status == 0
    assert site.left_behind() == ["one.zip"]
    assert site.backup.stat().st_size < 100_000
    assert stat.S_IMODE(site.backup.stat().st_mode) == 0o600


async def test_what_a_killed_backup_left_is_removed_by_the_next(site: Site) -> None:
    """Whatever that one was to be called, its words do not lie about; what a living process writes, and what is not
    ours, stays.
    """
    await make_mirror(site)
    left = ["old[1].zip.chatgpt_rest.partial", "old[1].zip.chatgpt_rest.partial.sqlite"]
    left += [f"{left[1]}-journal", "live.zip.chatgpt_rest.partial", "live.zip.chatgpt_rest.partial.sqlite"]
    for name in (*left, "film.partial"):
        site.backup.with_name(name).write_bytes(b"in clear")
    with site.backup.with_name("live.zip.chatgpt_rest.partial").open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert (await site.run("backup", str(site.backup))).status == 0
    assert site.left_behind() == sorted(["film.partial", *left[3:], "one.zip"])


async def test_a_backup_that_is_damaged_changes_nothing(site: Site) -> None:
    """In its very last byte that counts: one line, and the mirror is as it was, to the byte."""
    await make_mirror(site)
    put_picture(site.folder)
    assert (await site.run("backup", str(site.backup))).status == 0
    content = bytearray(site.backup.read_bytes())
    content[content.rindex(PICTURE) + len(PICTURE) - 1] ^= 0xFF
    site.backup.write_bytes(content)
    before = {file.name: file.read_bytes() for file in site.folder.iterdir() if file.is_file()}
    told = await site.run("restore", str(site.backup))
    assert (told.status, told.out, told.err.count("\n")) == (1, "", 1)
    assert "the backup is damaged: assets/" in told.err
    after = {file.name: file.read_bytes() for file in site.folder.iterdir() if file.is_file()}
    assert {**after, "mirror.sqlite.lock": before["mirror.sqlite.lock"]} == before


def doctored(backup: Path, change: Callable[[dict[str, bytes], dict[str, Any]], None]) -> None:
    """Change the files of a backup and its list."""
    with zipfile.ZipFile(backup) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    manifest = json.loads(files.pop("backup.json"))
    change(files, manifest)
    with zipfile.ZipFile(backup, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr("backup.json", json.dumps(manifest))


async def test_a_backup_that_leaves_out_an_asset_is_refused(site: Site) -> None:
    """One that its database names, and its list neither has nor calls missing: somebody has taken it out of both."""
    await make_mirror(site)
    put_picture(site.folder)
    assert (await site.run("backup", str(site.backup))).status == 0

    def leave_out(files: dict[str, bytes], manifest: dict[str, Any]) -> None:
        (name,) = (each for each in files if each.startswith("assets/"))
        del files[name]
        manifest["members"] = [each for each in manifest["members"] if each["name"] != name]

    doctored(site.backup, leave_out)
    before = (site.folder / "mirror.sqlite").read_bytes()
    told = await site.run("restore", str(site.backup))
    assert (told.status, told.out, told.err.count("\n")) == (1, "", 1)
    assert f"its database names what is neither in it nor said to be missing: {sha256(PICTURE).hexdigest()}" in told.err
    assert (site.folder / "mirror.sqlite").read_bytes() == before


async def test_a_backup_with_a_trigger_is_refused(site: Site, tmp_path: Path) -> None:
    """However right all its digests are; nothing is replaced."""
    await make_mirror(site)
    assert (await site.run("backup", str(site.backup))).status == 0

    def set_trap(files: dict[str, bytes], manifest: dict[str, Any]) -> None:
        trapped = tmp_path / "trapped.sqlite"
        trapped.write_bytes(files["mirror.sqlite"])
        with closing(sqlite3.connect(trapped)) as connection, connection:
            connection.execute("create trigger evil after insert on node begin delete from conversation; end")
        files["mirror.sqlite"] = content = trapped.read_bytes()
        manifest["members"][0] |= {"size_bytes": len(content), "sha256": sha256(content).hexdigest()}

    doctored(site.backup, set_trap)
    told = await site.run("restore", str(site.backup))
    assert (told.status, told.out, told.err.count("\n")) == (1, "", 1)
    assert "the database holds trigger 'evil', which this program never makes" in told.err


async def test_a_link_is_not_replaced(site: Site, tmp_path: Path) -> None:
    """What it points to lies elsewhere, and so would all that belongs to it."""
    await make_mirror(site)
    assert (await site.run("backup", str(site.backup))).status == 0
    (site.folder / "mirror.sqlite").rename(tmp_path / "real.sqlite")
    (site.folder / "mirror.sqlite").symlink_to(tmp_path / "real.sqlite")
    told = await site.run("restore", str(site.backup))
    assert "is a link; name the file itself with [mirror] path" in told.err


# --------------------------------------------------------------------------------------------------- stopping and disks


async def test_a_backup_that_is_interrupted_leaves_nothing(site: Site) -> None:
    """By Ctrl-C, in the middle of a large file; the status is that of every program that a signal ends."""
    await make_mirror(site)
    with put_picture(site.folder).open("r+b") as picture:
        picture.truncate(2**40)
    async with started("backup", str(site.backup), environ=site.environ) as running:
        await until(lambda: "one.zip.chatgpt_rest.partial" in site.left_behind())
        assert await running.end(signal.SIGINT) == 128 + signal.SIGINT
    assert site.left_behind() == []


async def test_a_restore_that_is_cancelled_changes_nothing(site: Site) -> None:
    """Nothing of what was laid out stays beside the mirror."""
    await make_mirror(site)
    put_picture(site.folder)
    assert (await site.run("backup", str(site.backup))).status == 0
    with AssetFiles(site.folder / "assets").path(sha256(PICTURE).digest()).open("r+b") as picture:
        picture.truncate(2**40)
    inode = (site.folder / "mirror.sqlite").stat().st_ino
    told = StringIO()
    work = asyncio.create_task(
        restore_now(load_config(None, site.environ), SystemClock(), Console(file=told), site.backup)
    )
    # By now it reads the picture that is here, which ends never.
    await until(lambda: (site.folder / "mirror.sqlite.lock").read_bytes() == f"{os.getpid()}\n".encode())
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (site.folder / "mirror.sqlite").stat().st_ino == inode
    assert not list(site.folder.glob("*restor*"))
    assert told.getvalue() == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
async def test_a_disk_without_room_is_told_beforehand(site: Site, tmp_path: Path) -> None:
    """For a backup and for a restore, with what there is and what is needed."""
    await make_mirror(site)
    with closing(sqlite3.connect(site.folder / "mirror.sqlite")) as connection, connection:
        connection.execute(
            "insert into export_file (account, name, content) select account, 'f', ? from account",
            (os.urandom(3_000_000),),
        )
    assert (await site.run("backup", str(site.backup))).status == 0
    with small_disk(tmp_path / "disk", size_mib=2) as disk:
        told = await site.run("backup", str(disk / "one.zip"))
        assert (told.status, told.out) == (1, "")
        assert f"{disk} has room for 2.0 MiB, and " in told.err
        there = Site(site.chatgpt, site.base_url, disk / "mirror", site.backup)
        told = await there.run("restore", str(site.backup))
        assert (told.status, told.out) == (1, "")
        assert f"{disk}/mirror has room for " in told.err
        assert not [file for file in disk.rglob("*") if file.is_file() and file.stat().st_size > 10]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
async def test_a_disk_that_fills_up_meanwhile_is_left_as_it_was(site: Site, tmp_path: Path) -> None:
    """What compresses badly needs more than the estimate: one line, and nothing stays."""
    await make_mirror(site)
    with closing(sqlite3.connect(site.folder / "mirror.sqlite")) as connection, connection:
        connection.execute(
            "insert into export_file (account, name, content) select account, 'f', ? from account",
            (os.urandom(3_000_000),),
        )
    with small_disk(tmp_path / "disk", size_mib=5) as disk:
        told = await site.run("backup", str(disk / "one.zip"))
        assert (told.status, told.out) == (1, "")
        assert told.err == f"chatgpt_rest: the disk that holds {disk} is full\n"
        assert list(disk.iterdir()) == []
