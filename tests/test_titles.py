# SPDX-License-Identifier: GPL-2.0-or-later
"""The title of a new conversation: set upstream and here, and kept until upstream has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chatgpt_rest.app import push_titles
from chatgpt_rest.upstream.simulated import ReceivedRequest, SimulatedChatGPT
from tests.house import Answered, Client, House, ManualClock, open_house


async def ask(client: Client, prompt: str, **fields: Any) -> Answered:
    """Ask in a new conversation."""
    return await client.post("/conversations/new", json={"prompt": prompt, **fields})


def sent(request: ReceivedRequest) -> Any:
    """The JSON that a request carried."""
    return json.loads(request.body)


async def test_a_title_is_set_upstream_and_here(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """`title` costs one more request, whose body holds nothing else."""
    await ask(client, "Hello?", title='"Quoted", "is_visible": false')
    (there,) = chatgpt.alice.conversations
    patches = [request for request in chatgpt.requests if request.method == "PATCH"]
    assert [sent(request) for request in patches] == [{"title": '"Quoted", "is_visible": false'}]
    assert (there.title, there.is_visible) == ('"Quoted", "is_visible": false', True)
    assert [entry["title"] for entry in (await client.get("/conversations")).json] == [there.title]


async def test_a_title_that_could_not_be_set_is_pushed_later(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """Where the budget was spent on the answer, the title shows here and reaches upstream when a token is back."""
    spent = {"rate_limit__requests_per_hour": "2"}
    async with open_house(tmp_path, chatgpt, base_url, clock, **spent) as house:
        assert (await ask(house.client, "Hello?", title="Mine")).status == 201
        token = house.client.authorization
    (there,) = chatgpt.alice.conversations
    assert there.title != "Mine"
    async with open_house(tmp_path, chatgpt, base_url, clock, **spent) as house:
        listed = await house.client.as_(token).get("/conversations")
        assert [entry["title"] for entry in listed.json] == ["Mine"]
        await push_titles(house.app, leave=0)
        assert chatgpt.received("PATCH") == 0
        clock.move(seconds=3601)
        await push_titles(house.app, leave=0)
        await push_titles(house.app, leave=0)
    assert (there.title, chatgpt.received("PATCH")) == ("Mine", 1)


async def test_titles_leave_a_reserve_to_people(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> None:
    """A title waits while pushing it would take one of the tokens that are people's."""
    async with open_house(tmp_path, chatgpt, base_url, clock, rate_limit__requests_per_hour="12") as house:
        chatgpt.fault("conversation/*", method="PATCH", times=1, error="server_error")
        await ask(house.client, "Hello?", title="Mine")
        await push_titles(house.app, leave=10)
        assert chatgpt.received("PATCH") == 1
        clock.move(seconds=61)  # what did not get through rests for a minute
        await push_titles(house.app, leave=8)
    assert (chatgpt.alice.conversations[0].title, chatgpt.received("PATCH")) == ("Mine", 2)


async def test_a_title_that_upstream_never_takes_is_not_pushed_for_ever(
    house: House, chatgpt: SimulatedChatGPT
) -> None:
    """A title that upstream finds wrong costs one request, not one a minute."""
    chatgpt.fault("conversation/*", method="PATCH", error="invalid")
    assert (await ask(house.client, "Hello?", title="Wrong")).status == 201
    await push_titles(house.app, leave=0)
    assert chatgpt.received("PATCH") == 1


async def test_upstream_s_own_title_shows_where_none_was_wished(client: Client, chatgpt: SimulatedChatGPT) -> None:
    """A title that comes in mid-stream is the conversation's."""
    chatgpt.fault("conversation", stream="title_event")
    await ask(client, "Hello?")
    (there,) = chatgpt.alice.conversations
    assert [entry["title"] for entry in (await client.get("/conversations")).json] == [there.title]
