# SPDX-License-Identifier: GPL-2.0-or-later
"""`server.py undelete`, and what clients see of a conversation that came back."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from chatgpt_rest.clock import DAY, iso
from chatgpt_rest.control import Control, control_over
from chatgpt_rest.errors import BadRequest, NotFound
from chatgpt_rest.upstream.simulated import SimConversation, SimulatedChatGPT
from tests.house import NOON, Client, House
from tests.process import Finished, command, environment, started

NEVER_HERE: Final = "00000000-0000-4000-8000-000000000001"
NOWHERE: Final = "http://127.0.0.1:9/backend-api/"


@pytest.fixture
def control(house: House) -> Control:
    """What the owner of the running server may do."""
    return control_over(house.app, house.clock)


@pytest.fixture
async def groceries(client: Client, chatgpt: SimulatedChatGPT) -> SimConversation:
    """A conversation that was read and deleted."""
    conversation = chatgpt.alice.add_conversation("Groceries", [("What do I need?", "Milk.")])
    await client.get(f"/conversations/{conversation.id}")
    await client.delete(f"/conversations/{conversation.id}")
    return conversation


async def ids(client: Client, query: str = "") -> list[str]:
    """The ids that a list shows."""
    return [entry["id"] for entry in (await client.get(f"/conversations{query}")).json]


# -------------------------------------------------------------------------------------------- what clients see of it


async def test_what_came_back_is_read_without_upstream(
    client: Client, control: Control, chatgpt: SimulatedChatGPT, groceries: SimConversation
) -> None:
    """Its messages are as before, its detail says that upstream has deleted it, and no request leaves."""
    assert (await client.get(f"/conversations/{groceries.id}/messages")).status == 404
    chatgpt.requests.clear()
    await control.undelete(None, [groceries.id], everything=False)
    said = (await client.get(f"/conversations/{groceries.id}/messages")).json
    assert [message["message"] for message in said] == ["What do I need?", "Milk."]
    assert (await client.get(f"/conversations/{groceries.id}")).json["deleted_upstream"] is True
    assert chatgpt.received() == 0


async def test_what_came_back_stands_among_the_deleted(
    client: Client, control: Control, groceries: SimConversation
) -> None:
    """The ordinary list leaves it out; one that is asked for deleted ones shows it, as deleted upstream only."""
    (before,) = (await client.get("/conversations?deleted=only")).json
    await control.undelete(None, [groceries.id], everything=False)
    (after,) = (await client.get("/conversations?deleted=only")).json
    assert await ids(client) == []
    assert (before["deleted_at"], before["deleted_upstream"]) == (iso(NOON), False)
    assert (after["deleted_at"], after["deleted_upstream"]) == (None, True)


async def test_nothing_can_be_asked_in_what_came_back(
    client: Client, control: Control, groceries: SimConversation
) -> None:
    """ChatGPT's own copy stays deleted: it says that there is none, and what is here stays readable."""
    await control.undelete(None, [groceries.id], everything=False)
    refused = await client.post(f"/conversations/{groceries.id}/ask", json={"prompt": "And eggs?"})
    assert refused.status == 404
    said = (await client.get(f"/conversations/{groceries.id}/messages")).json
    assert [message["message"] for message in said] == ["What do I need?", "Milk."]


async def test_what_came_back_can_be_deleted_again(
    client: Client, control: Control, groceries: SimConversation
) -> None:
    """Its days begin anew."""
    await control.undelete(None, [groceries.id], everything=False)
    assert (await client.delete(f"/conversations/{groceries.id}")).status == 204
    assert [each["id"] for each in await control.list_deleted(None)] == [groceries.id]


async def test_deleting_all_can_be_taken_back_whole(
    client: Client, control: Control, chatgpt: SimulatedChatGPT
) -> None:
    """The archive, a project's conversations and what lives here only included."""
    chatgpt.alice.add_conversation("Plain")
    chatgpt.alice.add_conversation("With a GPT", gpt="g-abc123")
    archived = chatgpt.alice.add_conversation("Kept")
    await client.patch(f"/conversations/{archived.id}", json={"is_archived": True})
    chatgpt.fault("conversation", reset=True, times=1)
    local = (await client.post("/conversations/new", json={"prompt": "Lost?"})).json["conversation_id"]
    before = await ids(client, "?archived=all")
    chatgpt.requests.clear()
    assert (await client.delete("/conversations/all")).status == 204
    assert chatgpt.received() == 1
    assert await ids(client, "?archived=all&deleted=only") == before
    assert len(await control.undelete(None, [], everything=True)) == len(before) == 4
    assert await ids(client, "?archived=all&deleted=all") == before
    assert await ids(client) == [local]


async def test_what_was_purged_is_in_no_list(
    house: House, client: Client, control: Control, groceries: SimConversation
) -> None:
    """Nor can it come back; reading it is a 404 that asks nothing."""
    house.clock.move(seconds=31 * 86_400)
    client = client.as_(house.chatgpt.alice.token())
    await client.get("/conversations")
    assert await house.mirror.purge_deleted(before=house.clock.now() - 30 * DAY) == 1
    house.chatgpt.requests.clear()
    assert await ids(client, "?archived=all&deleted=all") == []
    assert (await client.get(f"/conversations/{groceries.id}")).status == 404
    assert await control.list_deleted(None) == []
    with pytest.raises(NotFound, match="nothing of it is left"):
        await control.undelete(None, [groceries.id], everything=False)
    assert house.chatgpt.received() == 0


async def test_what_can_come_back_is_listed_with_its_last_day(control: Control, groceries: SimConversation) -> None:
    """`keep_deleted_days` after it was deleted."""
    assert await control.list_deleted(None) == [
        {"id": groceries.id, "title": "Groceries", "deleted_at": iso(NOON), "until": iso(NOON + 30 * DAY)}
    ]


async def test_an_id_that_is_none_is_refused(control: Control, groceries: SimConversation) -> None:
    """Before anything is looked up, and without repeating it."""
    with pytest.raises(BadRequest, match="this is no id of a conversation"):
        await control.undelete(None, [groceries.id, "../\udcff"], everything=False)
    assert len(await control.list_deleted(None)) == 1


# --------------------------------------------------------------------------------------------------------- the command


@dataclass
class Site:
    """Where a server ran in which both accounts deleted something. It runs no more, unless a test starts it."""

    chatgpt: SimulatedChatGPT
    environ: dict[str, str]
    read: SimConversation
    """Of Alice's; its content was here, and its title would have broken the table."""

    async def run(self, *arguments: str) -> Finished:
        return await command("undelete", *arguments, environ=self.environ)


async def send(address: str, token: str, method: str, path: str) -> Any:
    """One request of a client."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{address}/conversations{path}", headers={"Authorization": token}) as response,
    ):
        return await response.json() if response.content_length else None


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Alice deleted what was read and what never was; Bob is not known yet."""
    chatgpt = SimulatedChatGPT(conversations=False)
    read = chatgpt.alice.add_conversation("Milk\n\x1b[31m & [b]eggs", [("What do I need?", "Milk.")], at=1_700_000_100)
    listed = chatgpt.alice.add_conversation("Only listed", at=1_700_000_000)
    async with chatgpt.serving() as base_url:
        environ = environment(tmp_path, base_url)
        async with started(environ=environ) as server:
            address, token = await server.address(), chatgpt.alice.token()
            await send(address, token, "GET", f"/{read.id}")
            for conversation in (listed, read):
                await send(address, token, "DELETE", f"/{conversation.id}")
        yield Site(chatgpt, environ, read)


async def test_the_command_lists_what_can_come_back(site: Site) -> None:
    """With no id: a line each, the newest deletion first, and no title steers the terminal."""
    shown = await site.run()
    assert (shown.status, shown.err) == (0, "")
    head, first, second = shown.out.splitlines()
    assert re.split(r" {3,}", head) == ["id", "deleted at", "until", "title"]
    assert re.fullmatch(rf"{site.read.id}   20\S+   20\S+   Milk  \[31m & \[b\]eggs", first)
    assert second.endswith("Only listed")


async def test_the_command_brings_one_back(site: Site) -> None:
    """A line for it; the other is still deleted."""
    back = await site.run(site.read.id)
    assert (back.status, back.err) == (0, "")
    assert back.out == f"{site.read.id} Milk  [31m & [b]eggs is back\n"
    assert site.read.id not in (await site.run()).out


async def test_an_id_that_is_named_twice_comes_back_once(site: Site) -> None:
    """With one line."""
    back = await site.run(site.read.id, site.read.id)
    assert (back.status, back.out.count("is back\n")) == (0, 1)


async def test_the_command_brings_all_back_through_the_running_server(site: Site) -> None:
    """What the server had rendered is not believed any more; where the content was never here, the line says so."""
    async with started(environ=site.environ) as server:
        address, token = await server.address(), site.chatgpt.alice.token()
        assert await send(address, token, "GET", "?deleted=none") == []
        back = await site.run("--all")
        assert back.status == 0
        first, second = back.out.splitlines()
        assert first.endswith("is back")
        assert second.endswith("Only listed is back; its content was never here")
        assert (await send(address, token, "GET", f"/{site.read.id}"))["deleted_upstream"] is True
        assert (await site.run("--all")).out == "nothing is deleted\n"
        assert (await site.run()).out == "none yet\n"


async def test_the_command_says_what_it_cannot_bring_back(site: Site) -> None:
    """One line, status 1, and nothing that was named beside it comes back either."""
    refused = await site.run(site.read.id, NEVER_HERE)
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == f"chatgpt_rest: no conversation {NEVER_HERE} is deleted here\n"
    assert site.read.id in (await site.run()).out


async def test_the_command_takes_ids_or_all(tmp_path: Path) -> None:
    """Both at once is a mistake that is told."""
    refused = await command("undelete", NEVER_HERE, "--all", environ=environment(tmp_path, NOWHERE))
    assert refused.status == 2
    assert "name conversations, or --all" in refused.err


async def test_the_command_asks_which_account_is_meant(site: Site) -> None:
    """Where there are several: the error names them, and with `--account` all goes as before."""
    async with started(environ=site.environ) as server:
        await send(await server.address(), site.chatgpt.bob.token(), "GET", "")
        refused = await site.run()
        assert (refused.status, refused.out) == (1, "")
        assert "there are several accounts; name one of them: " in refused.err
        assert site.chatgpt.bob.user_id in refused.err
        assert "Only listed" in (await site.run("--account", site.chatgpt.alice.user_id)).out
        assert (await site.run("--account", site.chatgpt.bob.user_id)).out == "none yet\n"


async def test_the_help_says_that_chatgpts_copy_stays_deleted(tmp_path: Path) -> None:
    """Nobody expects to go on asking in it."""
    shown = " ".join((await command("undelete", "--help", environ=environment(tmp_path, NOWHERE))).out.split())
    assert "ChatGPT's own copy stays deleted" in shown
    assert "readable here" in shown
