# SPDX-License-Identifier: GPL-2.0-or-later
"""kill -9 in a restore, before each of its steps on the disk: a start finds the old mirror or the new one, whole, and
the same restore, begun again, ends as if nothing had been.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

from chatgpt_rest.auth import read_digest_key
from chatgpt_rest.clock import DAY, SystemClock
from chatgpt_rest.mirror import AssetFiles, Mirror
from tests.mirrors import opening
from tests.process import CHECKOUT, PATIENCE_SECONDS, command, environment
from tests.rows import rows

BASE_URL: Final = "http://127.0.0.1:9/"
PICTURE: Final = b"a picture"
KILLED: Final = """
import os, signal, sys

folder, victim, sys.argv = sys.argv[1], int(sys.argv[2]), ["server.py", *sys.argv[3:]]
events = []

def step(event, arguments):
    if event in ("open", "os.link", "os.mkdir", "os.remove", "os.rename") and str(arguments[0]).startswith(folder):
        events.append(event)
        if len(events) == victim:
            os.kill(os.getpid(), signal.SIGKILL)

from chatgpt_rest.cli import main
sys.addaudithook(step)
try:
    main()
finally:
    print(*events)
"""
"""The program, told of its own steps on the disk, each before it is done."""


@dataclass(frozen=True)
class Scene:
    """A mirror all of whose tokens are spent, and a backup that is to take its place. What the mirror holds before
    and after, and the API keys and the key file that there are to be in the end.
    """

    folder: Path
    backup: Path
    before: set[str]
    keys: list[str]
    key: bytes

    async def restore(self, folder: Path, *, killed_before: int = 0) -> tuple[int, str]:
        """Restore in that folder, in a process that is killed before this step. It is not measured: one that is
        killed tells nothing.
        """
        environ = environment(folder, BASE_URL)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", KILLED, str(folder), str(killed_before), "restore", str(self.backup)),
            cwd=CHECKOUT,
            env={name: value for name, value in environ.items() if not name.startswith("COVERAGE_")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                out, _ = await process.communicate()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
        assert process.returncode is not None
        return process.returncode, out.decode()


def made(folder: Path) -> Path:
    """A new folder."""
    folder.mkdir()
    return folder


@asynccontextmanager
async def mirror_in(folder: Path) -> AsyncIterator[Mirror]:
    """The mirror, as a server would open it."""
    read_digest_key(folder / "mirror.sqlite.key")
    async with opening(folder, SystemClock()) as mirror:
        yield mirror


async def fill(folder: Path, word: str) -> None:
    """Add a conversation and an API key that are called so."""
    async with mirror_in(folder) as mirror:
        await mirror.accounts.accept("alice", b"token", email=None, expires_at=SystemClock().now() + DAY)
        await mirror.accounts.create_key("alice", word.encode(), name=word)
    with closing(sqlite3.connect(folder / "mirror.sqlite")) as connection, connection:
        connection.execute("insert into conversation (account, id) values ('alice', ?)", (word,))


async def spend_all(folder: Path) -> None:
    """Take every token that Alice has."""
    async with mirror_in(folder) as mirror:
        while await mirror.requests.has_left("alice"):
            await mirror.requests.take("alice", "GET", "conversations")


@pytest.fixture(params=["the same mirror, later", "another machine's"])
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    """A backup with a picture in it, and what is to be replaced: grown out of it, or none of its kin."""
    folder, backup = made(tmp_path / "then"), tmp_path / "backup.zip"
    await fill(folder, "then")
    digest = sha256(PICTURE).digest()
    picture = AssetFiles(folder / "assets").path(digest)
    picture.parent.mkdir(parents=True)
    picture.write_bytes(PICTURE)
    with closing(sqlite3.connect(folder / "mirror.sqlite")) as connection, connection:
        connection.execute(
            "insert into asset (account, id, digest, size_bytes, media_type) values ('alice', 'f', ?, 9, 'x/y')",
            (digest,),
        )
    done = await command("backup", str(backup), environ=environment(folder, BASE_URL))
    assert (done.status, done.err) == (0, "")
    key = (folder / "mirror.sqlite.key").read_bytes()
    if request.param == "another machine's":
        folder = made(tmp_path / "other")
        await fill(folder, "now")
        await spend_all(folder)
        return Scene(folder, backup, {"now"}, ["then"], key)
    await fill(folder, "now")
    async with mirror_in(folder) as mirror:
        await mirror.accounts.revoke_key("then")
    await spend_all(folder)
    return Scene(folder, backup, {"then", "now"}, ["now"], key)


def content_of(folder: Path) -> set[str]:
    """The conversations of a mirror."""
    return {row[0] for row in rows(folder / "mirror.sqlite", "select id from conversation")}


def files_in(folder: Path) -> list[str]:
    """What lies there, but for what SQLite, a lock or an older mirror leaves."""
    found = (str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in found if not re.search(r"-wal$|-shm$|\.lock$|\.before-restore-", name))


async def test_a_restore_that_is_killed_leaves_the_old_mirror_or_the_new_one(scene: Scene, tmp_path: Path) -> None:
    """A server that starts afterwards finds one of them, whole and with no token left. Restored once more, all is as
    if nobody had disturbed it, and what was there is kept.
    """
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(scene.folder, undisturbed)
    status, told = await scene.restore(undisturbed)
    assert status == 0, told
    steps = told.splitlines()[-1].split()
    changing = [number for number, step in enumerate(steps, start=1) if step in {"os.link", "os.rename"}]
    for victim in (changing[0] - 2, *changing, changing[-1] + 1):
        folder = tmp_path / f"killed-{victim}"
        shutil.copytree(scene.folder, folder)
        status, told = await scene.restore(folder, killed_before=victim)
        assert (status, told) == (-signal.SIGKILL, "")
        async with mirror_in(folder) as mirror:
            assert await mirror.faults() == []
            assert not await mirror.requests.has_left("alice")
        assert content_of(folder) == (scene.before if victim <= changing[-1] else {"then"})
        status, told = await scene.restore(folder)
        assert status == 0, told
        async with mirror_in(folder) as mirror:
            assert not await mirror.requests.has_left("alice")
            assert [key.name for key in await mirror.accounts.keys()] == scene.keys
        assert content_of(folder) == {"then"}
        assert (folder / "mirror.sqlite.key").read_bytes() == scene.key
        assert files_in(folder) == files_in(undisturbed)
        kept = [file for file in folder.glob("*.before-restore-*") if re.search(r"Z\+?$", file.name)]
        assert scene.before in [{row[0] for row in rows(file, "select id from conversation")} for file in kept]
