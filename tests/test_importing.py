# SPDX-License-Identifier: GPL-2.0-or-later
"""`server.py import` as a real process: beside a running server and without one, to its end and cut short."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from chatgpt_rest import __version__
from chatgpt_rest.archive.ledger import Aside, Assets, Conversations, Files, Ledger, Messages
from chatgpt_rest.control import call_server, control_over, send_import, serve_control
from chatgpt_rest.errors import Conflict, MirrorError, StartError
from chatgpt_rest.importing import in_words
from tests.export_huge import write_huge
from tests.exports import Export, make_export
from tests.house import House
from tests.process import PATIENCE_SECONDS, Finished, Running, command, environment, started
from tests.rows import rows

NOWHERE: Final = "http://127.0.0.1:9/"
TABLES: Final = ("account", "conversation", "node", "asset", "attachment", "export_file")


@dataclass
class Site:
    """A folder for a mirror and one for exports, and an environment that tells of the mirror."""

    folder: Path
    environ: dict[str, str]
    export: Export
    paths: list[str]

    @property
    def mirror(self) -> Path:
        return self.folder / "mirror.sqlite"

    async def run(self, *options: str) -> Finished:
        return await command("import", *self.paths, *options, environ=self.environ)

    async def ledger(self, *options: str) -> dict[str, Any]:
        """What `--json` prints of an import that succeeds."""
        done = await self.run("--json", *options)
        assert (done.status, done.err) == (0, "")
        ledger: dict[str, Any] = json.loads(done.out)
        return ledger


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Where nothing runs yet, and an export of six conversations with all that belongs to them."""
    export = make_export(3, conversations=6, packaging="parts", oddities=False)
    (tmp_path / "mirror").mkdir()
    paths = [str(path) for path in export.write(tmp_path / "exports")]
    return Site(tmp_path / "mirror", environment(tmp_path / "mirror", NOWHERE), export, paths)


@asynccontextmanager
async def serving(site: Site) -> AsyncIterator[Running]:
    """A server over the site's mirror."""
    async with started(environ={**site.environ, "CHATGPT_REST_LOG__LEVEL": "INFO"}) as server:
        await server.address()
        yield server


def everything(site: Site) -> dict[str, list[tuple[Any, ...]]]:
    """Every row that an import writes."""
    return {table: sorted(rows(site.mirror, f"select * from {table}"), key=repr) for table in TABLES}


# ------------------------------------------------------------------------------------------------------- to its end


async def test_without_a_server(site: Site) -> None:
    """Everything is in, as user.json's account, and the ledger says how much of it there was."""
    done = await site.run()
    counts = site.export.counts
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == f"account {site.export.account}"
    assert re.fullmatch(rf"conversations +{counts.conversations}  {counts.conversations} imported", lines[1])
    assert re.fullmatch(rf"messages +{counts.messages}  {counts.messages} imported; \d+ of them hidden", lines[2])
    assert rows(site.mirror, "select count(*), account from conversation") == [
        (counts.conversations, site.export.account)
    ]
    assert rows(site.mirror, "select email from account") == [(site.export.email,)]


async def test_beside_a_server(site: Site) -> None:
    """It goes through the running server, with the same ledger and the same rows as without one."""
    async with serving(site) as server:
        ledger = await site.ledger()
        await server.until(f"imported account={site.export.account} conversations=6 complete=True")
    beside = everything(site)
    counts = site.export.counts
    assert ledger["conversations"]["imported"] == ledger["conversations"]["read"] == counts.conversations
    assert ledger["messages"]["imported"] == ledger["messages"]["read"] == counts.messages
    assert ledger["assets"]["stored"] == ledger["assets"]["read"] == counts.assets
    assert (ledger["is_complete"], ledger["set_aside"]) == (True, [])
    for file in site.folder.iterdir():
        if file.is_file():
            file.unlink()
    again = await site.ledger()
    assert {**again, "seconds": 0} == {**ledger, "seconds": 0}
    assert [row[:2] for row in everything(site)["conversation"]] == [row[:2] for row in beside["conversation"]]
    assert everything(site)["node"] == beside["node"]


async def test_twice_changes_nothing(site: Site) -> None:
    """Not a row, and the ledger says so."""
    await site.ledger()
    before = everything(site)
    ledger = await site.ledger()
    assert ledger["conversations"]["unchanged"] == ledger["conversations"]["read"]
    assert ledger["assets"]["unchanged"] == ledger["assets"]["read"]
    assert everything(site) == before


@pytest.mark.parametrize("is_served", [True, False], ids=["served", "alone"])
async def test_a_dry_run_writes_nothing(site: Site, *, is_served: bool) -> None:
    """Neither rows, nor files, nor the account; the words are those of the import, and say that it was none."""
    if is_served:
        async with serving(site):
            done = await site.run("--dry-run")
    else:
        done = await site.run("--dry-run")
    assert done.status == 0
    assert "nothing was written" in done.out.splitlines()[0]
    assert "6 imported" in done.out
    assert not any(everything(site).values())
    assert not (site.folder / "assets").exists()


async def test_what_could_not_be_taken_in_is_named(site: Site, tmp_path: Path) -> None:
    """With its place and reason; the rest is in, so that the status is 0."""
    path = tmp_path / "odd.json"
    fine = site.export.conversations[0]
    path.write_text(json.dumps([fine, {"title": "a\x1b[31m\nb", "mapping": {}}]))
    site.paths = [str(path)]
    done = await site.run("--account", "user-Odd")
    assert done.status == 0
    assert re.search(r"^conversations +2  1 imported, 1 set aside$", done.out, re.MULTILINE)
    assert re.search(r"^  conversation.*“a \[31m b”.* \(odd\.json #\d", done.out, re.MULTILINE)
    assert "\x1b" not in done.out


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["words", "json"])
async def test_where_nothing_could_be_read_that_is_a_failure(site: Site, tmp_path: Path, options: list[str]) -> None:
    """The ledger says what was set aside, and the status that no conversation came."""
    path = tmp_path / "conversations.json"
    path.write_bytes(b"[}")
    site.paths = [str(path)]
    done = await site.run("--account", "user-Odd", *options)
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert "no conversation could be read: 1 file was set aside" in done.err
    assert "conversations.json" in done.out


# -------------------------------------------------------------------------------------------------------- whose it is


async def test_another_accounts_name_is_refused(site: Site) -> None:
    """One line that names both, status 1, and nothing written."""
    done = await site.run("--account", "user-Other")
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
    assert site.export.account in done.err
    assert "user-Other" in done.err
    assert not any(everything(site).values())


async def test_bare_json_needs_an_account(site: Site, tmp_path: Path) -> None:
    """It does not say whose it is: the command asks for it, and takes an id that looks like one."""
    bare = replace(site.export, packaging="bare").write(tmp_path / "bare")
    asked = await command("import", str(bare[0]), environ=site.environ)
    assert (asked.status, asked.out) == (1, "")
    assert "--account user-…" in asked.err
    given = await command("import", str(bare[0]), "--account", "user-Alice1", environ=site.environ)
    assert given.status == 0
    assert rows(site.mirror, "select distinct account from conversation") == [("user-Alice1",)]


# --------------------------------------------------------------------------------------------------------- cut short


def child_of(pid: int) -> int | None:
    """The process that a process has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return int(children[0]) if children else None


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    return Path(f"/proc/{pid}").exists()


async def stopped_reader(process: Running, site: Site) -> int:
    """The reader of an import, stopped in the midst of it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (pid := child_of(process.pid)) is None or not has_begun(site):  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.005)
    os.kill(pid, signal.SIGSTOP)
    return pid


def has_begun(site: Site) -> bool:
    """Whether anything is in the mirror yet."""
    try:
        return bool(rows(site.mirror, "select 1 from conversation limit 1"))
    except Exception:  # noqa: BLE001 - there is no mirror yet, or no table in it
        return False


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a dozen batches."""
    path = tmp_path_factory.mktemp("huge") / "huge.zip"
    write_huge(path, 24_000_000)
    return path


@pytest.fixture
def long_site(site: Site, huge: Path) -> Site:
    """The same with an export that takes its time."""
    site.paths = [str(huge)]
    return site


@pytest.mark.parametrize("is_served", [True, False], ids=["served", "alone"])
async def test_ctrl_c_keeps_what_came(long_site: Site, *, is_served: bool) -> None:
    """One line and the status that shells give it; nothing of the reader is left, and running it again goes on."""
    async with serving(long_site) if is_served else started("--help", environ=long_site.environ) as server:
        async with started("import", *long_site.paths, environ=long_site.environ) as importing:
            reader = await stopped_reader(importing, long_site)
            assert await importing.end(signal.SIGINT) == 130
        assert "interrupted; what came is kept; run it again to go on\n" in importing.lines
        assert not is_alive(reader)
        if is_served:
            await server.until("imported account=.* complete=False")
        ledger = await long_site.ledger()
    assert ledger["is_complete"]
    assert ledger["conversations"]["unchanged"] > 0
    assert ledger["conversations"]["read"] == rows(long_site.mirror, "select count(*) from conversation")[0][0]


@pytest.mark.parametrize("is_served", [True, False], ids=["served", "alone"])
async def test_the_readers_death_is_told(long_site: Site, *, is_served: bool) -> None:
    """The ledger of what is in, one line on standard error, and status 1."""
    async with (
        serving(long_site) if is_served else started("--help", environ=long_site.environ),
        started("import", "--json", *long_site.paths, environ=long_site.environ) as importing,
    ):
        os.kill(await stopped_reader(importing, long_site), signal.SIGKILL)
        assert await importing.end() == 1
    told = importing.lines[-1]
    assert told.startswith("chatgpt_rest: the process that reads the export was killed")
    ledger = json.loads(importing.text.removesuffix(told))
    assert ledger["is_complete"] is False
    assert ledger["error"]["code"] == "reading_ended"
    assert ledger["conversations"]["imported"] == rows(long_site.mirror, "select count(*) from conversation")[0][0] > 0


async def test_a_server_that_stops_is_told(long_site: Site) -> None:
    """One line, status 1, and running it again goes on without the server."""
    async with serving(long_site) as server:
        async with started("import", *long_site.paths, environ=long_site.environ) as importing:
            reader = await stopped_reader(importing, long_site)
            assert await server.end(signal.SIGTERM) == 0
            assert await importing.end() != 0
        assert len(importing.lines) == 1
        assert importing.lines[0].startswith("chatgpt_rest: the process that has the mirror has stopped; what came")
        assert not is_alive(reader)
    assert (await long_site.ledger())["is_complete"]


async def test_what_is_no_export_is_refused(site: Site, tmp_path: Path) -> None:
    """One line that says why; the mirror is not even made."""
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("cat.txt", "meow")
    for path in (tmp_path / "pictures.zip", tmp_path / "missing.zip"):
        done = await command("import", str(path), environ=site.environ)
        assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
        assert path.name in done.err
    assert not site.mirror.exists()


# ------------------------------------------------------------------------------------------------------- the socket


async def frames(*bodies: bytes) -> AsyncIterator[bytes]:
    """These, one after the other."""
    for body in bodies:
        yield body


async def test_another_version_is_told(house: House) -> None:
    """A command of one version and a server of another do not understand each other's frames."""
    control = control_over(house.app, house.clock)
    with pytest.raises(Conflict, match=rf"is version {re.escape(__version__)}, this command 0\.0"):
        await control.open_import("0.0", "user-Alice", None, None, dry_run=False)
    assert rows(house, "select * from account") == []


async def test_what_is_no_frame_is_told(house: House) -> None:
    """The ledger says so, and the server goes on."""
    path = house.config.control_socket
    async with serve_control(control_over(house.app, house.clock), path):
        arguments = {"version": __version__, "named": "user-Alice", "email": None, "wanted": None, "dry_run": False}
        account = await call_server(path, "open_import", arguments)
        ledger = await send_import(path, account, frames(b"\x81\xa4type\xa3Odd"), dry_run=False)
        assert ledger.error is not None
        assert await call_server(path, "list_keys", {}) == []


async def test_where_no_server_listens_nothing_is_sent(tmp_path: Path) -> None:
    """The socket's absence is told as for any other operation."""
    with pytest.raises((ConnectionError, StartError, MirrorError)):
        await send_import(tmp_path / "control.sock", "user-Alice", frames(b""), dry_run=False)


# ------------------------------------------------------------------------------------------------------------ words


def test_the_words_line_up_and_say_what_to_do() -> None:
    """Numbers stand under each other, nothing that is nought is told, and what is missing has its remedy."""
    ledger = Ledger(
        account="user-Alice",
        dry_run=False,
        error=None,
        conversations=Conversations(read=1234, imported=1230, enriched=1, left_deleted=1, set_aside=2),
        messages=Messages(read=45678, imported=45671, set_aside=7, hidden=4321),
        assets=Assets(read=3, stored=2, unchanged=1, placed=3, missing=1),
        files=Files(kept=4, ignored=1, missing=["conversations-004.json"], missing_total=1),
        set_aside=[
            Aside(kind="conversation", id="c1", title="Odd", place="e.zip/c.json #7", reason="it is torn", messages=7),
            Aside(kind="conversation", id=None, title=None, place="e.zip/c.json #9", reason="it has no id", messages=0),
        ],
        set_aside_total=2,
        seconds=12.4,
        bytes=1_990_000_000,
    )
    assert in_words(ledger) == [
        "account user-Alice",
        "conversations   1,234  1,230 imported, 1 enriched, 1 left deleted, 2 set aside",
        "messages       45,678  45,671 imported, 7 set aside; 4,321 of them hidden",
        "assets              3  2 stored, 1 unchanged; 3 placed, 1 missing",
        "other files         5  4 kept, 1 ignored",
        "read 2.0 GB in 12 seconds, 160 MB/s",
        "1 file of the export is not there: conversations-004.json",
        "  → import the part that holds it, or ask ChatGPT for the export again",
        "1 asset that messages point to is in no export so far",
        "  → another export may hold it; ChatGPT leaves out what has expired there",
        "2 are set aside, everything else was taken in:",
        "  conversation c1 “Odd”, 7 messages: it is torn (e.zip/c.json #7)",
        "  conversation: it has no id (e.zip/c.json #9)",
    ]
