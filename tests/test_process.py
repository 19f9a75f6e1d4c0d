# SPDX-License-Identifier: GPL-2.0-or-later
"""The server as a process: killed, stopped, watched, and what it touches of the machine it runs on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from chatgpt_rest.upstream.simulated import Account, SimulatedChatGPT
from tests.house import Answered, Client
from tests.process import PATIENCE_SECONDS, environment, started

strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@pytest.fixture
def chatgpt() -> SimulatedChatGPT:
    """A ChatGPT in the time of this machine, as the processes are."""
    return SimulatedChatGPT(conversations=False)


@pytest.fixture
def alice(chatgpt: SimulatedChatGPT) -> Account:
    """Whose conversations these are."""
    return chatgpt.alice


@pytest.fixture
def environ(tmp_path: Path, base_url: str) -> dict[str, str]:
    """What a server needs to know."""
    return environment(tmp_path, base_url)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Connections of a client."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def ask(client: Client, prompt: str = "Hello?") -> Answered:
    """Ask in a new conversation."""
    return await client.post("/conversations/new", data={"prompt": prompt})


def child_of(pid: int) -> int:
    """The one process that this one started."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


# ----------------------------------------------------------------------------------------------------------- killed


async def test_a_killed_server_takes_its_budget_along(
    environ: dict[str, str], session: aiohttp.ClientSession, alice: Account, chatgpt: SimulatedChatGPT
) -> None:
    """kill -9 after a burst of asks, and the next process reaches upstream 0 times more; reading goes on."""
    environ["CHATGPT_REST_RATE_LIMIT__REQUESTS_PER_HOUR"] = "10"
    token = alice.token()
    async with started(environ=environ) as server:
        client = Client(session, await server.address(), token)
        answers = await asyncio.gather(*(ask(client) for _ in range(15)))
        assert sorted(answer.status for answer in answers) == [201] * 9 + [500] * 6
        assert chatgpt.received() == 10
        await server.end(signal.SIGKILL)
    async with started(environ=environ) as server:
        client = Client(session, await server.address(), token)
        assert {answer.status for answer in await asyncio.gather(*(ask(client) for _ in range(5)))} == {500}
        assert len((await client.get("/conversations")).json) == 9
    assert chatgpt.received() == 10


async def test_a_server_killed_in_a_burst_sends_no_more_than_its_budget(
    environ: dict[str, str], session: aiohttp.ClientSession, alice: Account, chatgpt: SimulatedChatGPT
) -> None:
    """A request that was on its way when the process died keeps its token."""
    environ["CHATGPT_REST_RATE_LIMIT__REQUESTS_PER_HOUR"] = "10"
    token = alice.token()
    held = chatgpt.fault("conversation", after=4, times=1, hold=True)
    async with started(environ=environ) as server:
        client = Client(session, await server.address(), token)
        burst = [asyncio.create_task(ask(client)) for _ in range(15)]
        await held.until_held()
        await server.end(signal.SIGKILL)
    await asyncio.wait(burst)
    assert {each.result().status for each in burst if each.exception() is None} <= {201, 500}
    chatgpt.clear_faults()
    alice.generation = None
    async with started(environ=environ) as server:
        client = Client(session, await server.address(), token)
        answers = await asyncio.gather(*(ask(client) for _ in range(15)))
        assert sorted(answer.status for answer in answers) == [201] * 4 + [500] * 11
    assert chatgpt.received() == 10


async def test_a_server_killed_in_mid_answer_keeps_what_had_come(
    environ: dict[str, str], session: aiohttp.ClientSession, alice: Account, chatgpt: SimulatedChatGPT
) -> None:
    """The prompt and the beginning of the answer are there after a restart, and nothing is asked again."""
    token = alice.token()
    held = chatgpt.fault("conversation", hold_after_events=3)
    prompt = "Tell me something long, would you?"
    async with started(environ=environ) as server:
        client = Client(session, await server.address(), token)
        asking = asyncio.create_task(ask(client, prompt))
        await held.until_held()
        conversation_id, seen = "", 0
        async with asyncio.timeout(PATIENCE_SECONDS):
            while seen < 2:
                listed = (await client.get("/conversations")).json
                conversation_id = listed[0]["id"] if listed else ""
                read = await client.get(f"/conversations/{conversation_id}/messages") if listed else None
                seen = len(read.json) if read is not None and read.status == 200 else 0
        await server.end(signal.SIGKILL)
    await asyncio.wait((asking,))
    assert asking.exception() is not None
    asked = chatgpt.received()
    async with started(environ=environ) as server:
        client = Client(session, await server.address(), token)
        messages = (await client.get(f"/conversations/{conversation_id}/messages")).json
        assert [message["author"]["role"] for message in messages] == ["user", "assistant"]
        assert messages[0]["message"] == prompt
        assert messages[1]["message"] != ""
        assert "an earlier process ended in mid-answer asks=1" in server.text
    assert chatgpt.received() == asked


# ---------------------------------------------------------------------------------------------------------- stopped


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
async def test_a_stop_lets_the_answer_under_way_finish(
    environ: dict[str, str],
    session: aiohttp.ClientSession,
    alice: Account,
    chatgpt: SimulatedChatGPT,
    number: signal.Signals,
) -> None:
    """After the signal the client still gets its whole answer, and the process ends with status 0."""
    held = chatgpt.fault("conversation", hold_after_events=2)
    async with started(environ=environ) as server:
        client = Client(session, await server.address(), alice.token())
        asking = asyncio.create_task(ask(client))
        await held.until_held()
        server.send(number)
        await server.until("waiting for answers under way asks=1")
        held.release()
        answer = await asking
        assert (answer.status, answer.json["response"]["finish_details"]) == (201, "stop")
        assert await server.end() == 0
    assert chatgpt.received("POST") == 1


async def test_a_stop_refuses_new_asks(
    environ: dict[str, str], session: aiohttp.ClientSession, alice: Account, chatgpt: SimulatedChatGPT
) -> None:
    """While it drains, nobody new is let in, and who is in cannot ask any more."""
    held = chatgpt.fault("conversation", hold_after_events=2)
    async with started(environ=environ) as server:
        address = await server.address()
        client = Client(session, address, alice.token())
        _, port = address.rsplit(":", 1)
        asking = asyncio.create_task(ask(client))
        await held.until_held()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b'"ok"}')
        server.send(signal.SIGTERM)
        await server.until("waiting for answers under way asks=1")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(
            b"POST /conversations/new HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n"
            b"Authorization: " + str(client.authorization).encode() + b"\r\n\r\nprompt=x"
        )
        refused = await reader.readuntil(b"}")
        writer.close()
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b'"unavailable"' in refused
        held.release()
        assert (await asking).status == 201
        assert await server.end() == 0
    assert chatgpt.received("POST") == 1


async def test_a_drain_has_an_end(
    environ: dict[str, str], session: aiohttp.ClientSession, alice: Account, chatgpt: SimulatedChatGPT
) -> None:
    """An answer that does not end is broken off after `drain_seconds`, and the process ends with status 0."""
    environ["CHATGPT_REST_SERVER__DRAIN_SECONDS"] = "0.1"
    held = chatgpt.fault("conversation", hold_after_events=2)
    async with started(environ=environ) as server:
        asking = asyncio.create_task(ask(Client(session, await server.address(), alice.token())))
        await held.until_held()
        assert await server.end(signal.SIGTERM) == 0
    await asyncio.wait((asking,))
    assert "Traceback" not in server.text


async def test_the_service_manager_hears_everything_in_order(
    environ: dict[str, str], session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """READY when it answers, WATCHDOG while it lives, STOPPING when it is told to stop."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        loop = asyncio.get_running_loop()
        environ |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
        heard = []
        async with started(environ=environ) as server, asyncio.timeout(PATIENCE_SECONDS):
            ready = (await loop.sock_recv(manager, 4096)).decode()
            address = ready.rpartition(" ")[2]
            assert ready == f"READY=1\nSTATUS=listening on {address}"
            assert (await Client(session, address, None).get("/readyz")).status == 200
            heard = [await loop.sock_recv(manager, 4096) for _ in range(3)]
            assert heard == [b"WATCHDOG=1"] * 3
            server.send(signal.SIGTERM)
            while heard[-1] == b"WATCHDOG=1":
                heard.append(await loop.sock_recv(manager, 4096))
            assert heard[-1] == b"STOPPING=1"
            assert await server.end() == 0


# ------------------------------------------------------------------------------------------------ what it is like


async def test_it_runs_clean_under_the_strictest_python(
    environ: dict[str, str], session: aiohttp.ClientSession, alice: Account
) -> None:
    """-X dev -W error finds nothing from the start over reads, asks and errors to the stop."""
    (conversation,) = alice.many(1)
    async with started(environ=environ, python=("-X", "dev", "-W", "error"), cwd="/proc") as server:
        client = Client(session, await server.address(), alice.token())
        assert (await client.get(f"/conversations/{conversation.id}/messages")).status == 200
        assert (await ask(client)).status == 201
        assert (await client.delete(f"/conversations/{conversation.id}")).status == 204
        assert (await client.get("/nowhere")).status == 404
        assert (await client.as_("nobody").get("/conversations")).status == 401
        assert await server.end(signal.SIGTERM) == 0
    assert re.findall(r"Warning|Traceback|Error|never", server.text) == []


async def test_nobody_beyond_the_limit_is_held(
    environ: dict[str, str], session: aiohttp.ClientSession, alice: Account, chatgpt: SimulatedChatGPT
) -> None:
    """On the event loop that the program runs on, too, a connection too many is closed at once."""
    environ["CHATGPT_REST_SERVER__MAX_CONNECTIONS"] = "1"
    held = chatgpt.fault("conversation", hold_after_events=1)
    async with started(environ=environ) as server:
        address = await server.address()
        asking = asyncio.create_task(ask(Client(session, address, alice.token())))
        await held.until_held()
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
            async with asyncio.timeout(PATIENCE_SECONDS / 10):
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
            writer.close()
        held.release()
        assert (await asking).status == 201
        assert await server.end(signal.SIGTERM) == 0


async def test_a_server_that_only_reads_loads_nothing_for_asking(
    environ: dict[str, str], session: aiohttp.ClientSession, alice: Account
) -> None:
    """Neither what goes upstream nor what the command line needs is imported before it is used."""
    (conversation,) = alice.many(1)
    token = alice.token()
    async with started(environ=environ) as server:
        read = await Client(session, await server.address(), token).get(f"/conversations/{conversation.id}/messages")
        assert read.status == 200
        await server.end(signal.SIGTERM)
    async with started(environ=environ, python=("-X", "importtime")) as server:
        client = Client(session, await server.address(), token)
        assert (await client.get("/conversations")).status == 200
        assert (await client.get(f"/conversations/{conversation.id}/messages")).body == read.body
        await server.end(signal.SIGTERM)
    lines = re.findall(r"^import time:.*\|(.*)$", server.text, re.MULTILINE)
    imported = {name.strip().partition(".")[0] for name in lines}
    assert "aiohttp" in imported
    heavy = {"revChatGPT", "openai", "httpx", "httpcore", "requests", "prompt_toolkit", "rich", "typer", "click"}
    assert imported & heavy == set()


async def test_it_answers_soon_after_it_is_started(
    environ: dict[str, str], session: aiohttp.ClientSession, record_property: Callable[[str, object], None]
) -> None:
    """From the start of the process to the first answered request; measured and printed, as machines differ."""
    begin = time.monotonic()
    async with started(environ=environ, python=()) as server:
        answer = await Client(session, await server.address(), None).get("/healthz")
        seconds = time.monotonic() - begin
    assert answer.json == {"status": "ok"}
    record_property("start_to_first_answer_seconds", round(seconds, 3))
    print(f"start to first answered request: {seconds:.3f} s")  # noqa: T201


@strace
async def test_it_touches_its_own_folder_and_upstream_and_nothing_else(
    environ: dict[str, str],
    session: aiohttp.ClientSession,
    alice: Account,
    tmp_path: Path,
) -> None:
    """No file is written or made outside the mirror's folder, and no address connected to but upstream's."""
    calls = tmp_path / "calls"
    mirror = tmp_path / "mirror"
    environ |= {"CHATGPT_REST_MIRROR__PATH": str(mirror / "m.sqlite"), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in [name for name in environ if name.startswith("COVERAGE_")]:
        del environ[name]  # which writes files of its own
    traced = "connect,sendto,openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat"
    under = ("strace", "-f", "-qq", "-y", "-s", "4096", "-o", str(calls), "-e", f"trace={traced}")
    async with started(environ=environ, python=(), under=under, cwd="/proc") as server:
        client = Client(session, await server.address(), alice.token())
        assert (await ask(client)).status == 201
        assert (await client.get("/conversations")).status == 200
        os.kill(child_of(server.pid), signal.SIGTERM)
        await server.end()
    upstream = environ["CHATGPT_REST_UPSTREAM__BASE_URL"].split(":")[2].split("/")[0]
    written, connected = set(), set()
    for line in calls.read_text().splitlines():
        path = re.search(r'"([^"]*)"', line)
        if re.search(r" (open|openat)\(", line):
            if re.search(r"O_WRONLY|O_RDWR|O_CREAT", line) and path is not None and "ENOENT" not in line:
                written.add(path[1])
        elif re.search(r" (creat|mkdir|rename|link|symlink)\w*\(", line) and path is not None:
            written.add(path[1])
        elif address := re.search(r"sin6?_port=htons\((\d+)\).*?\"([0-9a-f.:]+)\"", line):
            connected.add((address[2], address[1]))
    assert {path for path in written if not path.startswith(str(mirror)) and path != "/dev/null"} == set()
    assert connected == {("127.0.0.1", upstream)}
