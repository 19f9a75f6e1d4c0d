# SPDX-License-Identifier: GPL-2.0-or-later
"""kill -9 while the server syncs, again and again: what that costs is counted at ChatGPT's end, and what is in the
mirror after all is compared with one that nobody disturbed.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Final

import aiohttp
import pytest
from hypothesis import settings

from chatgpt_rest.clock import HOUR, SECOND
from chatgpt_rest.upstream.simulated import Account, SimulatedChatGPT
from tests.house import Client
from tests.process import Running, command, environment, started
from tests.rows import rows

SEED: Final = 20_261_122
PATIENCE_SECONDS: Final = 300.0
LONGEST_DELAY_SECONDS: Final = 0.03  # of a kill after an answer: it is read, stored, and the next request leaves
SYNCED: Final = "synced account="

# Times of this mirror's own are left out: they tell when what was written, not what is here.
CONVERSATIONS: Final = """
    select account, id, title, create_time, update_time, current_node, is_archived, is_starred, project, model,
           envelope, has_content, is_local, is_title_pending, is_deleted_upstream, deleted_at, listed_update_time,
           fetched_update_time, failures, failure, is_stale, listed_at is null, fetched_at is null
    from conversation order by account, id
"""
NODES: Final = """
    select account, conversation, id, position, parent, children, extra, message, create_time, shape, completeness,
           is_absent_upstream
    from node order by account, conversation, id
"""
LISTS: Final = """
    select account, list, name, ground, top, read_at is null, swept_at is null, absent_until is null, begun_at is null
    from listing order by account, list
"""
SYNCS: Final = """
    select account, sweep_began_at is null, swept_at is null, failures, rests_until, error_code from sync
"""
ACCOUNTS: Final = "select account, is_list_whole, listed_at is null from account"


@pytest.fixture
def chatgpt() -> SimulatedChatGPT:
    """A ChatGPT in the time of this machine, as the processes are."""
    return SimulatedChatGPT(conversations=False)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """Connections of a client."""
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def alice(chatgpt: SimulatedChatGPT) -> Account:
    """Whose conversations these are."""
    return chatgpt.alice


def furnish(account: Account, number: int) -> None:
    """Give an account so many conversations, a minute apart: every tenth is archived, every tenth stands in a project,
    and every fifth has branches.
    """
    project = account.add_project("Winter")
    end = time.time() - HOUR / SECOND
    for index in range(number):
        at = end - 60 * (number - index)
        conversation = account.add_conversation(
            f"Note {index}",
            [(f"Remember note {index}.", "Noted."), ("And what was it?", f"Note {index}. " * 20)],
            at=at,
            archived=index % 10 == 3,
            project=project if index % 10 == 7 else None,
        )
        if index % 5 == 1:
            conversation.regenerate()
            conversation.edit_prompt("And what was that?")
            conversation.update_time = at


def syncing(folder: Path, base_url: str, account: Account) -> dict[str, str]:
    """What a server needs to know to sync an account of any size in one go, and to read its lists once."""
    environ = environment(
        folder,
        base_url,
        {
            "CHATGPT_REST_SYNC__ENABLED": "true",
            "CHATGPT_REST_SYNC__INTERVAL_SECONDS": "86400",
            "CHATGPT_REST_RATE_LIMIT__REQUESTS_PER_HOUR": "10000",
            "CHATGPT_REST_UPSTREAM__ACCESS_TOKEN": account.token(),
        },
    )
    # A process that is killed tells nothing of its coverage, and collecting it would only slow it down.
    return {name: value for name, value in environ.items() if not name.startswith("COVERAGE_")}


async def synced(server: Running) -> None:
    """Wait for the end of a pass, long as it may be."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while SYNCED not in server.text:
            with contextlib.suppress(TimeoutError):
                await server.until(SYNCED)


async def all_arrived(session: aiohttp.ClientSession, base_url: str) -> None:
    """Wait until ChatGPT has seen whatever a process sent that is dead by now: what asks later is answered later."""
    async with session.get(base_url.replace("/backend-api/", "/simulated/settings")) as response:
        assert response.status == 200


def kill_points(random: Random, conversations: int, kills: int) -> list[int]:
    """After how many requests each kill comes: anywhere in the sync, and a quarter of them while lists are read."""
    early = conversations // 30 + kills // 2
    return sorted([*random.sample(range(early), kills // 4), *random.sample(range(conversations), kills - kills // 4)])


async def test_a_sync_that_is_killed_again_and_again_loses_what_is_in_flight_and_nothing_else(
    tmp_path: Path, chatgpt: SimulatedChatGPT, alice: Account, base_url: str, session: aiohttp.ClientSession
) -> None:
    """Whatever a killed process had fetched is not fetched again but for the one request in flight, each request had
    its token, and in the end the mirror holds what one holds that nobody disturbed.
    """
    conversations, kills = (3_000, 200) if settings.get_current_profile_name() == "soak" else (300, 20)
    furnish(alice, conversations)
    random = Random(SEED)
    environ = syncing(tmp_path / "disturbed", base_url, alice)
    in_flight: Counter[str] = Counter()
    for point in kill_points(random, conversations, kills):
        fault = chatgpt.fault(
            after=max(0, point - chatgpt.received()),
            times=1,
            hold=True,
            drip_bytes=random.choice([None, None, 1_000]),
        )
        async with started(environ=environ, is_whole=True) as server, asyncio.timeout(PATIENCE_SECONDS):
            await fault.until_held()
            if random.random() < 0.75:
                fault.release()
                await asyncio.sleep(random.uniform(0, LONGEST_DELAY_SECONDS))  # into whatever it does then
            assert await server.end(signal.SIGKILL) == -signal.SIGKILL
        chatgpt.clear_faults()
        await all_arrived(session, base_url)
        in_flight[chatgpt.requests[-1].path] += 1
    async with started(environ=environ) as server:
        await synced(server)
        assert await server.end(signal.SIGTERM) == 0
    disturbed = Counter(request.path for request in chatgpt.requests)
    chatgpt.requests.clear()
    async with started(environ=syncing(tmp_path / "undisturbed", base_url, alice)) as server:
        await synced(server)
        assert await server.end(signal.SIGTERM) == 0
    undisturbed = Counter(request.path for request in chatgpt.requests)

    assert sum(in_flight.values()) == kills
    assert set(undisturbed.values()) == {1}
    assert disturbed - undisturbed <= in_flight
    assert disturbed.keys() == undisturbed.keys()
    assert sum("/conversation/" in path for path in undisturbed) == conversations
    mirrors = [tmp_path / name / "mirror.sqlite" for name in ("disturbed", "undisturbed")]
    assert rows(mirrors[0], "select count(*) from upstream_request")[0][0] >= disturbed.total()
    for query in (CONVERSATIONS, NODES, LISTS, SYNCS, ACCOUNTS):
        first, second = (rows(mirror, query) for mirror in mirrors)
        assert first == second


async def test_an_answer_cut_by_a_kill_is_completed_by_the_next_sync(
    tmp_path: Path, chatgpt: SimulatedChatGPT, alice: Account, base_url: str, session: aiohttp.ClientSession
) -> None:
    """Half an answer is replaced by the whole one, which ChatGPT wrote to its end: one prompt, one answer, one ask."""
    environ = syncing(tmp_path, base_url, alice)
    token = environ["CHATGPT_REST_UPSTREAM__ACCESS_TOKEN"]
    fault = chatgpt.fault("conversation", hold_after_events=3)
    async with started(environ=environ) as server, asyncio.timeout(PATIENCE_SECONDS):
        client = Client(session, await server.address(), token)
        asking = asyncio.create_task(client.post("/conversations/new", data={"prompt": "Tell me something long."}))
        await fault.until_held()
        while not (begun := (await client.get("/conversations")).json):
            pass
        while len((await client.get(f"/conversations/{begun[0]['id']}/messages")).json) < 2:
            pass
        await server.end(signal.SIGKILL)
    await asyncio.wait((asking,))
    assert asking.exception() is not None
    chatgpt.clear_faults()
    async with started(environ=environ) as server:
        await synced(server)
        client = Client(session, await server.address(), token)
        (listed,) = (await client.get("/conversations")).json
        messages = (await client.get(f"/conversations/{listed['id']}/messages")).json
    (upstream,) = alice.conversations
    assert listed["id"] == upstream.id
    assert [message["message"] for message in messages] == [
        "Tell me something long.",
        upstream.mapping[upstream.current_node]["message"]["content"]["parts"][0],
    ]
    assert chatgpt.received("POST", "conversation") == 1


async def test_a_prompt_whose_process_died_before_any_answer_is_found_by_the_next_sync(
    tmp_path: Path, chatgpt: SimulatedChatGPT, alice: Account, base_url: str, session: aiohttp.ClientSession
) -> None:
    """What was kept here with no id of ChatGPT's, and what ChatGPT made of it, become one conversation."""
    environ = syncing(tmp_path, base_url, alice)
    token = environ["CHATGPT_REST_UPSTREAM__ACCESS_TOKEN"]
    fault = chatgpt.fault("conversation", hold=True)
    async with started(environ=environ) as server, asyncio.timeout(PATIENCE_SECONDS):
        client = Client(session, await server.address(), token)
        asking = asyncio.create_task(client.post("/conversations/new", data={"prompt": "Are you there?"}))
        await fault.until_held()
        await server.end(signal.SIGKILL)
    await asyncio.wait((asking,))
    assert asking.exception() is not None
    chatgpt.clear_faults()
    await all_arrived(session, base_url)
    async with started(environ=environ) as server:
        client = Client(session, await server.address(), token)
        assert (await client.post("/sync")).status == 202
        await synced(server)
        (listed,) = (await client.get("/conversations")).json
        messages = (await client.get(f"/conversations/{listed['id']}/messages")).json
    (upstream,) = alice.conversations
    assert (listed["id"], messages[0]["message"], len(messages)) == (upstream.id, "Are you there?", 2)
    assert chatgpt.received("POST", "conversation") == 1


async def test_a_second_server_cannot_sync_beside_the_first(
    tmp_path: Path, chatgpt: SimulatedChatGPT, alice: Account, base_url: str
) -> None:
    """It is told who has the mirror, and has asked ChatGPT for nothing."""
    furnish(alice, 10)
    environ = syncing(tmp_path, base_url, alice)
    fault = chatgpt.fault("conversation/*", hold=True)
    async with started(environ=environ) as server, asyncio.timeout(PATIENCE_SECONDS):
        await fault.until_held()
        before = chatgpt.received()
        second = await command(environ=environ)
        assert second.status != 0
        assert f"is in use by process {server.pid}" in second.err
        assert chatgpt.received() == before
