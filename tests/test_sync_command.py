# SPDX-License-Identifier: GPL-2.0-or-later
"""`server.py sync` as a real process: beside a running server and without one, on a terminal and in a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import pytest

from chatgpt_rest.config import TOKEN_VARIABLE
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.disks import small_disk
from tests.process import CHECKOUT, PATIENCE_SECONDS, Finished, Running, command, environment, started
from tests.rows import rows

CAPACITY: Final = 50
RESERVE: Final = 10


@dataclass
class Site:
    """A folder for a mirror, a ChatGPT behind it, and an environment that tells of both and of Alice's token."""

    chatgpt: SimulatedChatGPT
    environ: dict[str, str]
    folder: Path

    async def sync(self, *options: str) -> Finished:
        return await command("sync", *options, environ=self.environ)

    def without_token(self) -> dict[str, str]:
        """The environment of one who has no token."""
        return {name: value for name, value in self.environ.items() if name != TOKEN_VARIABLE}

    def fetched(self) -> Counter[str]:
        """How often each conversation was fetched, by its id."""
        endpoints = [request.endpoint for request in self.chatgpt.requests if request.method == "GET"]
        return Counter(each.removeprefix("conversation/") for each in endpoints if each.startswith("conversation/"))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Where nothing runs yet but ChatGPT, with five conversations."""
    chatgpt = SimulatedChatGPT(conversations=False)
    chatgpt.alice.many(5)
    async with chatgpt.serving() as base_url:
        token = {TOKEN_VARIABLE: chatgpt.alice.token()}
        yield Site(chatgpt, environment(tmp_path, base_url, token), tmp_path)


@pytest.fixture
async def server(site: Site) -> AsyncIterator[Running]:
    """A running server that has proved the token, and goes upstream when it is told to."""
    async with started(environ={**site.environ, "CHATGPT_REST_LOG__LEVEL": "INFO"}) as running:
        await running.address()
        await running.until("accepted an access token")
        yield running


# --------------------------------------------------------------------------------------------------- without a server


async def test_a_pass_without_a_server(site: Site) -> None:
    """The configured token is proved, everything is fetched once; plan and cost are told in two lines, and agree."""
    done = await site.sync()
    assert (done.status, done.err) == (0, "")
    plan, cost = done.out.splitlines()
    account = site.chatgpt.alice.user_id
    assert re.fullmatch(rf"account {account}: 5 stale; 8 requests; done about .*\d\d:\d\d", plan)
    left = CAPACITY - site.chatgpt.received()
    assert re.fullmatch(rf"fetched 5, gone 0, failed 0, with 8 requests; {left} left until .*\d\d:\d\d", cost)
    assert site.fetched() == Counter(conversation.id for conversation in site.chatgpt.alice.conversations)


async def test_without_any_token_the_ways_to_give_one_are_told(site: Site) -> None:
    """One line on standard error, status 1, and nothing is sent."""
    done = await command("sync", environ=site.without_token())
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
    for way in (TOKEN_VARIABLE, "$CREDENTIALS_DIRECTORY", "server.py token"):
        assert way in done.err
    assert site.chatgpt.received() == 0


async def test_a_token_that_upstream_refuses_is_told(site: Site) -> None:
    """One that is no good from the start, and one that is refused in mid-pass: status 1, and what to do."""
    site.chatgpt.fault("conversation/*", error="bad_token", after=2)
    cut = await site.sync()
    assert cut.status == 1
    assert "fetched 2, gone 0, failed 0" in cut.out
    assert cut.err.startswith("chatgpt_rest: ChatGPT refused the access token; give a new one as ")
    assert cut.err.count("\n") == 1
    site.chatgpt.clear_faults()
    site.chatgpt.alice.revoke(site.environ[TOKEN_VARIABLE])
    refused = await site.sync()
    assert (refused.status, refused.out) == (1, "")
    told = rf"chatgpt_rest: upstream does not accept the access token; give a new one as {TOKEN_VARIABLE}, or .*\n"
    assert re.fullmatch(told, refused.err)


async def test_a_pass_ends_where_the_budget_does(site: Site) -> None:
    """What is left to people stays; status 0, and what follows is told. The next pass sends nothing, and says so."""
    site.chatgpt.alice.many(60)
    done = await site.sync()
    assert (done.status, done.err) == (0, "")
    assert re.search(r"\nwaits for the budget until .*\d\d:\d\d; run this again to go on\n$", done.out)
    assert f"; {RESERVE} kept for you\n" in done.out
    assert site.chatgpt.received() == CAPACITY - RESERVE
    again = await site.sync()
    assert (again.status, again.err) == (0, "")
    assert "with 0 requests" in again.out
    assert site.chatgpt.received() == CAPACITY - RESERVE


async def test_an_upstream_that_fails_ends_it(site: Site) -> None:
    """Status 1 and one line, with the reason and until when it is let rest."""
    site.chatgpt.fault("conversation/*", reset=True)
    done = await site.sync()
    assert done.status == 1
    assert re.fullmatch(
        r"chatgpt_rest: waits for ChatGPT, which fails \(upstream_\w+\), until .*; run this again to go on\n", done.err
    )
    assert re.search(r"\nwhat failed last: .+ \(upstream_\w+\)\n$", done.out)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
async def test_a_disk_that_is_full_ends_it(site: Site) -> None:
    """Status 1 and one line: until when it waits, and what to do."""
    site.chatgpt.alice.add_conversation("Large", [("Tell me all.", "All. " * 400_000)])
    with small_disk(site.folder / "disk", size_mib=6) as disk:
        environ = {**site.environ, "CHATGPT_REST_MIRROR__PATH": str(disk / "mirror.sqlite")}
        assert (await command("account", "list", environ=environ)).status == 0
        (disk / "ballast").write_bytes(b"x" * 4_400_000)
        done = await command("sync", environ=environ)
    assert done.status == 1
    told = r"chatgpt_rest: waits for .* until .*; see to the disk that holds the mirror; run this again to go on\n"
    assert re.fullmatch(told, done.err)


async def test_what_went_wrong_with_some_is_told(site: Site) -> None:
    """Where others came, the last error is told in words, with how many are still to be fetched and what follows."""
    broken = site.chatgpt.alice.conversations[2]
    site.chatgpt.fault(f"conversation/{broken.id}", error="server_error")
    done = await site.sync()
    assert (done.status, done.err) == (0, "")
    assert "fetched 4, gone 0, failed 1" in done.out
    told = r"\nwhat failed last: .+ \(upstream_broken\); 1 still stale; run this again to go on\n$"
    assert re.search(told, done.out)


async def test_a_rest_is_lifted_by_asking(site: Site) -> None:
    """What is told beforehand is the price of a pass now, and not of one after the rest."""
    site.chatgpt.fault("conversation/*", reset=True)
    assert (await site.sync()).status == 1
    site.chatgpt.clear_faults()
    dry = await site.sync("--dry-run")
    (told,) = re.findall(r"done about .*(\d\d):(\d\d)\n", dry.out)
    now = datetime.now().astimezone()
    assert (now.hour * 60 + now.minute - int(told[0]) * 60 - int(told[1])) % (24 * 60) <= 2
    assert "fetched 5," in (await site.sync()).out


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["Ctrl-C", "SIGTERM", "closed terminal"]
)
async def test_a_signal_keeps_what_came(site: Site, number: signal.Signals) -> None:
    """The status that shells give it and one line; the next pass fetches no more again than what was on its way."""
    fault = site.chatgpt.fault("conversation/*", hold=True, after=2)
    async with started("sync", "--wait", environ=site.environ) as pass_:
        await asyncio.wait_for(fault.until_held(), PATIENCE_SECONDS)
        assert await pass_.end(number) == 128 + number
    assert pass_.lines[-1] == "interrupted; what came is kept; run this again to go on\n"
    assert "Traceback" not in pass_.text
    assert not (site.folder / "mirror.sqlite-wal").exists()
    site.chatgpt.clear_faults()
    assert (await site.sync()).status == 0
    assert sorted(site.fetched().values()) == [1, 1, 1, 1, 2]


# --------------------------------------------------------------------------------------------------- the dry run


async def test_a_dry_run_spends_nothing(site: Site) -> None:
    """What is stale is listed, new or changed, with the lists that are due and the price."""
    await site.sync()
    changed = site.chatgpt.alice.conversations[2]
    changed.add_turn("And then?")
    site.chatgpt.alice.add_conversation("Brand new", [("A", "B")])
    site.chatgpt.fault("conversation/*", reset=True)
    await site.sync()
    before = site.chatgpt.received()
    dry = await command("sync", "--dry-run", environ=site.without_token())
    assert (dry.status, dry.err) == (0, "")
    assert re.search(r"^\S+ +new +Brand new$", dry.out, re.MULTILINE)
    assert re.search(rf"^\S+ +changed +{changed.title}$", dry.out, re.MULTILINE)
    assert "list to read: plain, 1 page\n" in dry.out
    assert re.search(rf"account {site.chatgpt.alice.user_id}: 3 requests; done about .*\d\d:\d\d\n$", dry.out)
    full = await site.sync("--dry-run", "--full")
    assert "list to read: archived, 1 page\n" in full.out
    assert "5 requests" in full.out
    assert site.chatgpt.received() == before


async def test_a_dry_run_names_fifty(site: Site) -> None:
    """The rest is counted."""
    site.chatgpt.alice.many(60)
    async with started(environ=site.environ) as server:
        await server.until("accepted an access token")
        dry = await site.sync("--dry-run")
    assert len(re.findall(r" new +Note \d+$", dry.out, re.MULTILINE)) == 50
    assert "\nand 15 more\n" in dry.out
    assert site.chatgpt.received() == 1


async def test_titles_do_nothing_to_a_terminal(site: Site) -> None:
    """Neither markup nor control characters in them have any effect, and each stays on its line."""
    site.chatgpt.alice.add_conversation("[red]a\x1b[31m\r\nb\u202ec[/]", [("A", "B")])
    async with started(environ=site.environ) as server:
        await server.until("accepted an access token")
        dry = await site.sync("--dry-run")
    assert re.search(r"^\S+ +new +\[red\]a \[31m  b c\[/\]$", dry.out, re.MULTILINE)
    assert "\x1b" not in dry.out


async def test_a_dry_run_of_nobody_is_told(site: Site) -> None:
    """Where there is no account yet, nothing is sent to find out whose token it is."""
    dry = await site.sync("--dry-run")
    assert (dry.status, dry.out) == (1, "")
    assert "there is no account yet; one appears when its access token is first used, by `server.py sync`" in dry.err
    assert site.chatgpt.received() == 0


async def test_a_full_dry_run_lists_what_was_set_aside(site: Site) -> None:
    """It would be tried once more, so it is in the price, and named."""
    broken = site.chatgpt.alice.conversations[2]
    site.chatgpt.fault(f"conversation/{broken.id}", error="server_error")
    await site.sync()
    with contextlib.closing(sqlite3.connect(site.folder / "mirror.sqlite")) as connection, connection:
        connection.execute("update conversation set failures = 3 where failures > 0")
    assert str(broken.title) not in (await site.sync("--dry-run")).out
    full = await site.sync("--dry-run", "--full")
    assert re.search(rf"^ +set aside +{broken.title}$", full.out, re.MULTILINE)
    site.chatgpt.clear_faults()
    done = await site.sync("--full")
    assert ": 0 stale, 1 set aside; " in done.out
    assert "fetched 1," in done.out


# --------------------------------------------------------------------------------------------------- beside another one


async def test_a_second_one_joins_the_first(site: Site) -> None:
    """It says so, tells what was spent since then and not before, and nothing is fetched twice; both see the end."""
    fault = site.chatgpt.fault("conversation/*", hold=True, after=2)
    async with started("sync", environ=site.environ) as first:
        await asyncio.wait_for(fault.until_held(), PATIENCE_SECONDS)
        async with started("sync", environ=site.without_token()) as second:
            await second.until(r"3 stale; \d requests; done about .*; joins the pass that began at .*\d\d:\d\d\n")
            before = site.chatgpt.received() - 1  # the one that is held
            site.chatgpt.clear_faults()
            assert (await first.end(), await second.end()) == (0, 0)
    assert "fetched 5, gone 0, failed 0, with 9 requests" in first.text  # the list is read once more for the second
    assert f"fetched 3, gone 0, failed 0, with {site.chatgpt.received() - before} requests" in second.text
    assert set(site.fetched().values()) == {1}


async def test_other_commands_reach_a_pass_under_way(site: Site) -> None:
    """They need no server; a token is not taken, as nothing would be left of it."""
    fault = site.chatgpt.fault("conversation/*", hold=True)
    async with started("sync", environ=site.environ) as pass_:
        await asyncio.wait_for(fault.until_held(), PATIENCE_SECONDS)
        listed = await command("account", "list", environ=site.environ)
        assert (listed.status, site.chatgpt.alice.user_id in listed.out) == (0, True)
        checked = await command("check", environ=site.environ)
        assert f"none is running; process {pass_.pid}, another command, has the mirror" in checked.out
        refused = await command("token", environ=site.environ, stdin=site.chatgpt.bob.token())
        assert refused.status == 1
        assert refused.err.startswith("chatgpt_rest: no server is running")
        server = await command("serve", environ=site.environ)
        assert server.status == 78
        assert f"in use by process {pass_.pid}; stop that one, or let it do the work\n" in server.err
        site.chatgpt.clear_faults()
        assert await pass_.end() == 0


async def test_a_joined_one_that_is_interrupted_is_told(site: Site) -> None:
    """Who joined it does not wait for ever."""
    fault = site.chatgpt.fault("conversation/*", hold=True)
    async with started("sync", environ=site.environ) as first:
        await asyncio.wait_for(fault.until_held(), PATIENCE_SECONDS)
        async with started("sync", environ=site.environ) as joined:
            await joined.until("joins the pass")
            assert await first.end(signal.SIGINT) == 130
            assert await joined.end() == 1
    told = "chatgpt_rest: the process that did it has ended; what came is kept; run this again to go on\n"
    assert joined.lines[-1] == told


async def test_a_token_of_another_account_is_told(site: Site) -> None:
    """With the ways to give the right one that work without a server."""
    await site.sync()
    before = site.chatgpt.received()
    bobs = {**site.environ, TOKEN_VARIABLE: site.chatgpt.bob.token()}
    refused = await command("sync", "--account", site.chatgpt.alice.user_id, environ=bobs)
    assert refused.status == 1
    account = site.chatgpt.alice.user_id
    assert f"no access token of account {account} is at hand; give one as {TOKEN_VARIABLE}, or " in refused.err
    assert site.chatgpt.received() == before + 1


# --------------------------------------------------------------------------------------------------- beside a server


async def test_a_pass_by_the_running_server(site: Site, server: Running) -> None:
    """The server does it, with its own token, and the command watches."""
    done = await command("sync", environ=site.without_token())
    assert (done.status, done.err) == (0, "")
    assert "fetched 5, gone 0, failed 0" in done.out
    assert "synced account=" in server.text
    assert rows(site.folder / "mirror.sqlite", "select count(*) from conversation where has_content = 1") == [(5,)]


async def test_a_full_pass_finds_what_is_gone(site: Site, server: Running) -> None:
    """`--full` reads every list to its end and asks for what none of them showed."""
    await site.sync()
    site.chatgpt.alice.conversations[0].delete()
    assert "gone 0" in (await site.sync()).out
    done = await site.sync("--full")
    assert (done.status, "gone 1" in done.out) == (0, True)
    assert "finished a full sweep" in server.text


async def test_the_running_server_goes_on_by_itself(site: Site, server: Running) -> None:
    """Where the budget is spent, the command ends and says so."""
    site.chatgpt.alice.many(60)
    done = await site.sync()
    assert (done.status, done.err) == (0, "")
    assert done.out.endswith("; the running server goes on by itself\n")
    assert server.process.returncode is None


async def test_ctrl_c_leaves_the_server_to_it(site: Site, server: Running) -> None:
    """The pass goes on without its watcher: nothing is fetched twice."""
    fault = site.chatgpt.fault("conversation/*", hold=True, after=2)
    async with started("sync", environ=site.environ) as watcher:
        await asyncio.wait_for(fault.until_held(), PATIENCE_SECONDS)
        await watcher.until("stale")
        assert await watcher.end(signal.SIGINT) == 130
    assert watcher.lines[-1] == "interrupted; what came is kept; the running server goes on by itself\n"
    site.chatgpt.clear_faults()
    await server.until("synced account=")
    assert sorted(site.fetched().values()) == [1, 1, 1, 1, 1]


async def test_a_token_that_is_refused_in_mid_pass_is_told(site: Site, server: Running) -> None:
    """Status 1 and what to do; without a token the next pass does not begin."""
    site.chatgpt.fault("conversation/*", error="bad_token", after=2)
    cut = await site.sync("--wait")
    assert cut.status == 1
    assert cut.err == "chatgpt_rest: ChatGPT refused the access token; give a new one: server.py token\n"
    again = await site.sync()
    assert (again.status, again.out) == (1, "")
    assert "give one with `server.py token`" in again.err
    assert server.process.returncode is None


async def test_a_server_that_stops_is_told(site: Site, server: Running) -> None:
    """The command does not wait for ever."""
    fault = site.chatgpt.fault("conversation/*", hold=True)
    async with started("sync", environ=site.environ) as watcher:
        await asyncio.wait_for(fault.until_held(), PATIENCE_SECONDS)
        await watcher.until("stale")
        assert await server.end(signal.SIGTERM) == 0
        assert await watcher.end() == 1
    told = "chatgpt_rest: the server has stopped; what came is kept, and the next one goes on there\n"
    assert watcher.lines[-1] == told


async def test_an_account_is_named_where_there_are_several(site: Site, server: Running) -> None:
    """By its id or the name it was given."""
    bob = site.chatgpt.bob
    bob.many(2)
    assert (await command("token", environ=site.environ, stdin=bob.token())).status == 0
    unclear = await site.sync()
    assert unclear.status == 1
    assert "there are several accounts; name one of them" in unclear.err
    assert (await command("account", "name", bob.user_id, "bob", environ=site.environ)).status == 0
    done = await site.sync("--account", "bob")
    assert (done.status, "fetched 2," in done.out) == (0, True)
    assert site.chatgpt.received(account=site.chatgpt.alice.user_id) == 1
    assert server.process.returncode is None


# --------------------------------------------------------------------------------------------------- on a terminal


@dataclass
class Terminal:
    """A process on a terminal of its own. `text` is all that was written, escapes included."""

    process: asyncio.subprocess.Process
    master: int
    text: str = ""

    async def until(self, pattern: str) -> None:
        """Wait for this to be written."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while re.search(pattern, self.text) is None:
                assert await self._read(), f"{pattern!r} was never written:\n{self.text}"

    async def end(self, number: signal.Signals | None = None) -> int:
        """Wait for the end, having sent a signal or not; gives the status."""
        if number is not None:
            self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self._read():
                pass
            return await self.process.wait()

    async def _read(self) -> bool:
        try:
            chunk = await asyncio.to_thread(os.read, self.master, 4096)
        except OSError:  # how Linux tells that nobody has the terminal open any more
            return False
        self.text += chunk.decode("utf-8", "replace")
        return bool(chunk)


@asynccontextmanager
async def on_a_terminal(*arguments: str, environ: dict[str, str]) -> AsyncIterator[Terminal]:
    """Run a command of `server.py` on a terminal 120 characters wide."""
    master, slave = os.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-W", "error", str(CHECKOUT / "server.py"), *arguments),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd="/",
            env={**environ, "TERM": "xterm", "COLUMNS": "120"},
        )
    finally:
        os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        os.close(master)


async def test_a_terminal_shows_how_far_it_is(site: Site) -> None:
    """A bar of what is current, with the requests that were made and the tokens that are left."""
    fault = site.chatgpt.fault("conversation/*", hold=True, after=2)
    async with on_a_terminal("sync", environ=site.environ) as terminal:
        await asyncio.wait_for(fault.until_held(), PATIENCE_SECONDS)
        await terminal.until(r"2/5\S* \d requests, \d\d left")
        site.chatgpt.clear_faults()
        assert await terminal.end() == 0
    assert "5/5" in terminal.text
    assert "fetched 5, gone 0, failed 0" in terminal.text


async def test_who_waits_sees_for_what(site: Site) -> None:
    """With `--wait` a spent budget does not end it; Ctrl-C does."""
    site.chatgpt.alice.many(60)
    async with on_a_terminal("sync", "--wait", environ=site.environ) as terminal:
        await terminal.until(r"10 kept for you, waits for the budget until \S*\d")
        assert await terminal.end(signal.SIGINT) == 130
    assert "interrupted; what came is kept" in terminal.text
    assert site.chatgpt.received() == CAPACITY - RESERVE
