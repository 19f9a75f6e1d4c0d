# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command of the command line, each as a real process, with a running server and without one."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.process import Finished, Running, command, environment, started


@dataclass
class Site:
    """A folder for a mirror, a ChatGPT behind it, and an environment that tells of both."""

    chatgpt: SimulatedChatGPT
    environ: dict[str, str]
    folder: Path

    async def run(self, *arguments: str, stdin: str = "") -> Finished:
        return await command(*arguments, environ=self.environ, stdin=stdin)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Where nothing runs yet but ChatGPT."""
    chatgpt = SimulatedChatGPT(conversations=False)
    chatgpt.alice.many(2)
    async with chatgpt.serving() as base_url:
        yield Site(chatgpt, environment(tmp_path, base_url), tmp_path)


@pytest.fixture
async def server(site: Site) -> AsyncIterator[Running]:
    """A running server."""
    async with started(environ=site.environ) as running:
        await running.address()
        yield running


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files whose name is short: a socket's path must be."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


async def get(address: str, credential: str, path: str = "/conversations") -> tuple[int, Any]:
    """Read as a client would."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(address + path, headers={"Authorization": credential}) as response,
    ):
        return response.status, await response.json()


# -------------------------------------------------------------------------------------------- with a server running


async def test_a_key_from_the_command_line_reads(site: Site, server: Running) -> None:
    """`token` and `key create` beside a running server: the key alone is printed, and works at once."""
    given = await site.run("token", stdin=site.chatgpt.alice.token() + "\n")
    assert (given.status, given.err) == (0, "")
    assert f"accepted: account {site.chatgpt.alice.user_id}, valid until 20" in given.out
    made = await site.run("key", "create", "laptop", "--account", site.chatgpt.alice.user_id)
    assert re.fullmatch(r"cgrt_[\w-]{43}\n", made.out)
    assert "it is not shown again" in made.err
    assert made.out.strip() not in made.err
    status, conversations = await get(await server.address(), made.out.strip())
    assert (status, len(conversations)) == (200, 2)
    revoked = await site.run("key", "revoke", "laptop")
    assert (revoked.status, revoked.out) == (0, "key laptop opens nothing any more\n")
    assert (await get(await server.address(), made.out.strip()))[0] == 401


async def test_accounts_and_keys_are_listed(site: Site, server: Running) -> None:
    """`account list`, `account name` and `key list` through the running server."""
    await get(await server.address(), site.chatgpt.alice.token())
    named = await site.run("account", "name", site.chatgpt.alice.user_id, "alice")
    assert (named.status, named.out) == (0, f"account {site.chatgpt.alice.user_id} is alice now\n")
    listed = await site.run("account", "list")
    assert listed.status == 0
    for word in (site.chatgpt.alice.user_id[:10], "alice", "email", "conversations"):
        assert word in listed.out
    assert (await site.run("key", "create", "laptop", "--account", "alice")).status == 0
    keys = await site.run("key", "list")
    assert "laptop" in keys.out
    assert "cgrt_" not in keys.out


async def test_a_list_that_is_piped_is_not_cut(site: Site, server: Running) -> None:
    """Ids and addresses are whole where a program reads them, however wide the terminal would be."""
    await get(await server.address(), site.chatgpt.alice.token())
    listed = await site.run("account", "list")
    assert site.chatgpt.alice.user_id in listed.out
    assert "alice@example.org" in listed.out


async def test_check_finds_all_in_order(site: Site, server: Running) -> None:
    """With a server, an account and an upstream in good health, `check` ends with 0 and spends nothing."""
    await get(await server.address(), site.chatgpt.alice.token())
    checked = await site.run("check")
    assert (checked.status, checked.err) == (0, "")
    assert f"running as process {server.pid}" in checked.out
    assert "✗" not in checked.out
    assert "49 of 50 requests left" in checked.out
    assert site.chatgpt.received() == 1


async def test_a_second_server_says_who_has_the_mirror(site: Site, server: Running) -> None:
    """It exits 78 with one line that names the process, and leaves the first one alone."""
    second = await site.run("serve")
    assert (second.status, second.out) == (78, "")
    assert second.err.count("\n") == 1
    assert f"is in use by process {server.pid}" in second.err
    assert (await site.run("key", "list")).status == 0


async def test_a_forged_token_is_refused(site: Site, server: Running) -> None:
    """`token` says that upstream refused it, without repeating it, and exits 1."""
    refused = await site.run("token", stdin="a-made-up-token\n")
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == "chatgpt_rest: upstream does not accept the access token\n"
    assert "a-made-up-token" not in server.text


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer  ", "BEARER "])
async def test_a_token_may_come_as_its_header_does(site: Site, server: Running, scheme: str) -> None:
    """What was copied with its scheme is the same token: the server goes upstream with the bare one."""
    bare = site.chatgpt.alice.token()
    given = await site.run("token", stdin=f"{scheme}{bare}\n")
    assert (given.status, given.err) == (0, "")
    assert [request.headers["Authorization"] for request in site.chatgpt.requests] == [f"Bearer {bare}"]
    assert (await get(await server.address(), bare))[0] == 200
    assert site.chatgpt.received() == 1


@pytest.mark.parametrize("stdin", ["", "\n", " \n"], ids=["nothing", "a line break", "a blank"])
async def test_no_token_is_told(site: Site, stdin: str) -> None:
    """`token` with nothing on standard input exits 1."""
    refused = await site.run("token", stdin=stdin)
    assert (refused.status, refused.err) == (1, "chatgpt_rest: no token came on standard input\n")


async def test_a_token_of_any_bytes_is_no_crash(site: Site, server: Running) -> None:
    """What is not even text is refused in a sentence."""
    refused = await site.run("token", stdin="\udcff\udcfe\n")
    assert refused.status == 1
    assert refused.err.startswith("chatgpt_rest: this is no access token")


# -------------------------------------------------------------------------------------------------- with no server


async def test_commands_work_without_a_server(site: Site) -> None:
    """They open the mirror themselves, and let go of it."""
    empty = await site.run("account", "list")
    assert (empty.status, empty.out) == (0, "none yet\n")
    unknown = await site.run("key", "create", "laptop", "--account", "nobody")
    assert (unknown.status, unknown.out) == (1, "")
    assert "there is no account nobody (known: none yet)" in unknown.err
    revoked = await site.run("key", "revoke", "laptop")
    assert (revoked.status, revoked.err) == (1, "chatgpt_rest: there is no key laptop\n")
    assert not (site.folder / "control.sock").exists()


async def test_a_key_made_without_a_server_works_when_there_is_one(site: Site) -> None:
    """What a command wrote while no server ran is what the next one reads."""
    async with started(environ=site.environ) as server:
        await get(await server.address(), site.chatgpt.alice.token())
        await server.end(signal.SIGTERM)
    made = await site.run("key", "create", "laptop", "--account", site.chatgpt.alice.user_id)
    async with started(environ=site.environ) as server:
        assert (await get(await server.address(), made.out.strip()))[0] == 200


async def test_a_token_needs_a_server(site: Site) -> None:
    """It is kept in memory only: with no server there is nobody to keep it."""
    refused = await site.run("token", stdin=site.chatgpt.alice.token())
    assert (refused.status, refused.err) == (
        78,
        "chatgpt_rest: no server is running with this mirror; start one first\n",
    )
    assert site.chatgpt.received() == 0


async def test_check_finds_what_is_wrong(site: Site) -> None:
    """An upstream that is away: `check` says so with what follows from it, and exits 1."""
    environ = {**site.environ, "CHATGPT_REST_UPSTREAM__BASE_URL": "http://127.0.0.1:9/backend-api/"}
    checked = await command("check", environ=environ)
    assert (checked.status, checked.err) == (1, "")
    assert "✗ upstream: 127.0.0.1 cannot be reached" in checked.out
    assert "→ reading goes on without it" in checked.out


async def test_a_stale_socket_is_no_server(site: Site) -> None:
    """After a kill -9 the socket is still there: commands see through it, and the next server replaces it."""
    async with started(environ=site.environ) as server:
        await server.address()
        await server.end(signal.SIGKILL)
    assert (site.folder / "control.sock").is_socket()
    assert (await site.run("key", "list")).out == "none yet\n"
    async with started(environ=site.environ) as server:
        await server.address()
        assert os.lstat(site.folder / "control.sock").st_mode & 0o777 == 0o600
        assert (await site.run("key", "list")).out == "none yet\n"


# --------------------------------------------------------------------------------------------------- what is wrong


async def test_a_broken_configuration_is_one_line(site: Site) -> None:
    """Whatever the command: exit status 78, one clear line, no traceback."""
    environ = {**site.environ, "CHATGPT_REST_SERVER__PORT": "nine"}
    commands: list[tuple[str, ...]] = [(), ("serve",), ("check",), ("key", "list"), ("token",)]
    for refused in await asyncio.gather(*(command(*each, environ=environ, stdin="a-token") for each in commands)):
        assert (refused.status, refused.out) == (78, "")
        assert refused.err == "chatgpt_rest: environment: CHATGPT_REST_SERVER__PORT = 'nine': Expected `int`\n"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CHATGPT_REST_SERVER__PORT", "{taken}", "address already in use; choose another [server] port"),
        ("CHATGPT_REST_SERVER__HOST", "192.0.2.1", "cannot be listened on"),
        ("CHATGPT_REST_MIRROR__PATH", "/proc/nowhere/mirror.sqlite", "name another place with [mirror] path"),
        ("CHATGPT_REST_MIRROR__PATH", "{folder}", "Is a directory"),
        ("CHATGPT_REST_MIRROR__PATH", "{long}/mirror.sqlite", "the control socket cannot be opened"),
    ],
    ids=["port taken", "no such address", "no such folder", "a folder", "path too long for a socket"],
)
async def test_what_stops_a_start_is_one_line(site: Site, variable: str, value: str, words: str) -> None:
    """A server that cannot start says why in one line and exits 78."""
    taken = site.environ["CHATGPT_REST_UPSTREAM__BASE_URL"].split(":")[2].split("/")[0]
    long = site.folder / ("x" * 120)
    text = value.format(taken=taken, folder=site.folder, long=long)
    refused = await command("serve", environ={**site.environ, variable: text})
    assert refused.status == 78
    *logged, line = refused.err.splitlines()
    assert all(" INFO chatgpt_rest." in each for each in logged)
    assert line.startswith("chatgpt_rest: ")
    assert words.lower() in line.lower()


async def test_an_unknown_command_is_told(site: Site) -> None:
    """As every command line does: usage, and status 2."""
    refused = await site.run("sevre")
    assert refused.status == 2
    assert "No such command 'sevre'" in refused.err


async def test_help_lists_every_command(site: Site) -> None:
    """Each command has its line."""
    shown = await site.run("--help")
    assert shown.status == 0
    for name in ("serve", "demo", "simulate", "token", "check", "undelete", "sync", "key", "account"):
        assert re.search(rf"^\W*{name} +\w", shown.out, re.MULTILINE), name


async def test_serve_takes_a_file_an_address_and_a_port(site: Site) -> None:
    """`serve --config FILE --host H --port P`, and options win over the environment."""
    file = site.folder / "mine.toml"
    file.write_text(f'[mirror]\npath = "elsewhere/m.sqlite"\n[server]\nmax_connections = 9\nhost = "{"localhost"}"\n')
    environ = {name: value for name, value in site.environ.items() if name != "CHATGPT_REST_MIRROR__PATH"}
    environ["CHATGPT_REST_SERVER__PORT"] = "1"
    options = ("serve", "--config", str(file), "--host", "127.0.0.2", "--port", "0")
    async with started(*options, environ=environ) as server:
        address = await server.address()
        assert re.fullmatch(r"http://127\.0\.0\.2:[1-9]\d{3,}", address)
        assert (await get(address, site.chatgpt.alice.token()))[0] == 200
        assert await server.end(signal.SIGINT) == 0
    assert (site.folder / "elsewhere/m.sqlite").exists()


# ---------------------------------------------------------------------------------------------- simulate and demo


async def test_simulate_serves_the_simulation_alone(site: Site) -> None:
    """It prints where it listens and tokens that it accepts, and ends on SIGINT."""
    async with started("simulate", "--port", "0", environ=site.environ) as simulation:
        base_url = (await simulation.until(r"base_url\s+(\S+)"))[1]
        token = (await simulation.until(r"Alice Winter\s+(\S+)"))[1]
        status, page = await get(base_url, f"Bearer {token}", "conversations?limit=3")
        assert (status, len(page["items"])) == (200, 3)
        assert await simulation.end(signal.SIGINT) == 0


async def test_a_simulation_on_a_taken_port_is_one_line(site: Site) -> None:
    """The port is named, and the status is 78."""
    taken = site.environ["CHATGPT_REST_UPSTREAM__BASE_URL"].split(":")[2].split("/")[0]
    refused = await site.run("simulate", "--port", taken)
    assert refused.status == 78
    assert refused.err.startswith(f"chatgpt_rest: 127.0.0.1:{taken} cannot be listened on")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
async def test_a_demo_that_is_stopped_leaves_nothing_behind(temporary: Path, number: signal.Signals) -> None:
    """Also where the terminal that it runs in is closed: status 0, and the folder is gone."""
    environ = {**environment(temporary, "http://127.0.0.1:9/"), "TMPDIR": str(temporary)}
    async with started("demo", "--port", "0", environ=environ) as demo:
        await demo.until("Ctrl-C")
        assert left_in(temporary) != []
        assert await demo.end(number) == 0
    assert "Traceback" not in demo.text
    assert left_in(temporary) == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_lines_of_the_demo_work_when_pasted(temporary: Path) -> None:
    """Each in a shell of its own; and afterwards nothing of the demo is left."""
    environ = {**environment(temporary, "http://127.0.0.1:9/"), "TMPDIR": str(temporary)}
    async with started("demo", "--port", "0", environ=environ) as demo:
        await demo.until("Ctrl-C")
        listing, asking, completing, reading, importing, exporting = re.findall(r"^curl .*$", demo.text, re.MULTILINE)
        assert len(re.findall(r'"id":', await pasted(listing))) >= 25
        assert '{"response":' in (await pasted(asking)).replace(" ", "")
        assert (await pasted(completing)).endswith("data: [DONE]\n\n")
        messages = await pasted(reading)
        assert "Which planet has the most moons?" in messages
        assert '"url":"/import/' in (await pasted(importing)).replace(" ", "")
        assert "## User" in await pasted(exporting)
        assert re.search(r"access token\s+ey", demo.text)
        assert await demo.end(signal.SIGINT) == 0
    assert "Traceback" not in demo.text
    assert left_in(temporary) == []


async def test_a_demo_on_a_taken_port_leaves_nothing_behind(site: Site, temporary: Path) -> None:
    """One line, status 78, and no temporary folder."""
    taken = site.environ["CHATGPT_REST_UPSTREAM__BASE_URL"].split(":")[2].split("/")[0]
    refused = await command("demo", "--port", taken, environ={**site.environ, "TMPDIR": str(temporary)})
    assert refused.status == 78
    assert f"127.0.0.1:{taken} cannot be listened on" in refused.err
    assert left_in(temporary) == []


def left_in(folder: Path) -> list[Path]:
    """What lies in a folder."""
    return sorted(folder.iterdir())


async def pasted(line: str) -> str:
    """What a line prints that is pasted into bash."""
    process = await asyncio.create_subprocess_exec("bash", "-c", line, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()
