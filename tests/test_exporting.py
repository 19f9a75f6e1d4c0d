# SPDX-License-Identifier: GPL-2.0-or-later
"""`server.py export` as a real process: from the mirror alone, beside a running server, and stopped in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import signal
import sys
import zipfile
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest
from rich.console import Console

from chatgpt_rest.errors import Conflict, MirrorError, NotFound
from chatgpt_rest.exporting import export_now
from chatgpt_rest.mirror import Mirror
from chatgpt_rest.model import ListedConversation, ListPage
from tests.belongings import PNG, add_asset, add_conversation
from tests.house import ManualClock, make_config
from tests.mirrors import opening
from tests.process import CHECKOUT, Finished, command, environment, started
from tests.rows import rows
from tests.shapes import message

NOWHERE = "http://127.0.0.1:9/backend-api/"


@dataclass
class Site:
    """A folder with a mirror, and a folder that is to be exported to."""

    folder: Path
    target: Path
    config: dict[str, str] = field(default_factory=dict)

    @property
    def environ(self) -> dict[str, str]:
        return environment(self.folder, NOWHERE, {"TZ": "Europe/Berlin"})

    async def run(self, form: str, *options: str) -> Finished:
        """The command as a process."""
        return await command("export", str(self.target), "--format", form, *options, environ=self.environ)

    async def export(
        self, form: str, *, since: str | None = None, query: str | None = None, account: str | None = None
    ) -> list[str]:
        """The same within this process. Answers the lines that it prints."""
        console = Console(file=io.StringIO(), soft_wrap=True)
        config = make_config(self.folder, NOWHERE, **self.config)
        await export_now(
            config, ManualClock(), console, self.target, form=form, since=since, query=query, account=account
        )
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().splitlines()

    def files(self) -> set[str]:
        """What a person sees in the target."""
        return {path.name for path in self.target.iterdir() if not path.name.startswith(".")}


async def fill(mirror: Mirror) -> None:
    """Three conversations of Alice's, the second with a picture, and one that is only listed."""
    await mirror.accounts.ensure("alice", email="alice@home")
    await add_conversation(mirror, 1, message("A red bicycle."), create_time=1.0, update_time=1_714_514_400.0)
    await add_conversation(mirror, 2, message("GRÜSSE from\nthe sea."), message("Red, too.", role="user"))
    await add_conversation(mirror, 3, title="The red thread")
    await add_asset(mirror, "file-a", PNG, conversation_id="00000002-0000-4000-8000-000000000000", name="sea.png")


@pytest.fixture
async def site(tmp_path: Path) -> Site:
    """A mirror that nobody has open."""
    async with opening(tmp_path / "mirror", ManualClock()) as mirror:
        await fill(mirror)
    return Site(tmp_path / "mirror", tmp_path / "target")


FIRST, SECOND, THIRD = (
    "1970-01-01 Talk 1 (00000001)",
    "2026-11-18 Talk 2 (00000002)",
    "2026-11-18 The red thread (00000003)",
)


# --------------------------------------------------------------------------------------------------- what is written


async def test_a_folder_of_markdown(site: Site) -> None:
    """A file a conversation, assets beside them, a summary in two lines; the same again touches nothing."""
    done = await site.run("markdown")
    assert (done.status, done.err) == (0, "")
    assert re.fullmatch(r"written 3, unchanged 0, 1 asset copied\ndone in \d+\.\d s\n", done.out)
    assert site.files() == {f"{FIRST}.md", f"{SECOND}.md", f"{THIRD}.md", "assets"}
    again = await site.run("markdown")
    assert again.out.startswith("written 0, unchanged 3, 0 assets copied\n")


@pytest.mark.parametrize(("form", "suffix"), [("html", ".html"), ("json", ".json")])
async def test_a_folder_of_another_form(site: Site, form: str, suffix: str) -> None:
    """The same conversations, each in a file of its own."""
    await site.export(form)
    assert {f"{name}{suffix}" for name in (FIRST, SECOND, THIRD)} <= site.files()


async def test_an_official_export(site: Site) -> None:
    """One ZIP, named after the account and the time, with everything in it."""
    done = await site.run("chatgpt")
    assert (done.status, done.err) == (0, "")
    (name,) = site.files()
    assert re.fullmatch(r"chatgpt-export-alice-\d{4}-\d\d-\d\d-\d{6}\.zip", name)
    assert done.out.startswith(f"{site.target / name}: 3 conversations, 1 asset\n")
    with zipfile.ZipFile(site.target / name) as export:
        assert len(json.loads(export.read("conversations-000.json"))) == 3
        assert json.loads(export.read("user.json")) == {"id": "alice", "email": "alice@home"}
        assert export.read("file-a.dat") == PNG


NODES = "select * from node order by account, conversation, position"
"""All that is said. Of conversations the server itself notes, in its own time, that it has an index of them."""


async def test_beside_a_running_server(site: Site) -> None:
    """It is read as it is, the server goes on, and nothing in the mirror changes."""
    async with started(environ=site.environ) as server:
        address = await server.address()
        before = rows(site.folder / "mirror.sqlite", NODES)
        done = await site.run("markdown")
        assert (done.status, done.err) == (0, "")
        assert done.out.startswith("written 3, unchanged 0, 1 asset copied\n")
        assert rows(site.folder / "mirror.sqlite", NODES) == before
        async with aiohttp.ClientSession() as session, session.get(f"{address}/readyz") as response:
            assert response.status == 200
        assert await server.end(signal.SIGTERM) == 0


# -------------------------------------------------------------------------------------------------------- a selection


@pytest.mark.parametrize(
    ("since", "query", "written"),
    [
        ("2024-05-02T00:00:00Z", None, {SECOND, THIRD}),
        ("2024-04-30T22:00:00+00:00", None, {FIRST, SECOND, THIRD}),
        ("2024-05-01T00:00:01+02:00", None, {SECOND, THIRD}),
        (None, "RED", {FIRST, SECOND, THIRD}),
        (None, "red bicycle", {FIRST}),
        (None, " sea  grüße ", {SECOND}),
        (None, "thread words", {THIRD}),
        (None, "nothing like it", set()),
        ("20240502", "red", {SECOND, THIRD}),
    ],
)
async def test_a_selection(site: Site, since: str | None, query: str | None, written: set[str]) -> None:
    """By the time of the update, and by words: all of them, in any case, in the title or in the text."""
    await site.export("json", since=since, query=query)
    assert site.files() - {"assets"} == {f"{name}.json" for name in written}


async def test_a_date_is_meant_where_the_person_is(site: Site) -> None:
    """Midnight in Berlin is 22:00 of the day before in UTC, when the first conversation was updated."""
    await site.run("json", "--since", "2024-05-01", "--query", "bicycle")
    assert site.files() == {f"{FIRST}.json"}
    await site.run("markdown", "--since", "2024-05-01T00:00:01", "--query", "bicycle")
    assert site.files() == {f"{FIRST}.json"}


async def test_a_selection_as_an_official_export(site: Site) -> None:
    """The archive holds what was asked for and what belongs to that."""
    await site.export("chatgpt", query="thread")
    with zipfile.ZipFile(next(site.target.iterdir())) as export:
        assert len(json.loads(export.read("conversations-000.json"))) == 1
        assert "file-a.dat" not in export.namelist()


async def test_a_time_that_is_none(site: Site) -> None:
    """It is said what one looks like, and nothing is written."""
    done = await site.run("markdown", "--since", "yesterday")
    assert (done.status, done.out) == (1, "")
    assert done.err == "chatgpt_rest: --since must be a date or a time, like 2026-05-01 or 2026-05-01T18:30\n"
    assert not site.target.exists()


async def test_of_several_accounts_one_is_named(site: Site) -> None:
    """Unnamed is an error that lists them; by id or name it is exported, and two do not share a folder."""
    async with opening(site.folder, ManualClock()) as mirror:
        await mirror.accounts.ensure("user-bob", email=None)
        await mirror.accounts.name("user-bob", "bob")
        await add_conversation(mirror, 9, account="user-bob")
    with pytest.raises(NotFound, match="there are several accounts; name one of them: alice, bob"):
        await site.export("markdown")
    await site.export("markdown", account="bob")
    assert site.files() == {"2026-11-18 Talk 9 (00000009).md"}
    with pytest.raises(Conflict, match="holds conversations of account user-bob; choose another for alice"):
        await site.export("markdown", account="alice")


# ------------------------------------------------------------------------------------------------------- what is told


async def test_what_is_special_is_told(site: Site) -> None:
    """Conversations whose content never came, files that somebody edited, conversations deleted since, lost assets."""
    await site.export("markdown")
    (site.target / f"{SECOND}.md").write_text("mine")
    (site.target / "assets" / "file-a.png").unlink()
    async with opening(site.folder, ManualClock()) as mirror:
        alice = mirror.of("alice")
        await alice.conversations.edit("00000002-0000-4000-8000-000000000000", title="Renamed")
        await alice.deletions.bury("00000003-0000-4000-8000-000000000000")
        await alice.listings.take(ListPage((ListedConversation("later", None, 0, 0),), is_last=True), since=0)
        mirror.files.path(sha256(PNG).digest()).unlink()
    told = await site.export("markdown")
    assert told[:-1] == [
        "written 0, unchanged 1, 0 assets copied",
        f"edited by somebody and left so, the current version beside it as (new): {SECOND}.md",
        f"deleted from the mirror, their files left where they are: {THIRD}.md",
        "1 asset left out: known to the mirror, but the file is gone; import the export again",
        "1 conversation left out: known by name only; `server.py sync` brings them",
    ]


async def test_an_archive_of_more_files_than_an_import_takes_says_so(site: Site) -> None:
    """Here a shard, an asset, its name, whose it is, and the list of all that."""
    site.config["archive__max_entries"] = "4"
    told = await site.export("chatgpt")
    assert told[1] == "it holds 5 files: to import it, set [archive] max_entries to as many"


async def test_a_mirror_with_nothing_in_it(tmp_path: Path) -> None:
    """It is said how to begin."""
    with pytest.raises(NotFound, match=r"nothing to export yet: `server\.py import` or `server\.py sync` first"):
        await Site(tmp_path / "mirror", tmp_path / "target").export("markdown")


async def test_a_place_that_cannot_be_written(site: Site) -> None:
    """A file where a folder should be is named, for either kind of export, and left alone."""
    site.target.write_bytes(b"precious")
    for form in ("markdown", "chatgpt"):
        with pytest.raises(MirrorError, match=f"{site.target} is no folder; name another place"):
            await site.export(form)
    assert site.target.read_bytes() == b"precious"


async def test_a_terminal_shows_how_far_it_is(site: Site) -> None:
    """A bar of the conversations, with the size of what was written; a pipe gets none."""
    master, slave = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(CHECKOUT / "server.py"), "export", str(site.target), "--format", "html"),
        stdout=asyncio.subprocess.PIPE,
        stderr=slave,
        env={**site.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux tells that nobody has the terminal open any more
        while chunk := await asyncio.to_thread(os.read, master, 4096):
            shown += chunk
    os.close(master)
    out, _ = await process.communicate()
    assert out.startswith(b"written 3, ")
    assert re.search(rb"conversations.*3/3\S* \S*\d\.\d MB", shown)


async def test_ctrl_c_leaves_every_file_whole(site: Site) -> None:
    """Stopped while it copies an asset, it says what follows; run again, it goes on from there."""
    pipe = site.folder / "assets" / sha256(PNG).hexdigest()[:2] / sha256(PNG).hexdigest()
    pipe.unlink()
    os.mkfifo(pipe)
    arguments = ("export", str(site.target), "--format", "markdown")
    async with started(*arguments, environ=site.environ) as running:
        writing = await asyncio.to_thread(os.open, pipe, os.O_WRONLY)  # it has come to the second by now
        running.send(signal.SIGINT)
        with contextlib.suppress(BrokenPipeError):  # or it may read all that was on its way
            await asyncio.to_thread(os.write, writing, PNG * 8_000)
        os.close(writing)
        assert await running.end() == 128 + signal.SIGINT
        await running.until("interrupted; every file that was written is whole; run this again to go on")
    assert site.files() == {f"{FIRST}.md", f"{SECOND}.md", "assets"}
    assert not list((site.target / "assets").iterdir())
    pipe.unlink()
    pipe.write_bytes(PNG)
    again = await site.run("markdown")
    assert again.out.startswith("written 1, unchanged 2, 1 asset copied\n")
