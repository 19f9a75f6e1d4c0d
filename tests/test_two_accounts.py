# SPDX-License-Identifier: GPL-2.0-or-later
"""Two accounts in one mirror, with the same conversation ids: neither ever sees, changes or removes the other's."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from chatgpt_rest.api.routes import API
from chatgpt_rest.context import Route
from chatgpt_rest.upstream.simulated import SimulatedChatGPT
from tests.house import Answered, Client, House, ManualClock, open_house

SHARED: Final = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"

RETRY: Final = {"X-Stainless-Retry-Count": "1"}
"""Has an OpenAI client's request answered by an earlier one of its account, where there is one."""

PICTURE: Final = "file_00000000c0ffee"

Act = Callable[[Client], Awaitable[Answered]]


def export() -> bytes:
    """One of Alice's: the conversation that she shares an id with, and a picture in it."""
    message = {
        "id": "m1",
        "author": {"role": "user"},
        "content": {
            "content_type": "multimodal_text",
            "parts": ["alice asks", {"content_type": "image_asset_pointer", "asset_pointer": f"sediment://{PICTURE}"}],
        },
    }
    conversation = {
        "id": SHARED,
        "title": "alice's title",
        "update_time": 1_800_000_000.5,
        "current_node": "m1",
        "mapping": {"m1": {"id": "m1", "message": message, "parent": None}},
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("conversations.json", json.dumps([conversation]))
        archive.writestr(f"{PICTURE}.dat", b"\x89PNG\r\n\x1a\n of alice")
    return content.getvalue()


async def import_export(client: Client) -> Answered:
    """To its end."""
    begun = await client.post("/import", data=export(), headers={"Content-Type": "application/zip"})
    assert begun.status == 202
    async with asyncio.timeout(30):
        job = await client.get(begun.json["url"])
        while job.json["state"] in {"waiting", "running"}:
            job = await client.get(begun.json["url"])
    assert job.json["state"] == "done"
    return job


async def cancel_import(client: Client) -> Answered:
    """One of hers, wherever it is by then."""
    begun = await client.post("/import", data=export(), headers={"Content-Type": "application/zip"})
    return await client.delete(begun.json["url"])


async def show_picture(client: Client) -> Answered:
    """A picture of hers, which comes with an import."""
    await import_export(client)
    return await client.get(f"/assets/{PICTURE}")


async def join_answer(client: Client) -> Answered:
    """In her conversation, where none is under way."""
    await client.get(f"/conversations/{SHARED}")
    return await client.get(f"/conversations/{SHARED}/stream")


ACTS: dict[str, Act] = {
    "GET /conversations": lambda client: client.get("/conversations?archived=all&deleted=all"),
    "POST /conversations/new": lambda client: client.post(
        "/conversations/new", data={"prompt": "alice asks", "title": "alice's title"}
    ),
    "POST /conversations/{id}/ask": lambda client: client.post(
        f"/conversations/{SHARED}/ask", data={"prompt": "alice asks"}, headers={"Idempotency-Key": "same"}
    ),
    "DELETE /conversations/all": lambda client: client.delete("/conversations/all"),
    "DELETE /conversations/{id}": lambda client: client.delete(f"/conversations/{SHARED}"),
    "GET /conversations/{id}/messages": lambda client: client.get(f"/conversations/{SHARED}/messages"),
    "GET /conversations/{id}/stream": join_answer,
    "GET /conversations/{id}": lambda client: client.get(f"/conversations/{SHARED}"),
    "PATCH /conversations/{id}": lambda client: client.patch(
        f"/conversations/{SHARED}", json={"title": "alice's title", "is_archived": True}
    ),
    "GET /conversations/{id}/export": lambda client: client.get(f"/conversations/{SHARED}/export?format=html"),
    "POST /import": lambda client: client.post("/import", data=export(), headers={"Content-Type": "application/zip"}),
    "GET /import/{job}": import_export,
    "DELETE /import/{job}": cancel_import,
    "GET /assets/{id}": show_picture,
    "GET /sync": lambda client: client.get("/sync"),
    "POST /sync": lambda client: client.post("/sync", json={"full": True}),
    "POST /v1/chat/completions": lambda client: client.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": "alice asks"}]}, headers=RETRY
    ),
    "GET /v1/models": lambda client: client.get("/v1/models"),
    "GET /v1/models/{model:.+}": lambda client: client.get("/v1/models/gpt-5"),
    "GET /budget": lambda client: client.get("/budget"),
}


@pytest.fixture
def both(house: House, chatgpt: SimulatedChatGPT) -> tuple[Client, Client]:
    """Alice's client and Bob's, who have a conversation of the same id each, with their own words in it."""
    for account, name in ((chatgpt.alice, "alice"), (chatgpt.bob, "bob")):
        account.add_conversation(f"{name}'s title", [(f"{name} asks", f"{name} reads")], conversation_id=SHARED)
    return house.client, house.client_of(chatgpt.bob)


async def views(client: Client) -> list[bytes]:
    """Everything a client can read, without what the reading itself changes."""
    paths = ["/conversations?archived=all&deleted=all", f"/conversations/{SHARED}", f"/conversations/{SHARED}/messages"]
    return [(await client.get(path)).body for path in paths]


def test_every_route_of_accounts_is_tried_here() -> None:
    """A new route cannot be added without being held to this."""
    assert set(ACTS) == {f"{route.method} {route.path}" for route in API if not route.is_public}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
async def test_what_one_does_changes_nothing_for_the_other(both: tuple[Client, Client], act: Act) -> None:
    """Bob reads the same bytes, none of them Alice's, before and after anything that Alice does."""
    alice, bob = both
    before = await views(bob)
    done = await act(alice)
    assert done.status in {200, 201, 202, 204}
    assert b"bob" not in done.body
    after = await views(bob)
    assert after == before
    assert all(b"bob" in view and b"alice" not in view for view in after)


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS.keys())
async def test_what_one_does_costs_the_other_nothing(
    both: tuple[Client, Client], house: House, chatgpt: SimulatedChatGPT, act: Act
) -> None:
    """Requests count in the budget of whom they are for."""
    alice, bob = both
    await views(bob)
    before = (await house.mirror.requests.budget(chatgpt.bob.user_id)).used
    await act(alice)
    assert (await house.mirror.requests.budget(chatgpt.bob.user_id)).used == before
    assert chatgpt.received(account=chatgpt.bob.user_id) == before


async def test_a_validator_of_one_is_none_of_the_others(both: tuple[Client, Client]) -> None:
    """An ETag that Alice was given does not tell Bob that his copy is still true."""
    alice, bob = both
    path = f"/conversations/{SHARED}/messages"
    etag = (await alice.get(path)).headers["ETag"]
    assert (await alice.get(path, headers={"If-None-Match": etag})).status == 304
    answer = await bob.get(path, headers={"If-None-Match": etag})
    assert answer.status == 200
    assert b"alice" not in answer.body


async def test_an_idempotency_key_belongs_to_its_account(
    both: tuple[Client, Client], chatgpt: SimulatedChatGPT
) -> None:
    """Bob's request under a key that Alice used is a request of its own."""
    alice, bob = both
    answers = [
        await client.post("/conversations/new", data={"prompt": "Hello?"}, headers={"Idempotency-Key": "same"})
        for client in (alice, bob)
    ]
    assert len({answer.json["response"]["conversation_id"] for answer in answers}) == 2
    assert [chatgpt.received("POST", account=one.user_id) for one in (chatgpt.alice, chatgpt.bob)] == [1, 1]


async def test_a_retry_finds_answers_of_its_account_alone(
    both: tuple[Client, Client], chatgpt: SimulatedChatGPT
) -> None:
    """Bob's client, which tries again what Alice has asked, gets an answer of his own."""
    alice, bob = both
    body = {"messages": [{"role": "user", "content": "Hello?"}]}
    answers = [
        await client.post("/v1/chat/completions", json=body, headers=headers)
        for client, headers in ((alice, {}), (bob, RETRY), (alice, RETRY))
    ]
    assert answers[0].json["id"] == answers[2].json["id"] != answers[1].json["id"]
    assert [chatgpt.received("POST", account=one.user_id) for one in (chatgpt.alice, chatgpt.bob)] == [1, 1]


async def test_a_history_of_one_is_unknown_to_the_other(both: tuple[Client, Client], chatgpt: SimulatedChatGPT) -> None:
    """The same words that go on in Alice's conversation begin a new one of Bob's."""
    alice, bob = both
    first = {"role": "user", "content": "Hello?"}
    said = await alice.post("/v1/chat/completions", json={"messages": [first]})
    messages = [first, said.json["choices"][0]["message"], {"role": "user", "content": "And then?"}]
    answers = [await client.post("/v1/chat/completions", json={"messages": messages}) for client in (alice, bob)]
    ids = [answer.headers["X-Conversation-Id"] for answer in (said, *answers)]
    assert ids[0] == ids[1] != ids[2]
    assert ids[2] in {conversation.id for conversation in chatgpt.bob.conversations}


async def test_an_import_of_one_is_nothing_to_the_other(both: tuple[Client, Client]) -> None:
    """Neither the job nor the picture that it brought exists for Bob."""
    alice, bob = both
    job = await import_export(alice)
    for path in (f"/import/{job.json['job']}", f"/assets/{PICTURE}"):
        assert (await alice.get(path)).status == 200
        assert (await bob.get(path)).status == 404
    assert (await bob.delete(f"/import/{job.json['job']}")).status == 404


async def test_a_deletion_of_one_is_no_tombstone_for_the_other(both: tuple[Client, Client]) -> None:
    """Alice deletes the conversation before Bob has ever read it: he still can."""
    alice, bob = both
    assert (await alice.delete(f"/conversations/{SHARED}")).status == 204
    assert b"bob reads" in (await bob.get(f"/conversations/{SHARED}/messages")).body


async def test_an_absence_for_one_is_none_for_the_other(house: House, chatgpt: SimulatedChatGPT) -> None:
    """That Alice has no such conversation is not remembered against Bob."""
    chatgpt.bob.add_conversation("bob's", [("a", "b")], conversation_id=SHARED)
    assert (await house.client.get(f"/conversations/{SHARED}")).status == 404
    assert (await house.client_of(chatgpt.bob).get(f"/conversations/{SHARED}")).status == 200


@pytest.fixture
async def bobs_alone(
    tmp_path: Path, chatgpt: SimulatedChatGPT, base_url: str, clock: ManualClock
) -> AsyncIterator[House]:
    """A mirror that holds a conversation of Bob's, and none of Alice's."""
    chatgpt.bob.add_conversation("bob's title", [("bob asks", "bob reads")], conversation_id=SHARED)
    async with open_house(tmp_path, chatgpt, base_url, clock) as house:
        await views(house.client_of(chatgpt.bob))
        yield house


@pytest.mark.parametrize(
    "route", [route for route in API if "{id}" in route.path], ids=lambda route: f"{route.method} {route.path}"
)
async def test_anothers_conversation_does_not_exist(bobs_alone: House, chatgpt: SimulatedChatGPT, route: Route) -> None:
    """Every route that names a conversation answers 404 to whom it does not belong to, and nothing of it."""
    body = {"prompt": "?", "title": "stolen"} if route.method in {"POST", "PATCH"} else None
    answer = await bobs_alone.client.request(route.method, route.path.replace("{id}", SHARED), data=body)
    assert answer.status == 404
    assert b"bob" not in answer.body
    (conversation,) = chatgpt.bob.conversations
    assert conversation.title == "bob's title"
